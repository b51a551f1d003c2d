"""Whole reports of studies in every state: what they say, and that what they are told cannot harm them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from told_study import told_study
from typer.testing import CliRunner

from biomass_models.targets import TOTAL
from ensembles.blend import fit_blend
from ensembles.intervals.coverage import coverage
from ensembles.intervals.levels import LEVELS, Intervals
from orchestration.blending.members import FileMembers, gather
from orchestration.cli import app
from orchestration.report.data import context as report_context
from orchestration.report.data.context import read_context
from orchestration.report.make import make_report
from orchestration.report.new_photographs.intervals import intervals_section
from orchestration.report.sections import ended_tables, ranking, slots_chart
from orchestration.report.sections import search as search_section
from orchestration.report.sections.residual_charts import MOST_COLUMNS, further_figure
from orchestration.report.sections.worst import MOST
from orchestration.study.ledger import LedgerError
from orchestration.study.mass_unit import MassUnit
from orchestration.study.records import TrialRef

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
SECTIONS = ("standing", "search", "folds", "predictions", "ensemble", "sure", "provenance")
MANY = ("complete",) * 8 + ("pruned", "failed", "open")


def _text(html: str) -> str:
    """What a reader sees, without scripts, drawings and tags."""
    bare = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", bare)).replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("statuses", "says"),
    [
        ((), "Nothing was tried yet"),
        (("open",), "No trial is complete yet"),
        (("pruned",) * 3, "No trial is complete yet"),
        (("failed",) * 3, "No trial is complete yet"),
        (("complete",), "The best single model scores"),
        (("complete",) * 2, "0.9"),
    ],
)
def test_a_study_in_any_state_has_a_whole_page(tmp_path: Path, statuses: tuple[str, ...], says: str) -> None:
    html = make_report(told_study(tmp_path, statuses=statuses))
    assert all(f'<section id="{name}">' in html for name in SECTIONS)
    title = re.search("<h1>(.*?)</h1>", html)
    assert title is not None and says in title[1]


def test_the_first_screen_answers_the_four_questions(tmp_path: Path) -> None:
    html = make_report(told_study(tmp_path, statuses=MANY, reason="fold 2: FitError: no room"))
    first = _text(html[html.index("<header") : html.index("</header>")])
    context = read_context(told_study(tmp_path / "again", statuses=MANY))
    assert context.blend is not None and context.best is not None
    for words in (
        f"{context.blend.card.nested_score:.3f} ± {context.blend.card.nested_se:.3f}",
        f"{context.best.family} {context.best.trial_id}",
        "per-target mean",
        "1 trial stopped early",
        "1 trial failed, 1 of them with “fold 2: FitError: no room”",
        "Worst day: 2015-",
        "data d41d8cd98f00",
    ):
        assert words in first


def test_the_default_blend_is_the_one_that_the_ensemble_command_makes(tmp_path: Path) -> None:
    ledger = told_study(tmp_path, statuses=MANY)
    gathered = gather([ledger.storage.uri], FileMembers(), test_ids=None, seed=0, say=print)
    card = fit_blend(gathered.library, "default", gathered.seed)
    shown = read_context(ledger).blend
    assert shown is not None and shown.name is None
    assert shown.card.nested_score == pytest.approx(card.nested_score, abs=1e-12)
    assert shown.card.members == pytest.approx(card.members)


def test_intervals_are_those_of_the_card(tmp_path: Path) -> None:
    ledger = told_study(tmp_path, statuses=MANY)
    blend = read_context(ledger).blend
    assert blend is not None and blend.card.intervals is not None
    held = [coverage(blend.card.intervals, level) for level in LEVELS]
    page = _text(make_report(ledger))
    section = page[page.index("How sure masses of new photographs are") :]
    for found in held:
        assert np.isnan(found.mean_T[TOTAL]) or f"{found.mean_T[TOTAL]:.0%}".replace("%", " %") in section
    short = Intervals(blend.card.intervals.calibration).shortage(LEVELS[1])
    assert short is None or short[1:] in section


def test_a_card_without_intervals_says_how_to_get_them(tmp_path: Path) -> None:
    context = read_context(told_study(tmp_path, statuses=MANY))
    assert context.blend is not None
    old = replace(context.blend, card=replace(context.blend.card, intervals=None))
    section = intervals_section(replace(context, blend=old))
    assert "blends again" in _text(str(section.html()))


def test_a_stored_blend_is_shown_while_it_fits_the_study(tmp_path: Path) -> None:
    ledger = told_study(tmp_path, statuses=("complete",) * 6)
    gathered = gather([ledger.storage.uri], FileMembers(), test_ids=None, seed=0, say=print)
    card = fit_blend(gathered.library, "top-3", gathered.seed)
    refs = {name: TrialRef(ledger.storage.uri, name) for name in card.members}
    ledger.write_ensemble("mine", card.to_json(), refs, b"sample_id,target\n")
    ledger.storage.write("ensembles/old/ensemble.json", b'{"rule": "of another version"}')
    context = read_context(ledger)
    assert context.blend is not None and context.blend.name == "mine" and context.blend.card.rule == "top-3"
    text = _text(make_report(ledger))
    assert "ensemble “mine”" in text and "written by another version" in text
    left = next(iter(set(gathered.trials) - set(card.members)))
    ledger.reopen(left)  # one trial less: the stored card is about another library
    context = read_context(ledger)
    assert context.blend is not None and context.blend.name is None
    assert "made of other trials" in _text(make_report(ledger))


def test_what_data_says_stays_text(tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    ledger = told_study(tmp_path, statuses=MANY, species=hostile, reason=f"fold 0: {hostile}")
    quadrats = ledger.quadrats()
    quadrats.loc[:, "image_id"] = quadrats["image_id"].where(quadrats.index > 0, hostile)
    html = make_report(told_study(tmp_path / "again", statuses=MANY, quadrats=quadrats, reason=hostile))
    assert "<img src=x" not in html and "&lt;img src=x" in html and "\\u003cimg src=x" in html
    assert html.count("<script") == html.count("</script")


def test_a_study_without_metadata_has_its_other_pictures(tmp_path: Path) -> None:
    text = _text(make_report(told_study(tmp_path, metadata=False)))
    assert "This study has no Sampling_Date, Height_Ave_cm, Pre_GSHH_NDVI, Species" in text
    assert "Measured against predicted" in text and "By day" in text and "By state" not in text


def test_an_unreadable_trial_costs_itself_alone(tmp_path: Path) -> None:
    ledger = told_study(tmp_path)
    torn = ledger.trials()[0].trial_id
    ledger.storage.write(f"trials/{torn}/oof.parquet", b"torn")
    text = _text(make_report(ledger))
    assert "is not the file that result.json vouches for" in text
    assert read_context(ledger).blend is not None


def test_what_is_not_drawn_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (report_context, "MOST_MEMBERS"), (report_context, "MOST_TIMED"), (slots_chart, "MOST_TIMED"),
        (search_section, "MOST_POINTS"), (ended_tables, "MOST_ROWS"), (ranking, "MOST_ROWS"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, 6 if module is ranking else 4)
    statuses = ("complete",) * 12 + ("failed",) * 5 + ("pruned",) * 5
    text = _text(make_report(told_study(tmp_path, statuses=statuses)))
    for words in (
        "Shown are 6 of 22 trials, the best",
        "Drawn is one in 5 of 17 trials",
        "Drawn are the folds of the last trials",
        "Shown are 4 of them",
        "not computed: too far down the list",
    ):
        assert words in text


def test_folds_of_two_studies_are_compared(tmp_path: Path) -> None:
    here = told_study(tmp_path / "date")
    there = told_study(tmp_path / "random", scheme="random", quadrats=here.quadrats(), noise=4.0)
    text = _text(make_report(here, compare=[there]))
    assert re.search(r"random folds promise 0\.\d+ more than folds by date, over 6 shared settings", text)
    with pytest.raises(LedgerError, match="the same images"):
        make_report(here, compare=[told_study(tmp_path / "other", images=30)])
    fewer = told_study(tmp_path / "none", statuses=("failed",), scheme="random", quadrats=here.quadrats())
    assert "shares no complete configuration" in _text(make_report(here, compare=[fewer]))


def test_the_command_writes_one_file_and_says_what_is_wrong(tmp_path: Path) -> None:
    told_study(tmp_path / "study", statuses=("complete",) * 3)
    run = CliRunner()
    out = tmp_path / "pages" / "report.html"
    done = run.invoke(app, ["report", str(tmp_path / "study"), "--out", str(out)])
    assert done.exit_code == 0 and "Wrote" in done.output and [path.name for path in out.parent.iterdir()] == [out.name]
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    for arguments, says in (
        ([str(tmp_path / "nowhere")], "there is no study in"),
        ([str(tmp_path / "study"), "--data", str(tmp_path / "nowhere")], "a data directory is a folder"),
        ([str(tmp_path / "study"), "--out", str(tmp_path)], "--out is the HTML file"),
    ):
        failed = run.invoke(app, ["report", *arguments])
        assert failed.exit_code == 1 and says in str(failed.exception)


def test_a_report_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    told_study(tmp_path, statuses=("complete",) * 5)
    code = (
        "import sys; from orchestration.study.ledger import open_ledger;"
        "from orchestration.report.make import make_report; "
        "make_report(open_ledger(sys.argv[1])); print(sorted({'torch', 'ray', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_missing_values_in_metadata_are_left_out(tmp_path: Path) -> None:
    quadrats = told_study(tmp_path / "first").quadrats()
    quadrats.loc[::3, ["Height_Ave_cm", "Sampling_Date", "Species"]] = pd.NA
    text = _text(make_report(told_study(tmp_path / "second", quadrats=quadrats)))
    assert "Errors of the total" in text


def test_errors_are_drawn_against_the_further_columns_of_a_table(tmp_path: Path) -> None:
    """Numbers and few texts are drawn, in the unit that was weighed; the rest is named."""
    quadrats, hostile = told_study(tmp_path / "first").quadrats(), "</script><b>soil</b>"
    rows = range(len(quadrats))
    quadrats["moisture"] = [0.1 * row if row % 4 else float("nan") for row in rows]
    quadrats[hostile] = ["clay", "sand", "", "loam"] * (len(quadrats) // 4)
    quadrats["remark"] = [f"cut number {row}" for row in rows]
    quadrats["observer"] = "me"
    unit = MassUnit(name="kg/ha", area_m2=0.25)
    context = read_context(told_study(tmp_path / "second", quadrats=quadrats, mass_unit=unit))
    figure = further_figure(context)
    assert figure is not None and figure.note.startswith("Not drawn: remark and observer. ")
    number, text = figure.panels
    assert [number.caption, text.caption] == ["moisture", f"{hostile}, diamonds: mean"]
    for one in figure.panels:
        alt.Chart.from_dict(one.spec)
        assert "predicted − measured [kg/ha]" in json.dumps(one.spec, ensure_ascii=False)
    assert context.shown is not None
    residual_N = 40 * (context.shown.pred_NT - context.scorer.truth_NT)[:, TOTAL]
    by_hand = pd.Series(residual_N).groupby(quadrats[hostile].replace("", "(blank)").to_numpy())
    means = text.spec["layer"][2]["data"]["values"]
    assert {one["value"]: one["residual"] for one in means} == pytest.approx(by_hand.mean().to_dict(), rel=1e-4)
    assert {one["value"]: one["sd"] for one in means} == pytest.approx(by_hand.std().to_dict(), rel=1e-4)
    assert len(number.spec["layer"][1]["data"]["values"]) == quadrats["moisture"].notna().sum()
    html = figure.html()
    assert "<b>soil</b>" not in html and html.count("<script") == html.count("</script")


def test_no_more_columns_are_drawn_than_a_page_can_hold(tmp_path: Path) -> None:
    quadrats = told_study(tmp_path / "first").quadrats()
    assert further_figure(read_context(told_study(tmp_path / "none", quadrats=quadrats))) is None
    for column in range(MOST_COLUMNS + 2):
        quadrats[f"c{column}"] = np.arange(len(quadrats)) * 1.0
    figure = further_figure(read_context(told_study(tmp_path / "many", quadrats=quadrats)))
    assert figure is not None and len(figure.panels) == MOST_COLUMNS
    assert figure.note.startswith(f"Not drawn: c{MOST_COLUMNS} and c{MOST_COLUMNS + 1}. Drawn are the first 8 columns")


def test_every_drawing_is_valid_vega_lite(tmp_path: Path) -> None:
    ledger = told_study(tmp_path / "date", statuses=MANY)
    other = told_study(tmp_path / "random", statuses=MANY, scheme="random", quadrats=ledger.quadrats())
    html = make_report(ledger, compare=[other])
    specs = re.findall(r'<div class="plot"[^>]*><script type="application/json">(.*?)</script>', html)
    assert len(specs) > 25
    for spec in specs:
        alt.Chart.from_dict(json.loads(spec))  # raises SchemaValidationError


@pytest.mark.parametrize(
    ("unit", "end"), [(MassUnit(), "g per quadrat"), (MassUnit(name="kg/ha", area_m2=0.25), "g/m2")]
)
@pytest.mark.parametrize("first", ["density", "distilled"])
def test_the_worst_images_have_a_density_map_of_each_mass(tmp_path: Path, unit: MassUnit, end: str, first: str) -> None:
    """Of the best trial that has densities, also where a better one has attention; without any, where that looked."""
    families = (first, "density" if first == "distilled" else "distilled")
    ledger = told_study(tmp_path / "study", families=families, looks=True, mass_unit=unit)
    (tmp_path / "data" / "train").mkdir(parents=True)
    for name in ledger.quadrats()["image_path"]:
        Image.new("RGB", (80, 40), "green").save(tmp_path / "data" / name)
    html = make_report(ledger, data_dir=tmp_path / "data")
    assert html.count('alt="density of green"') == html.count('alt="density of clover"') == MOST
    assert html.count('alt="photograph ID') == MOST and 'alt="where the model looked"' not in html
    assert f"{end}; a mass has one scale for all images" in _text(html) and "densities by density" in _text(html)
    looking = told_study(tmp_path / "other", families=("distilled",), looks=True)
    html = make_report(looking, data_dir=tmp_path / "data")
    assert html.count('alt="where the model looked"') == MOST
    assert "yellow where distilled" in _text(html) and "share of the attention" in _text(html)
