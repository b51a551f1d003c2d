"""The command line. Parses, builds settings, calls one function; heavy packages load inside the commands."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

INTERRUPTED = 130

app = typer.Typer(
    name="biomass",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Pasture biomass from photographs: check data, search, compare, blend, submit.\n\n"
    "Exit codes: 0 done, 1 bad input (the message says what to do), 2 wrong usage, 130 stopped (the same command "
    "goes on).",
)
data_app = typer.Typer(no_args_is_help=True, help="Check, draw and show data directories.")
submission_app = typer.Typer(no_args_is_help=True, help="Check submission files.")
app.add_typer(data_app, name="data")

out_console, err_console = Console(), Console(stderr=True)

Study = Annotated[str, typer.Argument(help="Study folder, or a URI such as s3://bucket/study.")]
Directory = Annotated[Path, typer.Argument(help="Data directory: train.csv, test.csv and photographs.")]
DataOption = Annotated[Path, typer.Option("--data", help="Data directory: train.csv, test.csv and photographs.")]
Cache = Annotated[Path, typer.Option("--cache", help="Feature cache, on this node's own disk.", envvar="BIOMASS_CACHE")]
CacheGb = Annotated[
    float | None, typer.Option(min=0.001, help="Most GB in the cache; what was not used longest goes first.")
]
Address = Annotated[str | None, typer.Option(help="Ray cluster to attach to (or RAY_ADDRESS); without it, embedded.")]
Weights = Annotated[
    str, typer.Option(help="Backbone weights: auto (package, $BIOMASS_WEIGHTS, hub), random (tests), or a folder.")
]
DEFAULT_CACHE = Path("~/.cache/biomass")


def main() -> None:
    """Run the command line; a known error becomes one paragraph and exit code 1."""
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("BIOMASS_DEBUG"):
            raise
        err_console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def _say(text: str) -> None:
    err_console.print(text, markup=False, highlight=False, soft_wrap=True)


def _print(text: str) -> None:
    out_console.print(text, markup=False, highlight=False, soft_wrap=True)


def _resources(cache: Path, address: str | None, **more: Any) -> Any:
    from orchestration.search import Resources

    return Resources(cache_dir=cache, address=address, **more)


def _source(weights: str) -> Any:
    from biomass_models.weights import WeightsSource

    return WeightsSource(kind=weights) if weights in ("auto", "random") else WeightsSource("folder", Path(weights))


def _shares(asked: list[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Families and their shares of the trials; no shares where none was given."""
    pairs = {name: share for name, _, share in (text.partition("=") for text in asked)}
    try:
        shares = tuple(float(share or 1) for share in pairs.values())
        if "" in pairs or not all(map(math.isfinite, shares)):
            raise ValueError
    except ValueError:
        raise ValueError(f"a family is given as NAME or NAME=SHARE, such as probe=2, got {asked}") from None
    return tuple(pairs), shares if any(pairs.values()) else ()


def _stopped() -> None:
    _say("Stopped. Every finished fold is kept; the same command goes on from here.")
    raise typer.Exit(INTERRUPTED)


@data_app.command("check")
def data_check(directory: Directory) -> None:
    """List every problem of a data directory at once. Example: biomass data check csiro-biomass/"""
    from biomass_models.check import check_directory
    from biomass_models.problems import errors_of
    from orchestration.progress import progress_bar

    with progress_bar("Checking images") as update:
        problems = check_directory(directory, on_progress=lambda done, total: update(done, total, ""))
    for problem in problems:
        out_console.print(str(problem), markup=False, highlight=False, soft_wrap=True)
    errors = errors_of(problems)
    out_console.print(f"{len(errors)} errors, {len(problems) - len(errors)} warnings in {directory}", soft_wrap=True)
    if errors:
        raise typer.Exit(1)


@data_app.command("make")
def data_make(
    directory: Directory,
    images: Annotated[int, typer.Option(min=1, help="Training images.")] = 357,
    test_images: Annotated[int, typer.Option(min=0, help="Test images, of other dates.")] = 120,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    like: Annotated[Path | None, typer.Option(help="Draw one image for each row of this train.csv.")] = None,
) -> None:
    """Draw a pasture set with known masses. Example: biomass data make pasture/ --images 357"""
    from biomass_models.pasture import make_pasture
    from orchestration.progress import progress_bar

    with progress_bar("Drawing pasture") as update:
        summary = make_pasture(
            directory,
            images=images,
            test_images=test_images,
            seed=seed,
            like=like,
            on_progress=lambda done, total: update(done, total, ""),
        )
    out_console.print(f"{summary}", markup=False, highlight=False, soft_wrap=True)


