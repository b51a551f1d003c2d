"""The Python face: the same numbers as the commands, typed errors, options by their names."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from blended_study import finished_study
from commands import output, words_of
from test_options import TYPED
from told_study import told_study
from typer.testing import CliRunner

from biomass_models.targets import TARGETS, weighted_r2_score
from orchestration import api
from orchestration.api import (
    DataError,
    LedgerError,
    LockError,
    OptionError,
    Study,
    StudyError,
    UserError,
    open_study,
    search,
)
from orchestration.cli import app
from orchestration.python.typed import OPTIONS, typed_options
from orchestration.search.presets.named import overridden
from orchestration.search.presets.options import PART_OF
from orchestration.study.lock import study_lock

pytestmark = pytest.mark.slow

STATUSES = ("complete", "complete", "pruned", "failed", "open", "refused")


@pytest.fixture
def told(tmp_path: Path) -> Study:
    told_study(tmp_path / "told", statuses=STATUSES)
    return open_study(tmp_path / "told")


def json_of(*words: str) -> Any:
    return json.loads(output(*words, "--json"))


# -- the numbers of the commands ---------------------------------------------------------------------------------------


def same(frame: pd.DataFrame, rows: list[dict[str, Any]], by: str, names: list[str]) -> None:
    """Each cell of these columns is what the command says; null is NaN."""
    assert list(frame.index) == [row[by] for row in rows]
    for name in names:
        for one, other in zip(frame[name], (row[name] for row in rows), strict=True):
            assert pd.isna(one) if other is None else one == other, name


@pytest.mark.slow
def test_tables_hold_what_the_commands_say(told: Study) -> None:
    found = json_of("leaderboard", told.uri)
    columns = ["family", "score", "seconds", "gpu_seconds", "peak_gb", "status", "label", "summary"]
    board = told.leaderboard()
    same(board, found["rows"], "name", columns)
    assert [*board["notes"]] == ["; ".join(row["notes"]) for row in found["rows"]]
    assert board.loc[found["rows"][0]["name"], "fold_low"] == min(found["rows"][0]["fold_scores"])
    same(told.families(), found["families"], "family", [name for name in found["families"][0] if name != "family"])
    assert told.blend().card.nested_score == found["blend"]["nested_score"]
    shown = json_of("leaderboard", told.uri, "--top", "1")["rows"]
    assert list(told.leaderboard(top=1).index) == [row["name"] for row in shown]
    assert told.status().trials == json_of("status", told.uri)["trials"]


def test_trials_have_all_statuses_and_the_settings_of_one_family(told: Study) -> None:
    trials = told.trials()
    assert list(trials["status"]) == list(STATUSES)
    assert set(trials.loc[trials["status"] != "complete", "score"].isna()) == {True}
    of_probe = told.trials("probe")
    assert set(of_probe["family"]) == {"probe"} and {"pooling", "layers", "log10_alpha_low"} <= set(of_probe)
    assert list(of_probe.index) == list(trials.index[trials["family"] == "probe"])
    best = trials["score"].idxmax()
    folds = trials.filter(like="fold_").loc[best]
    assert told.leaderboard().loc[best, ["fold_low", "fold_high"]].tolist() == [folds.min(), folds.max()]


def test_out_of_fold_rows_give_the_score(told: Study) -> None:
    def score(rows: pd.DataFrame) -> float:
        measured, predicted = (rows[[f"{kind}_{name}" for name in TARGETS]] for kind in ("measured", "predicted"))
        return weighted_r2_score(measured.to_numpy(), predicted.to_numpy())

    board = told.leaderboard()
    for name in board.index[board["status"].isin(["complete", "reference"])]:
        assert score(told.oof(str(name))) == pytest.approx(board.loc[name, "score"], abs=1e-12)
    assert told.oof(told.trials().index[0][:4]).index.is_unique


def test_a_mass_that_nobody_measured_has_no_column(tmp_path: Path) -> None:
    told_study(tmp_path / "told", statuses=("complete",), unmeasured={"Dry_Clover_g": slice(None)})
    rows = open_study(tmp_path / "told").oof("0000")
    assert "predicted_Dry_Green_g" in rows and not [name for name in rows if "Clover" in name]


def test_a_blend_is_that_of_the_command(told: Study, tmp_path: Path) -> None:
    (card,) = json_of("ensemble", told.uri, "--out", str(tmp_path / "typed"))["cards"]
    blend = told.ensemble(out=tmp_path / "mix")
    assert json.loads(json.dumps(blend.card.to_json())) == card and blend.name == "mix"
    assert blend.weights.to_dict() == card["members"]
    stored = told.ensembles()
    assert set(stored.index) == {"mix", "typed"} and stored["current"].all()
    assert stored.loc["mix", "nested_score"] == told.blend("mix").card.nested_score == card["nested_score"]
    assert told.blend().name == stored["created_at"].idxmax()  # the one that pages show
    assert "nested by date" in repr(blend) and words_of(blend._repr_html_()) == words_of(repr(blend))


def test_a_trial_and_a_report_are_those_of_the_commands(told: Study, tmp_path: Path) -> None:
    shown, page = told.show("0000"), output("show", told.uri, "0000")
    assert shown.facts.trial_id == told.trials().index[0]
    assert words_of(repr(shown)) == words_of(shown._repr_html_()) == words_of(page)
    with pytest.raises(LedgerError):
        told.show("zz")
    assert told.report(tmp_path / "mine.html") == tmp_path / "mine.html"
    output("report", told.uri, "--out", str(tmp_path / "theirs.html"))
    mine, theirs = (words_of((tmp_path / f"{name}.html").read_text()) for name in ("mine", "theirs"))
    assert mine == theirs
    for wrong in ("page.txt", tmp_path):
        with pytest.raises(UserError, match="out is"):
            told.report(wrong)


def test_half_a_budget_is_refused(told: Study, tmp_path: Path) -> None:
    for half in ({"budget_minutes": 5.0}, {"images": 9}, {"device": "Tesla"}):
        with pytest.raises(UserError, match="budget"):
            told.ensemble(out=tmp_path / "x", **half)
    with pytest.raises(UserError, match="a budget needs a profile"):
        told.ensemble(out=tmp_path / "x", budget_minutes=5.0, images=9)


def test_an_empty_study_has_empty_tables(tmp_path: Path) -> None:
    told_study(tmp_path / "told", statuses=())
    study = open_study(tmp_path / "told")
    assert study.trials().empty and study.families().empty and study.ensembles().empty
    assert "score" in study.trials() and "nested_score" in study.ensembles()
    with pytest.raises(LedgerError, match="no trial is complete"):
        study.blend()


def test_a_study_is_shown_by_its_name_without_its_place(told: Study, tmp_path: Path) -> None:
    assert repr(told) == f"Study {tmp_path.name}/told"
    assert "1 pruned" in told._repr_html_() and str(tmp_path) not in told._repr_html_()


@pytest.mark.slow
def test_what_a_directory_lacks_is_what_the_command_lists(tiny_pasture: Path, own_pasture: Path) -> None:
    assert api.check_data(tiny_pasture).empty
    next((own_pasture / "train").iterdir()).unlink()
    found = json.loads(CliRunner().invoke(app, ["data", "check", str(own_pasture), "--json"]).stdout)["problems"]
    table = api.check_data(own_pasture)
    assert list(table["rule"]) == [problem["rule"] for problem in found] and set(table["level"]) == {"error"}


# -- data directories and masses ---------------------------------------------------------------------------------------


def test_a_table_and_photographs_become_the_commands_directory(tiny_pasture: Path, tmp_path: Path) -> None:
    masses = pd.read_csv(tiny_pasture / "train.csv").query("target_name == 'Dry_Total_g'")
    names = [Path(path).name for path in masses["image_path"]]
    table = pd.DataFrame({"picture": names, "cut": masses["Sampling_Date"], "weighed": masses["target"]})
    table.to_csv(tmp_path / "cuts.csv", index=False)
    where = (tmp_path / "cuts.csv", tiny_pasture / "train")
    read = api.import_data(*where, tmp_path / "own", photo="picture", date="cut", total="weighed", unit="g")
    typed = ["--photo", "picture", "--date", "cut", "--total", "weighed", "--unit", "g"]
    output("data", "import", str(where[0]), "--photos", str(where[1]), "--out", str(tmp_path / "typed"), *typed)
    assert [*read["Dry_Total_g"]] == [*masses["target"]]
    for name in ("quadrats.csv", "dataset.toml"):
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "typed" / name).read_bytes()
    with pytest.raises(OptionError, match="did you mean total"):
        api.import_data(*where, tmp_path / "other", totl="weighed")


@pytest.mark.slow
def test_masses_are_those_that_the_command_writes(tiny_pasture: Path, tmp_path: Path) -> None:
    ledger = finished_study(tmp_path / "study", tiny_pasture, tmp_path / "cache", ("probe",))
    study, cache = open_study(ledger.storage.uri), tmp_path / "cache"
    study.ensemble(out=tmp_path / "blend")
    new = tiny_pasture / "test"
    rows = pd.DataFrame({"path": sorted(map(str, new.iterdir())), "paddock": [*"abcabc"]})
    (tmp_path / "torn.jpg").write_bytes(b"no photograph")
    rows.loc[len(rows)] = [str(tmp_path / "torn.jpg"), "a"]
    rows.to_csv(tmp_path / "new.csv", index=False)
    where = ("--cache", str(cache), "--weights", "random", "--level", "0.5")
    for by in ([], ["--by", "paddock"]):
        output(
            "predict", ledger.storage.uri, str(tmp_path / "new.csv"), "--out", str(tmp_path / "m.parquet"), *where, *by
        )
    options: dict[str, Any] = {"cache": cache, "weights": "random", "level": 0.5}
    found = study.predict(rows, **options)
    pd.testing.assert_frame_equal(found, pd.read_parquet(tmp_path / "m.parquet"), check_exact=True)
    assert (found["unreadable"] != "").sum() == 1
    means = study.predict(tmp_path / "new.csv", by="paddock", out=tmp_path / "own.parquet", **options)
    pd.testing.assert_frame_equal(means, pd.read_parquet(tmp_path / "m-means.parquet"), check_exact=True)
    for mine, typed in (("own", "m"), ("own-means", "m-means")):
        assert (tmp_path / f"{mine}.parquet").read_bytes() == (tmp_path / f"{typed}.parquet").read_bytes()
    kept = sorted(path.name for path in tmp_path.iterdir())
    study.predict([new], **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept  # nothing is written without out
    with pytest.raises(UserError, match="out is a table"):
        study.predict(new, out="masses.xlsx")


# -- options and errors ------------------------------------------------------------------------------------------------


def test_every_option_of_the_command_has_its_name() -> None:
    names = [name for name in inspect.signature(search).parameters if name not in ("study", "data", "preset")]
    assert names == list(OPTIONS) and set(names) == set(TYPED) - {"shares"}
    assert all(f"\n    {name}: " in (search.__doc__ or "") for name in names)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_value_arrives_where_the_typed_one_does(name: str) -> None:
    words, value = TYPED[name]
    if name in ("families", "backbones"):  # typed with their shares, stored under the full name
        value = tuple(words.split()[1::2])
    others = [str(value)] if isinstance(value, Path) else [np.int64(value)] if type(value) is int else []
    for given in (value, *others):
        beside = {"second_round": "submission"} if name == "pseudo_weight" else {}  # it is of one
        preset, _ = overridden(None, typed_options({**beside, name: given}))
        assert getattr(getattr(preset, PART_OF[name]), name) == value


def test_what_the_environment_says_counts_as_for_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOMASS_CACHE", "kept")
    assert typed_options({}) == {"cache": Path("kept")}
    assert typed_options({"cache": "other"}) == {"cache": Path("other")}


MISTAKES: dict[str, tuple[Callable[[Study, str], Any], type[UserError], str]] = {
    "an option's name": (lambda s, d: search("x", d, trals=3), OptionError, "did you mean trials"),
    "a type": (lambda s, d: search("x", d, trials="3"), OptionError, "trials is a whole number, got '3'"),
    "a switch": (lambda s, d: search("x", d, trials=3, inline=1), OptionError, "inline is True or False, got 1"),
    "a bound": (lambda s, d: search("x", d, trials=0), OptionError, "trials is at least 1, got 0"),
    "no number": (lambda s, d: search("x", d, hours=float("nan")), OptionError, "hours is at least 0, got nan"),
    "no end": (lambda s, d: search("x", d), OptionError, "give trials=N or hours=H"),
    "a family": (lambda s, d: search("x", d, trials=3, families="prob"), UserError, "did you mean probe"),
    "a preset": (lambda s, d: search("x", d, preset="nothing"), UserError, "a preset is one of"),
    "no data": (lambda s, d: search("x", "gone", trials=3), UserError, "gone is no such folder"),
    "a study in its data": (lambda s, d: search(f"{d}/x", d, trials=3), UserError, "a study is a folder apart"),
    "another seed": (lambda s, d: search(s.uri, d, trials=3, seed=77), StudyError, "seed"),
    "two slots in one process": (lambda s, d: search("x", d, trials=3, slots=2, inline=True), StudyError, "one slot"),
    "no study": (lambda s, d: open_study("gone"), LedgerError, "there is no study"),
    "no trial": (lambda s, d: s.oof("zz"), LedgerError, "there is no trial zz"),
    "a pruned trial": (lambda s, d: s.oof("0002"), LedgerError, "is pruned"),
    "an open trial": (lambda s, d: s.oof("0004"), LedgerError, "is open"),
    "a family without trials": (lambda s, d: s.trials("stack"), UserError, "a family of this study is one of"),
    "no ensemble": (lambda s, d: s.blend("zz"), LedgerError, "there is no ensemble zz"),
    "a rule": (lambda s, d: s.ensemble(rule="loud"), UserError, "unknown rule"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_an_error_of_its_kind(
    name: str, told: Study, tiny_pasture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, kind, words = MISTAKES[name]
    with pytest.raises(kind, match=words) as caught:
        call(told, str(tiny_pasture))
    said = str(caught.value).replace(str(tiny_pasture), "DIR")
    assert len(said) <= 3 * 80 or kind is LedgerError or words in ("seed", "a preset is one of")
    assert not (tmp_path / "x").exists()


def test_a_study_that_is_driven_and_broken_data_are_kinds_of_their_own(
    told: Study, tiny_pasture: Path, own_pasture: Path, tmp_path: Path
) -> None:
    with study_lock(told.ledger, lambda text: None), pytest.raises(LockError):
        search(told.uri, tiny_pasture, trials=9)
    next((own_pasture / "train").iterdir()).unlink()
    with pytest.raises(DataError) as caught:
        search(tmp_path / "x", own_pasture, trials=3)
    assert caught.value.problems
