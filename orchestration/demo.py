"""`biomass demo`: the main job from nothing, on a generated pasture whose test masses are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from biomass_models.backbones.noted import notes_in
from biomass_models.backbones.weights import WeightsSource
from biomass_models.counted import counted
from biomass_models.data.table import read_masses
from biomass_models.pasture.make import make_pasture
from biomass_models.targets import TARGETS, weighted_r2_score
from biomass_models.whole_files import write_whole
from ensembles.card import Card
from ensembles.card_page import render_card
from orchestration.blending.blend import BlendOptions, run_ensemble
from orchestration.blending.members import FileMembers
from orchestration.blending.predict import Predictor
from orchestration.inspect.leaderboard import leaderboard, render_leaderboard
from orchestration.progress import progress_bar
from orchestration.report.make import make_report
from orchestration.search.presets.options import Drawing, Preset
from orchestration.search.start import start_search
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.records import Asked
from orchestration.study.storage import Storage
from orchestration.workers.resources import Resources


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What a demo leaves. Scores are weighted R2 of the blend."""

    study: Path
    nested_score: float
    true_score: float  # on the generated test set
    submission: Path
    report: Path


def run_demo(
    folder: Path,
    preset: Preset,
    drawing: Drawing,
    resources: Resources,
    console: Console,
    say: Callable[[str], None],
    made_with: Asked,
) -> Demo:
    """Data, search, leaderboard, ensemble, submission, true score, report. The same call goes on."""
    data_dir, truth_path, study = folder / "data", folder / "truth.csv", folder / "study"
    drawn = not truth_path.exists()  # the last file that the generator writes
    if drawn:
        with progress_bar("Drawing pasture") as update:
            make_pasture(
                data_dir,
                truth_path=truth_path,
                images=drawing.images,
                test_images=drawing.test_images,
                seed=preset.study.seed,
                width=drawing.width,
                height=drawing.width // 2,
                on_progress=update,
            )
    weights = WeightsSource(kind=preset.study.weights)
    with notes_in(resources.cache.expanduser()):
        start_search(
            str(study),
            data_dir,
            preset,
            weights=weights,
            resources=resources,
            say=say,
            made_with=made_with,
            data_checked=drawn,  # nobody has touched them
        )
    console.print(render_leaderboard(leaderboard(StudyData(Ledger(Storage(study)))), top=10))
    out, cards = folder / "submission.csv", list[Card]()

    def show(card: Card, beside: Sequence[str], labels: Mapping[str, str]) -> None:
        cards.append(card)
        console.print(render_card(card, beside, labels))

    run_ensemble(
        [str(study)],
        FileMembers(),
        data_dir=data_dir,
        out=out,
        options=BlendOptions(),
        seed=preset.study.seed,
        open_predictor=lambda directory: Predictor(directory, resources=resources, weights=weights),
        say=say,
        show=show,
    )
    truth, submitted = read_masses(truth_path), read_masses(out)
    score = weighted_r2_score(truth[list(TARGETS)], submitted.loc[truth.index, list(TARGETS)])
    console.print(f"True score on the generated test set ({counted(len(truth), 'image')} of other dates): {score:.4f}")
    console.print(f"Submission, valid: {out}", soft_wrap=True)
    page = folder / "report.html"
    write_whole(page, make_report(Ledger(Storage(study)), data_dir, say=say).encode())
    console.print(f"Report, for any browser: {page}", soft_wrap=True)
    return Demo(study=study, nested_score=cards[0].nested_score, true_score=score, submission=out, report=page)