@data_app.command("show")
def data_show(
    directory: Directory,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("contact-sheet.png"),
    images: Annotated[int, typer.Option(min=1)] = 24,
) -> None:
    """Write a contact sheet. Example: biomass data show pasture/ --out sheet.png"""
    from biomass_models.pasture import contact_sheet

    contact_sheet(directory, out, images=images)
    out_console.print(f"Wrote {out}", soft_wrap=True)


@app.command()
def search(
    study: Study,
    data: DataOption,
    family: Annotated[list[str] | None, typer.Option(help="Family, or FAMILY=SHARE of the trials; repeat.")] = None,
    backbone: Annotated[list[str] | None, typer.Option(help="timm backbone; repeat for several.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials of the whole study.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="Start no trial after this time.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    scheme: Annotated[str, typer.Option(help="Folds: date, random, state, species.")] = "date",
    fold_file: Annotated[Path | None, typer.Option(help="Own folds: a CSV image_id,fold.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    scale: Annotated[str, typer.Option(help="Ranges: auto, smoke, demo, cpu, gpu.")] = "auto",
    weights: Weights = "auto",
    max_fold_seconds: Annotated[float, typer.Option(min=1, help="Refuse dearer folds, by estimate.")] = 1800.0,
    cpus_per_fold: Annotated[float, typer.Option(min=0.1, help="CPUs of a slot.")] = 1.0,
    gpus_per_fold: Annotated[float | None, typer.Option(min=0.0, help="GPUs of a slot; default 1 if any.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Use at most so many slots.")] = None,
    prune: Annotated[str, typer.Option(help="Stop hopeless trials after a fold: off, default, strict.")] = "default",
    fold_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds without a sign of life (features apart) before a fold counts as hung.")
    ] = 7200.0,
    folds_together: Annotated[
        bool | None, typer.Option("--folds-together/--folds-apart", help="Frozen heads in one batch; default on GPUs.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Take failed trials up again.")] = False,
    cache: Cache = DEFAULT_CACHE,
    cache_gb: CacheGb = None,
    address: Address = None,
) -> None:
    """Search for good models; the same command goes on with an unfinished study.

    Example: biomass search runs/first --data csiro-biomass/ --family baseline --family distilled --trials 40
    """
    if trials is None and hours is None:
        raise typer.BadParameter("a search needs an end: give --trials N or --hours H")
    from orchestration.search import available_backbones, has_gpu, run_search
    from orchestration.study import StudySettings

    resources = _resources(
        cache,
        address,
        cpus_per_fold=cpus_per_fold,
        gpus_per_fold=gpus_per_fold,
        max_slots=slots,
        fold_timeout=fold_timeout,
        cache_gb=cache_gb,
        folds_together=folds_together,
    )
    source = _source(weights)
    found = available_backbones(tuple(backbone or ()), source, _say)
    families, shares = _shares(family or ["baseline", "distilled", "probe"])
    settings = StudySettings(
        families=families,
        shares=shares,
        backbones=tuple(found),
        weights=source.kind,
        scale=scale if scale != "auto" else "gpu" if has_gpu(resources) else "cpu",
        scheme="file" if fold_file else scheme,
        n_folds=folds,
        seed=seed,
        max_fold_seconds=max_fold_seconds,
    )
    finished = run_search(
        study,
        data,
        settings,
        fold_file=fold_file,
        weights=source,
        fingerprints=found,
        resources=resources,
        max_trials=trials,
        hours=hours,
        say=_say,
        prune=prune,
        retry_failed=retry_failed,
    )
    if not finished:
        _stopped()
    out_console.print(f"Finished. Next: biomass leaderboard {study}", soft_wrap=True)


@app.command()
def leaderboard(
    study: Study,
    top: Annotated[int, typer.Option(min=0, help="Trials to show; 0 = all.")] = 20,
) -> None:
    """Compare trials and references. Example: biomass leaderboard runs/first"""
    from orchestration.leaderboard import leaderboard as make_leaderboard
    from orchestration.leaderboard import render_families, render_leaderboard
    from orchestration.ledger import open_ledger

    rows = make_leaderboard(open_ledger(study))
    out_console.print(render_leaderboard(rows, top or None))
    out_console.print(render_families(rows))


@app.command()
def status(study: Study) -> None:
    """How a search stands, from its files alone. Example: biomass status runs/first"""
    from orchestration.ledger import open_ledger
    from orchestration.status import render_status, status_of

    _print(render_status(status_of(open_ledger(study))))


@app.command()
def audit(
    study: Study,
    refit: Annotated[int, typer.Option(min=0, help="Fit so many complete trials again and compare bit for bit.")] = 0,
    data: Annotated[Path | None, typer.Option(help="Data directory, for --refit.")] = None,
    weights: Weights = "auto",
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Prove from the files alone that nothing was lost or repeated. Example: biomass audit runs/first"""
    from orchestration.audit import audit as audit_study
    from orchestration.audit import refit as refit_trials
    from orchestration.ledger import open_ledger

    if refit and data is None:
        raise typer.BadParameter("--refit needs the photographs: give --data DIR")
    ledger = open_ledger(study)
    found = audit_study(ledger)
    if refit and data is not None:
        found.problems += refit_trials(ledger, data, sample=refit, cache_dir=cache, weights=_source(weights), say=_say)
    _print(str(found))
    if not found.clean:
        raise typer.Exit(1)


@app.command()
def doctor(
    study: Annotated[str | None, typer.Argument(help="Where the study shall lie: is it there for every node?")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data directory, to check it on every node and time a pilot.")
    ] = None,
    family: Annotated[list[str] | None, typer.Option(help="Model family; repeat for several.")] = None,
    backbone: Annotated[list[str] | None, typer.Option(help="timm backbone; repeat for several.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials planned.")] = 60,
    folds: Annotated[int, typer.Option(min=2)] = 5,
    scale: Annotated[str, typer.Option(help="Ranges: auto, smoke, demo, cpu, gpu.")] = "auto",
    weights: Weights = "auto",
    cpus_per_fold: Annotated[float, typer.Option(min=0.1, help="CPUs of a slot.")] = 1.0,
    gpus_per_fold: Annotated[float | None, typer.Option(min=0.0, help="GPUs of a slot; default 1 if any.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Use at most so many slots.")] = None,
    cache: Cache = DEFAULT_CACHE,
    address: Address = None,
) -> None:
    """Check machine or cluster, and say what the study will roughly cost.

    Example: biomass doctor runs/first --data csiro-biomass/ --trials 60
    """
    from orchestration.doctor import Plan, run_doctor
    from orchestration.search import available_backbones

    source = _source(weights)
    resources = _resources(cache, address, cpus_per_fold=cpus_per_fold, gpus_per_fold=gpus_per_fold, max_slots=slots)
    plan = Plan(
        study=study,
        data_dir=data,
        weights=source,
        families=tuple(dict.fromkeys(family or ("baseline", "distilled", "probe"))),
        backbones=tuple(available_backbones(tuple(backbone or ()), source, _say)),
        scale=scale,
        trials=trials,
        folds=folds,
    )
    if not run_doctor(plan, resources, _print):
        raise typer.Exit(1)


@app.command()
def replay(
    study: Study,
    prune: Annotated[str, typer.Option(help="Rule to try: default or strict.")] = "default",
) -> None:
    """What a pruning rule would have saved and cost. Example: biomass replay runs/first --prune default"""
    from orchestration.ledger import open_ledger
    from orchestration.replay import render_replay
    from orchestration.replay import replay as replay_study

    _print(render_replay(replay_study(open_ledger(study), prune, _say)))


@app.command()
def ensemble(
    study: Annotated[list[str] | None, typer.Argument(help="Study folders or URIs; none to blend files only.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data directory whose test.csv is to be predicted.")] = None,
    out: Annotated[Path | None, typer.Option(help="Submission file (.csv), or a folder.")] = None,
    oof: Annotated[list[str] | None, typer.Option(help="Out-of-fold predictions: a pattern, in quotes.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Measured masses for --oof: train.csv, or a wide table.")] = None,
    groups: Annotated[str, typer.Option(help="Its columns that are never split.")] = "Sampling_Date,State",
    test_predictions: Annotated[list[str] | None, typer.Option(help="Files of test predictions, a pattern.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Nests, where --truth has no column fold.")] = 5,
    rule: Annotated[str, typer.Option(help="Blending rule.")] = "default",
    candidates: Annotated[int, typer.Option(min=1, help="Submissions: the best, the most different as good.")] = 1,
    post: Annotated[list[str] | None, typer.Option(help="Try per-target, calibration, zeros; used if better.")] = None,
    flips: Annotated[int, typer.Option(help="Try 2, 4 or 8 test-time flips; used if they gain.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of dealt nests and bags, where there is no study.")] = 0,
    weights: Weights = "auto",
    cache: Cache = DEFAULT_CACHE,
    address: Address = None,
) -> None:
    """Blend trials of studies, anybody's out-of-fold files, or both; write cards and submissions.

    Example: biomass ensemble runs/first --data csiro-biomass/ --out submission.csv

    Example: biomass ensemble --oof 'runs/*.csv' --truth train.csv --test-predictions 'runs_test/*.csv' --out blend/
    """
    from ensembles.card_page import render_card
    from orchestration.blending import BlendOptions, run_ensemble
    from orchestration.members import FileMembers

    def open_predictor(data_dir: Path) -> Any:
        from orchestration.predict import Predictor

        return Predictor(data_dir, resources=_resources(cache, address), weights=_source(weights))

    columns = tuple(name.strip() for name in groups.split(",") if name.strip())
    out = out or Path("submission.csv" if study and data else "ensemble")
    written = run_ensemble(
        study or [],
        FileMembers(
            oof=tuple(oof or ()), truth=truth, groups=columns, folds=folds, tests=tuple(test_predictions or ())
        ),
        data_dir=data,
        out=out,
        options=BlendOptions(rule=rule, candidates=candidates, follow_ups=tuple(post or ()), flips=flips),
        seed=seed,
        open_predictor=open_predictor,
        say=_say,
        show=lambda card: out_console.print(render_card(card)),
    )
    for path in written:
        out_console.print(f"Submission{', valid' if data else ''}: {path}", soft_wrap=True)
    if not written:
        out_console.print(f"Card: {out / 'ensemble.json'}", soft_wrap=True)


@app.command()
def explain(
    study: Study,
    trial: Annotated[str, typer.Argument(help="Trial id, as the leaderboard shows it.")],
    image: Annotated[str, typer.Option(help="Image id of train.csv or test.csv.")],
    data: DataOption,
    out: Annotated[Path | None, typer.Option(help="Picture to write; IMAGE-TRIAL.png without it.")] = None,
    weights: Weights = "auto",
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Say what a trial predicts for one image, and draw where it looked.

    Example: biomass explain runs/first 3f09c1d2ab --image ID1011485656 --data csiro-biomass/
    """
    from orchestration.explain import draw_explanation, render_explanation
    from orchestration.explain import explain as explain_image
    from orchestration.ledger import open_ledger

    found = explain_image(
        open_ledger(study), trial, image, data, cache_dir=cache.expanduser(), weights=_source(weights)
    )
    out_console.print(render_explanation(found))
    picture = out or Path(Path(f"{image}-{trial}.png").name)
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_explanation(found).save(picture, "PNG")
    out_console.print(f"Wrote {picture}", soft_wrap=True)


@app.command()
def export(
    study: Study,
    name: Annotated[str, typer.Argument(help="Ensemble: the stem of the submission that `ensemble` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to write, new or empty.")] = Path("bundle"),
    with_weights: Annotated[bool, typer.Option(help="Copy the backbones' weights; read their licence first.")] = False,
    weights: Weights = "auto",
) -> None:
    """Pack a blend for a notebook without network: code, models, predict.py.

    Example: biomass export runs/first submission --out bundle/
    """
    from orchestration.export import export_bundle

    needed = export_bundle(study, name, out, weights=_source(weights), with_weights=with_weights)
    for entry in needed:
        if entry["file"] is not None and not with_weights:
            text = f"Put {entry['file']} ({entry['bytes']} bytes, sha256 {entry['sha256']}) into {out / 'weights'}"
            out_console.print(text, markup=False, highlight=False, soft_wrap=True)
    out_console.print(f"Bundle: {out}. There: python predict.py DATA_DIR submission.csv", soft_wrap=True)


app.add_typer(submission_app, name="submission")


@submission_app.command("check")
def submission_check(file: Annotated[Path, typer.Argument(help="Submission file.")], data: DataOption) -> None:
    """Validate a submission. Example: biomass submission check submission.csv --data csiro-biomass/"""
    from ensembles.submission import check_submission

    problems = check_submission(file, data)
    for problem in problems:
        out_console.print(str(problem), markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)
    out_console.print(f"{file} is valid", soft_wrap=True)


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="Predictions: a CSV sample_id,target.")],
    truth: Annotated[Path, typer.Option(help="Measured masses: a CSV sample_id,target.")],
) -> None:
    """The competition's weighted R2. Example: biomass score submission.csv --truth pasture-truth.csv"""
    from biomass_models.table import read_masses
    from biomass_models.targets import TARGETS, weighted_r2_score

    measured, predicted = read_masses(truth), read_masses(file)
    absent = measured.index.difference(predicted.index)
    if len(absent):
        raise ValueError(f"every image of {truth} needs a prediction, {file} lacks {len(absent)}, such as {absent[0]}")
    value = weighted_r2_score(measured[list(TARGETS)], predicted.loc[measured.index, list(TARGETS)])
    out_console.print(f"{value:.6f}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for data, study and submission.")] = Path("demo"),
    recipe: Annotated[str, typer.Option(help="demo, or smoke for a tiny one.")] = "demo",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """The whole way on a generated pasture, in minutes. Example: biomass demo"""
    from orchestration.demo import run_demo
    from orchestration.recipes import RECIPES

    if recipe not in RECIPES:
        raise typer.BadParameter(f"a recipe is one of {', '.join(RECIPES)}, got {recipe!r}")
    if not run_demo(folder, RECIPES[recipe](seed), _resources(cache, None), out_console, _say):
        _stopped()
