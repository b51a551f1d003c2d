"""Commands on what a study found: blend it, explain it, take it away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.commands import complete
from orchestration.commands.options import (
    DEFAULT_CACHE,
    Address,
    Cache,
    DataOption,
    Inline,
    Json,
    OptionalData,
    Study,
    Trial,
    Weights,
    local_cache,
    out_console,
    out_file,
    out_folder,
    print_json,
    print_line,
    print_remark,
    reachable,
    typed_weights,
)
from orchestration.interrupts import RESUMES, say_way_back
from orchestration.workers.resources import Resources

if TYPE_CHECKING:
    from ensembles.card import Card
    from orchestration.blending.budget import Budget

FILES, TRIED, PAID = "Members that come as files", "How to blend", "Within a budget"  # headings of the help page


def ensemble(
    study: Annotated[
        list[str] | None, typer.Argument(metavar="STUDY", help="Study folders or URIs; none to blend files only.")
    ] = None,
    data: OptionalData = None,
    out: Annotated[Path | None, typer.Option(help="Submission file (.csv), or a folder.")] = None,
    oof: Annotated[
        list[str] | None, typer.Option(help="Out-of-fold predictions: a pattern, in quotes.", rich_help_panel=FILES)
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="Measured masses: a data directory, train.csv, or a wide table.", rich_help_panel=FILES),
    ] = None,
    groups: Annotated[
        str, typer.Option(help="Columns of --truth that name a group; groups are never split.", rich_help_panel=FILES)
    ] = "Sampling_Date,State",
    test_predictions: Annotated[
        list[str] | None, typer.Option(help="Files of test predictions, a pattern.", rich_help_panel=FILES)
    ] = None,
    folds: Annotated[
        int,
        typer.Option(min=2, help="Folds to deal groups into, where --truth has no column fold.", rich_help_panel=FILES),
    ] = 5,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Seed for folds, nests and bags when only files are blended.", rich_help_panel=FILES),
    ] = 0,
    rule: Annotated[
        str,
        typer.Option(
            help="Blending rule: default, single-best, top-K, greedy, ... (list: press Tab).",
            autocompletion=complete.blend_rules,
            rich_help_panel=TRIED,
        ),
    ] = "default",
    candidates: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of submissions: the rule's, then the most different ones of equal score.",
            rich_help_panel=TRIED,
        ),
    ] = 1,
    post: Annotated[
        list[str] | None,
        typer.Option(
            help="Try per-target, calibration, zeros, state; used if better.",
            autocompletion=complete.follow_ups,
            rich_help_panel=TRIED,
        ),
    ] = None,
    flips: Annotated[
        int, typer.Option(help="Try 2, 4 or 8 test-time flips; used if they gain.", rich_help_panel=TRIED)
    ] = 1,
    all_rows: Annotated[
        str,
        typer.Option(
            help="Predict by members fitted on all rows: none, instead or beside.",
            autocompletion=complete.all_rows,
            rich_help_panel=TRIED,
        ),
    ] = "none",
    budget_minutes: Annotated[
        float | None,
        typer.Option(help="Most minutes that predicting --images may take on a slot.", rich_help_panel=PAID),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(help="Photographs to predict.", show_default="those of --data", rich_help_panel=PAID),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Profiled machine, or how its name begins (doctor --profile).",
            show_default="this one",
            rich_help_panel=PAID,
        ),
    ] = None,
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
    address: Address = None,
    inline: Inline = False,
    as_json: Json = False,
) -> None:
    """Blend trials of studies, out-of-fold files of any origin, or both.

    Writes cards and submissions. What was predicted is kept: if it was stopped,
    run the same command again to resume.

    Examples:
    $ biomass ensemble runs/first --data csiro-biomass/ --out submission.csv
    $ biomass ensemble --oof 'runs/*.csv' --truth train.csv --out blend/
    $ biomass ensemble runs/first --budget-minutes 30 --images 800
    """
    say_way_back(RESUMES)
    from biomass_models.data.table import TEST_FILE
    from ensembles.card_page import render_card
    from ensembles.submission import is_submission
    from orchestration.blending.blend import BlendOptions, run_ensemble
    from orchestration.blending.members import FileMembers

    resources = Resources(cache=cache, address=address, inline=inline, fold_timeout=None)  # its jobs are no folds

    def open_predictor(data_dir: Path) -> Any:
        from orchestration.blending.predict import Predictor

        return Predictor(data_dir, resources=reachable(resources), weights=typed_weights(weights))

    cards: list[dict[str, Any]] = []

    def show(card: Card, beside: Sequence[str], labels: Mapping[str, str]) -> None:
        if as_json:
            cards.append(card.to_json())
        else:
            out_console.print(render_card(card, beside, labels))

    columns = tuple(name.strip() for name in groups.split(",") if name.strip())
    out = out or Path("submission.csv" if study and data and (data / TEST_FILE).exists() else "ensemble")
    written = run_ensemble(
        study or [],
        FileMembers(
            oof=tuple(oof or ()), truth=truth, groups=columns, folds=folds, tests=tuple(test_predictions or ())
        ),
        data_dir=data,
        out=out,
        options=BlendOptions(
            rule=rule,
            candidates=candidates,
            follow_ups=tuple(post or ()),
            flips=flips,
            all_rows=all_rows,
            budget=_budget(budget_minutes, images, device, data),
        ),
        seed=seed,
        open_predictor=open_predictor,
        say=print_remark,
        show=show,
    )
    if as_json:
        print_json({"cards": cards, "submissions": written, "out": out})
        return
    for path in written:
        if is_submission(path):
            print_line(f"Submission{', valid' if data else ''}: {path}")
        else:
            print_line(f"Masses, one row a photograph: {path}")
    if not written:
        print_line(f"Card: {out / 'ensemble.json'}")


def _budget(minutes: float | None, images: int | None, device: str | None, data: Path | None) -> Budget | None:
    """Half of one is wrong usage."""
    from orchestration.blending.budget import HalfBudget, asked_budget

    try:
        return asked_budget(minutes, images, device, data)
    except HalfBudget as error:
        raise typer.BadParameter(str(error)) from None


def exam(
    study: Study,
    data: DataOption,
    ensemble: Annotated[
        str | None, typer.Option(metavar="NAME", help="Stored ensemble to examine; the newest without it.")
    ] = None,
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
    address: Address = None,
    inline: Inline = False,
    as_json: Json = False,
) -> None:
    """Score a blend on the dates that biomass search --exam held out.

    Each look is noted in the study and shown: a blend that is chosen by its exam
    is flattered by it.

    Example:
    $ biomass exam runs/first --data csiro-biomass/
    """
    resources = Resources(cache=cache, address=address, inline=inline, fold_timeout=None)
    from orchestration.study.ledger import open_ledger

    ledger = open_ledger(study)
    from orchestration.blending.exam import exam_lines, examine
    from orchestration.blending.predict import Predictor

    record = examine(ledger, Predictor(data, resources=reachable(resources), weights=typed_weights(weights)), ensemble)
    if as_json:
        print_json({"exam": record, "looks": sum(len(one.looks) for one in ledger.exams())})
        return
    for line in exam_lines(record, ledger.exams()):
        print_line(line)


def explain(
    study: Study,
    trial: Trial,
    image: Annotated[str, typer.Option(help="Image id of train.csv or test.csv.")],
    data: DataOption,
    out: Annotated[Path | None, typer.Option(help="Picture to write; IMAGE-TRIAL.png without it.")] = None,
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
    as_json: Json = False,
) -> None:
    """Say what a trial predicts for one image, and draw where it looked.

    Example:
    $ biomass explain runs/first 3f09c1d2ab --image ID1011485656 \\
        --data csiro-biomass/
    """
    if out is not None:
        out_file(out, ".png")
    from biomass_models.whole_files import whole_file
    from orchestration.study.ledger import open_ledger

    ledger, source = open_ledger(study), typed_weights(weights)
    trial_id = ledger.trial(ledger.trial_id(trial)).trial_id
    picture = out or Path(Path(f"{image}-{trial_id}.png").name)
    from orchestration.inspect.explain import draw_explanation, render_explanation
    from orchestration.inspect.explain import explain as explain_image

    found = explain_image(ledger, trial_id, image, data, cache_dir=local_cache(cache), weights=source)
    if not as_json:
        out_console.print(render_explanation(found))
    with whole_file(picture) as unfinished:
        draw_explanation(found).save(unfinished, "PNG")
    if as_json:
        print_json(found.to_json() | {"picture": picture})
    else:
        print_line(f"Wrote {picture}")


def export(
    study: Study,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Ensemble: the stem of the submission that `ensemble` wrote.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write, new or empty.")] = Path("bundle"),
    with_weights: Annotated[bool, typer.Option(help="Copy the backbones' weights; read their licence first.")] = False,
    all_rows: Annotated[
        str | None,
        typer.Option(
            help="Models fitted on all rows: none, instead or beside.",
            show_default="as the ensemble",
            autocompletion=complete.all_rows,
        ),
    ] = None,
    data: OptionalData = None,
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
    address: Address = None,
    inline: Inline = False,
) -> None:
    """Pack a blend for a notebook without network: code, models, predict.py.

    With --data, models on all rows that are missing are fitted first.

    Examples:
    $ biomass export runs/first submission --out bundle/
    $ biomass export runs/first submission --all-rows instead --data csiro-biomass/
    """
    out_folder(out)
    from biomass_models.config_rules import known_name
    from biomass_models.fold_rows import ALL_ROWS, NONE
    from orchestration.blending.budget import require_fold_models
    from orchestration.study.ledger import open_ledger

    source = typed_weights(weights)
    ensemble = open_ledger(study).ensemble(name)
    asked = known_name("--all-rows", all_rows or ensemble.card.get("all_rows", NONE), ALL_ROWS)
    require_fold_models(ensemble.card.get("budget"), asked)  # before models are fitted
    if asked != NONE and data is not None:
        from orchestration.blending.predict import Predictor

        resources = Resources(cache=cache, address=address, inline=inline, fold_timeout=None)
        members = {member: ref for member, ref in ensemble.trials.items() if member in ensemble.card["members"]}
        Predictor(data, resources=reachable(resources), weights=source).fit_on_all_rows(members)
    from orchestration.bundle.export import export_bundle
    from orchestration.study.data import StudyData
    from orchestration.study.mass_unit import table_unit

    needed = export_bundle(study, name, out, weights=source, with_weights=with_weights, all_rows=asked)
    own = StudyData(open_ledger(study))
    predicted = "submission.csv" if table_unit(own.record.mass_unit, own.measured) is None else "predictions.csv"
    for entry in needed:
        if entry.file is not None and not with_weights:
            print_line(f"Put {entry.file} ({entry.bytes} bytes, sha256 {entry.sha256}) into {out / 'weights'}")
    print_line(f"Bundle: {out}. There: python predict.py DATA_DIR {predicted}")
