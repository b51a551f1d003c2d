"""Studies that measure some of the masses: what pages, files and rules make of them. No model is fitted."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from told_study import told_study
from typer.testing import CliRunner

from biomass_models.data.cell_weights import WEIGHT_COLUMNS
from biomass_models.targets import (
    TARGETS,
    TOTAL,
    from_components,
    identity_gap,
    rmse_by_target,
    squared_error,
    weight_T,
    weighted_r2_score,
    weights_of,
)
from ensembles.submission import is_submission, mass_table, masses_at, quadrat_means, table_notes
from orchestration.blending.blend import BlendOptions, run_ensemble
from orchestration.blending.members import FileMembers, gather
from orchestration.cli import app
from orchestration.inspect.audit import audit
from orchestration.inspect.explain import Explanation, render_explanation
from orchestration.inspect.leaderboard import leaderboard
from orchestration.inspect.replay import replay
from orchestration.inspect.status import render_status, status_of
from orchestration.report.data.scorer import target_error
from orchestration.report.make import make_report
from orchestration.search.incumbent import Incumbent
from orchestration.search.pruning import RULES
from orchestration.study.data import StudyData
from orchestration.study.data_changes import data_changes, data_fingerprint
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.mass_unit import MassUnit, table_unit
from orchestration.study.records import StudyRecord
from orchestration.study.storage import Storage
from orchestration.workers.refit import same_rows

NOT_TOTAL = {name: slice(None) for name in TARGETS if name != "Dry_Total_g"}
CLOVER_IN_HALF = {name: slice(None) for name in ("Dry_Green_g", "Dry_Dead_g", "GDM_g")} | {
    "Dry_Clover_g": slice(0, None, 2)
}
KG_HA = MassUnit(name="kg/ha", area_m2=0.25)


def text_of(html: str) -> str:
    """Words of a page, without its script and drawings."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).replace("\xa0", " ").split())


def total_r2(ledger: Ledger, trial_id: str) -> float:
    """R2 of the total, by hand."""
    data = StudyData(ledger)
    truth_N, pred_N = data.truth_NT[:, TOTAL], data.pred_NT(trial_id)[:, TOTAL]
    return float(1 - ((truth_N - pred_N) ** 2).sum() / ((truth_N - truth_N.mean()) ** 2).sum())


@pytest.fixture(scope="module")
def total_only(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return told_study(tmp_path_factory.mktemp("total") / "study", unmeasured=NOT_TOTAL, mass_unit=KG_HA)


@pytest.fixture(scope="module")
def with_clover(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return told_study(tmp_path_factory.mktemp("clover") / "study", unmeasured=CLOVER_IN_HALF)


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_scores_of_a_total_alone_are_its_plain_r2(total_only: Ledger) -> None:
    data = StudyData(total_only)
    assert data.measured == ("Dry_Total_g",) and data.weight.shape == (40, 5)
    rows = {row.name: row.score for row in leaderboard(data)}
    for trial in data.ranked:
        assert rows[trial.trial_id] == pytest.approx(total_r2(total_only, trial.trial_id))
    mean_N = data.references["per-target mean"].pred_NT[:, TOTAL]
    truth_N = data.truth_NT[:, TOTAL]
    by_hand = 1 - ((truth_N - mean_N) ** 2).sum() / ((truth_N - truth_N.mean()) ** 2).sum()
    assert rows["per-target mean"] == pytest.approx(by_hand)


@pytest.mark.slow
@pytest.mark.parametrize("junk", [0.0, 1e9])
def test_what_is_predicted_of_targets_that_nobody_measured_decides_nothing(tmp_path: Path, junk: float) -> None:
    """Pruning, blend of the moment and scores of a study whose OOF rows hold numbers in such columns."""
    one, other = (told_study(tmp_path / name, unmeasured=CLOVER_IN_HALF, statuses=("complete",) * 14) for name in "ab")
    for trial in StudyData(other).of("complete"):
        oof = other.oof(trial.trial_id)
        oof[[name for name in TARGETS if name not in StudyData(other).measured]] = junk
        result = trial.result
        assert result is not None
        other.write_result(trial.trial_id, result, oof)
    found = []
    rule = RULES["default"]
    assert rule is not None
    for ledger in (one, other):
        incumbent = Incumbent(StudyData(ledger))
        incumbent.refresh()
        rows = np.flatnonzero(incumbent.data.quadrats["fold"].to_numpy() < 2)
        worst = incumbent.complete[-1]
        decision = incumbent.compare(rule, incumbent.data.pred_NT(worst)[rows], rows, after_fold=1, folds_done=2)
        found.append((incumbent.blend_score(), decision, leaderboard(incumbent.data)))
    assert found[0] == found[1] and found[0][1] is not None and 0 <= found[0][1].p <= 1


def test_a_decision_about_totals_is_that_of_their_losses(total_only: Ledger) -> None:
    incumbent = Incumbent(StudyData(total_only))
    incumbent.refresh()
    data, rows, rule = incumbent.data, np.arange(20), RULES["default"]
    assert rule is not None
    worst = incumbent.complete[-1]
    decision = incumbent.compare(rule, data.pred_NT(worst)[rows], rows, after_fold=1, folds_done=2)
    assert decision is not None
    truth_N = data.truth_NT[rows, TOTAL]
    ensemble_N = np.mean([data.pred_NT(name)[rows, TOTAL] for name in incumbent.best(5)], axis=0)
    own_N = data.pred_NT(worst)[rows, TOTAL]
    losses = [((truth_N - (1 - w) * ensemble_N - w * own_N) ** 2).sum() for w in np.linspace(0, 1, 100_001)]
    assert decision.gain == pytest.approx(1 - min(losses) / losses[0], abs=1e-6)


def test_errors_of_a_target_are_over_its_own_rows_and_in_the_users_unit() -> None:
    nan = np.nan
    truth_NT = np.array([[nan, nan, 2.0, nan, 10.0], [nan, nan, nan, nan, 20.0], [nan, nan, 6.0, nan, 30.0]])
    pred_NT = np.array([[nan, nan, 3.0, nan, 12.0], [nan, nan, 99.0, nan, 20.0], [nan, nan, 3.0, nan, 26.0]])
    total, clover = target_error(truth_NT, pred_NT, 4), target_error(truth_NT, pred_NT, 2, KG_HA.per_gram() or 0)
    assert total is not None and clover is not None and target_error(truth_NT, pred_NT, 0) is None
    assert (total.images, total.mean, total.bias) == (3, 20.0, pytest.approx(-2 / 3))
    assert total.rmse == pytest.approx(np.sqrt(20 / 3)) and total.r2 == pytest.approx(1 - 20 / 200)
    assert (clover.images, clover.mean, clover.bias) == (2, pytest.approx(160.0), pytest.approx(-40.0))  # 40 per gram
    assert clover.rmse == pytest.approx(40 * np.sqrt(5)) and clover.relative == pytest.approx(np.sqrt(5) / 4)
    areas = MassUnit(name="g/m2", area_column="m2").per_gram(pd.DataFrame({"m2": [0.25, 0.5, 1.0]}))
    mixed = target_error(truth_NT, pred_NT, 4, areas if areas is not None else 0.0)
    assert mixed is not None and mixed.mean == pytest.approx((40 + 40 + 30) / 3)
    assert mixed.rmse == pytest.approx(np.sqrt((8**2 + 0 + 4**2) / 3))


def test_photographs_of_one_quadrat_count_as_one_in_the_errors_of_a_mass() -> None:
    """Three photographs of the first quadrat that each count a third are that quadrat once."""
    rng = np.random.default_rng(0)
    truth_NT, pred_RNT = rng.gamma(2, 20, (9, 5)), rng.gamma(2, 20, (4, 9, 5))
    truth_NT[3:, 2] = np.nan
    again, third_N = np.r_[0, 0, 0, 1:9], np.r_[[1 / 3] * 3, np.ones(8)]
    weight = weights_of(truth_NT)
    more = weight[again] * third_N[:, None]
    for target in (2, TOTAL):
        one = target_error(truth_NT, pred_RNT, target, weight=weight)
        other = target_error(truth_NT[again], pred_RNT[:, again], target, weight=more)
        plain = target_error(truth_NT, pred_RNT, target)
        assert one is not None and other is not None and plain is not None
        for name in ("mean", "rmse", "bias", "r2"):
            assert getattr(other, name) == pytest.approx(getattr(one, name)) == pytest.approx(getattr(plain, name))
        assert other.images == one.images + 2
    rmse = rmse_by_target(truth_NT, pred_RNT[0], weight)
    assert rmse_by_target(truth_NT[again], pred_RNT[0][again], more) == pytest.approx(rmse)


# -- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_page_says_once_what_scores_count(total_only: Ledger) -> None:
    notice = "scores are R2 of total; not measured here: green, dead, clover, GDM"
    assert render_status(status_of(total_only)).count(notice) == 1
    shown = CliRunner().invoke(app, ["leaderboard", total_only.storage.uri])
    assert " ".join(shown.output.split()).count(notice) == 1
    page = text_of(make_report(total_only))
    assert page.count("not measured here") == 1 and "(R² of total)" in page


@pytest.mark.slow
def test_a_report_shows_what_was_measured_in_the_users_unit(total_only: Ledger) -> None:
    html = make_report(total_only)
    page = text_of(html)
    data = StudyData(total_only)
    mean = 40 * data.truth_NT[:, TOTAL].mean()
    assert f"whose mean is {mean:.0f} kg/ha:" in page and re.search(r"typically \d+(\.\d)? kg/ha off", page)
    assert "total in 40 photographs; kg/ha, quadrats of 0.25 m²" in page
    assert "measured [kg/ha]" in html and "[g]" not in html.partition("chart-config")[0].replace("RMSE [g]", "")
    assert "Errors of total by day" in page and "Errors of total by site" in page
    assert "nan" not in page.lower().replace("finance", "")
    errors = page[page.index("Errors beside the mean masses") :][:400]
    assert "total 40" in errors and "clover" not in errors and "green" not in errors and "%" in errors


@pytest.mark.slow
def test_a_target_measured_in_some_rows_says_in_how_many(with_clover: Ledger) -> None:
    page = text_of(make_report(with_clover))
    assert "(weighted R² of total, clover (20 of 40))" in page
    assert "measured in 20 of 40" in make_report(with_clover)
    assert "In grams, the blend is typically" in page and "total in 40, clover in 20 photographs" in page
    assert page.count("not measured here") == 1


@pytest.mark.slow
def test_a_report_of_masses_that_never_vary_by_themselves_says_so(tmp_path: Path) -> None:
    """Their joint score has a spread: the two differ from each other."""
    quadrats = StudyData(told_study(tmp_path / "whole")).quadrats.assign(Dry_Clover_g=3.0, Dry_Total_g=40.0)
    unmeasured = {name: slice(None) for name in ("Dry_Green_g", "Dry_Dead_g", "GDM_g")}
    flat = told_study(tmp_path / "flat", quadrats=quadrats, unmeasured=unmeasured)
    assert "no target varies, so none has an R²" in text_of(make_report(flat))


def test_studies_are_blended_by_the_same_weights(tmp_path: Path) -> None:
    plain = told_study(tmp_path / "plain")
    shares = dict(zip(WEIGHT_COLUMNS, (0.2, 0.2, 0.2, 0.2, 0.2), strict=True))
    other = told_study(tmp_path / "other", quadrats=StudyData(plain).quadrats.assign(**shares))
    studies = [plain.storage.uri, other.storage.uri]
    with pytest.raises(LedgerError, match=r"by the same weights of masses and quadrats; those of .*other differ"):
        gather(studies, FileMembers(), test_ids=None, seed=0, say=lambda text: None)
    assert gather([studies[1]], FileMembers(), test_ids=None, seed=0, say=lambda text: None).library.weight.ndim == 2


def test_explain_shows_the_measured_targets() -> None:
    nan = np.nan
    told = Explanation(
        image_id="a", path=Path("a.jpg"), trial_id="t", how="fold 0", pred_T=np.array([nan, nan, 3.0, nan, 30.0]),
        truth_T=np.array([nan, nan, nan, nan, 25.0]), maps=(), map_unit="", views=(), fit="stretch",
    )  # fmt: skip
    console = Console(width=80)
    with console.capture() as capture:
        console.print(render_explanation(told))
    lines = capture.get()
    assert "Dry_Green_g" not in lines and re.search(r"Dry_Clover_g\W+3\.0\W+not measured", lines)
    assert re.search(r"Dry_Total_g\W+30\.0\W+25\.0\W+\+5\.0", lines)


# -- proofs -----------------------------------------------------------------------------------------------------------


def test_audit_and_replay_read_a_partial_study(total_only: Ledger) -> None:
    said: list[str] = []
    found = audit(total_only)
    assert not [problem for problem in found.problems if "score" in problem or "pooled" in problem], found.problems
    best = StudyData(total_only).ranked[0]
    assert replay(total_only, "default", said.append).best == pytest.approx(total_r2(total_only, best.trial_id))


def test_blank_columns_are_the_same_rows_and_the_same_data(total_only: Ledger) -> None:
    name = StudyData(total_only).ranked[0].trial_id
    oof = total_only.oof(name)
    assert oof["Dry_Green_g"].isna().all() and same_rows(oof, total_only.oof(name))
    quadrats = total_only.quadrats()
    here = quadrats.drop(columns=["fold", "group"])
    assert data_fingerprint(quadrats, "x") == data_fingerprint(total_only.quadrats(), "x")
    digests = [str(number) for number in range(len(here))]
    changes = data_changes(total_only, here.assign(Dry_Total_g=here["Dry_Total_g"].where(here.index != 3)), digests)
    assert changes[0] == f"1 label changed ({here['image_id'][3]} Dry_Total_g)"


# -- units and files --------------------------------------------------------------------------------------------------


def test_the_unit_is_kept_with_the_study(total_only: Ledger, tmp_path: Path) -> None:
    assert total_only.study().mass_unit == KG_HA
    old = json.loads((Path(total_only.storage.uri) / "study.json").read_text())
    del old["mass_unit"]
    assert StudyRecord.from_json(old).mass_unit == MassUnit(name="g")  # written before units were kept
    assert KG_HA.per_gram() == pytest.approx(40.0)  # 1 g of 0.25 m2 is 4 g/m2, 40 kg/ha
    assert MassUnit(name="g/m2", area_m2=0.5).per_gram() == pytest.approx(2.0)
    for unit in ("g", "kg/ha"):  # the area counts, whatever the masses were weighed in
        assert MassUnit(name=unit, area_m2=0.25).per_square_metre() == pytest.approx([4.0])
    areas = pd.DataFrame({"m2": [0.25, 0.5]})
    assert MassUnit(name="g/m2", area_column="m2").per_square_metre(areas) == pytest.approx([4.0, 2.0])
    assert MassUnit().per_square_metre(areas) is None is MassUnit(area_column="m2").per_square_metre()
    assert MassUnit(name="kg/ha", area_column="m2").per_gram() is None  # another photograph's area is not known


@pytest.mark.parametrize(
    ("unit", "measured", "table"),
    [("g", TARGETS, False), ("g", ("Dry_Total_g",), True), ("kg/ha", TARGETS, True)],
)
def test_the_competitions_form_holds_five_masses_in_grams(unit: str, measured: tuple[str, ...], table: bool) -> None:
    assert (table_unit(MassUnit(name=unit, area_m2=0.25), measured) is not None) == table


def test_a_table_of_masses_reads_back_with_blanks_where_nothing_was_measured(tmp_path: Path) -> None:
    mass_NT = np.array([[np.nan, np.nan, 1.0, np.nan, 10.0], [np.nan, np.nan, 0.0, np.nan, 25.5]])
    path = tmp_path / "predictions.csv"
    path.write_bytes(mass_table(["007", "b"], mass_NT, unit="kg/ha", per_gram=KG_HA.per_gram()))
    assert path.read_text().splitlines()[1].startswith("007,,,1.000000,,10.000000,")
    np.testing.assert_array_equal(masses_at(path).to_numpy(), mass_NT)
    assert list(masses_at(path).index) == ["007", "b"] and not is_submission(path)
    assert pd.read_csv(path)["Dry_Total_kg_ha"].tolist() == [400.0, 1020.0]
    assert table_notes(("Dry_Clover_g", "Dry_Total_g"), "kg/ha", KG_HA.per_gram()) == [
        "not measured in the study, so left blank: Dry_Green_g, Dry_Dead_g, GDM_g"
    ]
    assert "areas of quadrats differ" in table_notes(TARGETS, "kg/ha", None)[0]
    for wrong in (-1.0, np.nan):
        spoilt = mass_NT.copy()
        spoilt[1, TOTAL] = wrong
        with pytest.raises(ValueError, match="finite, non-negative"):
            mass_table(["a", "b"], spoilt)


def test_photographs_of_a_quadrat_have_its_mean_mass(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mass_NT, quadrat_N = from_components(*rng.gamma(2, 10, (3, 6))), ["b", "a", "b", "c", "b", "a"]
    mean_NT = quadrat_means(mass_NT, quadrat_N)
    by_hand = pd.DataFrame(mass_NT).groupby(quadrat_N).transform("mean")
    np.testing.assert_allclose(mean_NT, by_hand)
    assert identity_gap(mean_NT).max() < 1e-9  # so that a submission may hold it
    assert quadrat_means(mass_NT, None) is mass_NT
    assert quadrat_means(mass_NT, list("abcdef")).tobytes() == mass_NT.tobytes()
    truth_NT = from_components(*rng.gamma(2, 10, (3, 3)))[pd.factorize(np.array(quadrat_N))[0]]
    weight = weight_T / pd.Series(quadrat_N).groupby(quadrat_N).transform("size").to_numpy()[:, None]
    assert squared_error(truth_NT, mean_NT, weight).sum() <= squared_error(truth_NT, mass_NT, weight).sum()
    path = tmp_path / "masses.csv"
    path.write_bytes(mass_table(list("uvwxyz"), mean_NT, quadrat_N=quadrat_N))
    assert path.read_text().splitlines()[1].startswith("u,b,")
    np.testing.assert_allclose(masses_at(path).to_numpy(), mean_NT, atol=1e-6)


def test_score_counts_what_the_truth_and_the_predictions_have(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth_NT, pred_NT = rng.gamma(2, 10, (6, 5)), rng.gamma(2, 10, (6, 5))
    truth_NT[:, :4] = pred_NT[:, :4] = np.nan
    ids = [f"ID{row}" for row in range(6)]
    for name, mass_NT in (("truth.csv", truth_NT), ("predictions.csv", pred_NT)):
        (tmp_path / name).write_bytes(mass_table(ids, mass_NT))
    shown = CliRunner().invoke(app, ["score", f"{tmp_path}/predictions.csv", "--truth", f"{tmp_path}/truth.csv"])
    value, _, counted = shown.output.strip().partition(" ")
    assert float(value) == pytest.approx(weighted_r2_score(truth_NT, pred_NT), abs=1e-5)
    assert counted == "R2 of total; not measured here: green, dead, clover, GDM"


def test_members_that_are_files_take_a_data_directory_as_truth(tmp_path: Path) -> None:
    """quadrats.csv says itself what is kept whole, and in which unit its masses are."""
    rng = np.random.default_rng(0)
    total_N = rng.gamma(2, 20, 60)
    rows = {
        "photo": [f"p/{row}.jpg" for row in range(60)],
        "cut": [f"2024-05-{1 + row // 10:02d}" for row in range(60)],
    }
    pd.DataFrame({**rows, "dm": 40 * total_N}).to_csv(tmp_path / "quadrats.csv", index=False)
    toml = 'unit = "kg/ha"\narea = 0.25\n[columns]\nphoto = "photo"\ntotal = "dm"\ndate = "cut"\n'
    (tmp_path / "dataset.toml").write_text(toml)
    for name in "ab":
        frame = pd.DataFrame({"image_id": [f"{row}" for row in range(60)], "Dry_Total_g": total_N})
        frame["Dry_Total_g"] += rng.normal(0, 5, 60)
        frame.reindex(columns=["image_id", *TARGETS]).to_csv(tmp_path / f"oof-{name}.csv", index=False)
        tests = pd.DataFrame({"image_id": ["t0", "t1"], "Dry_Total_g": [10.0, 30.0]})
        tests.reindex(columns=["image_id", *TARGETS]).to_csv(tmp_path / f"test-{name}.csv", index=False)
    files = FileMembers(oof=(f"{tmp_path}/oof-*.csv",), truth=tmp_path, folds=3, tests=(f"{tmp_path}/test-*.csv",))
    said: list[str] = []
    (path,) = run_ensemble(
        [], files, data_dir=None, out=tmp_path / "out", options=BlendOptions(), seed=0,
        open_predictor=lambda _: pytest.fail("nothing is predicted"), say=said.append, show=lambda *_: None,
    )  # fmt: skip
    written = pd.read_csv(path)
    assert written["Dry_Total_kg_ha"].tolist() == [400.0, 1200.0] and written["Dry_Green_g"].isna().all()
    assert "note: not measured in the study, so left blank: Dry_Green_g, Dry_Dead_g, Dry_Clover_g, GDM_g" in said
    assert Ledger(Storage(tmp_path)).find_study() is None
