"""Ranges of the user's own through a study: made with them, changed later, recorded and shown; docs/search.md, run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import hand_made_study as hand
import pytest
from commands import output, refused, words_of
from readme import commands
from released import copy_of, go_on

from biomass_models.families.probe.config import ProbeConfig
from biomass_models.families.registry import BUILT_IN
from orchestration.inspect.show import show_trial
from orchestration.report.sections.provenance import own_ranges_table
from orchestration.search.fold_costs import trained_backbones
from orchestration.search.prepare import change_ranges
from orchestration.search.proposer import DRAWS_UNTIL_EXHAUSTED, Proposer
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.records import StudyRecord, TrialResult
from orchestration.study.spaces import stored_space, with_changes
from orchestration.study.storage import Storage
from search_spaces.domain import Choice, Integer, SearchSpace, Uniform, When
from search_spaces.own_ranges import changed_space
from search_spaces.range_files import RangesError, read_changes
from search_spaces.spaces import space_of

PAGE = Path(__file__).parents[2] / "docs" / "search.md"
TINY = ["--backbone", "test_vit", "--weights", "random", "--scale", "smoke", "--folds", "3"]
HALF_REFUSED = SearchSpace(  # inner layers go with one last layer only
    family="probe",
    config_class=ProbeConfig,
    domains={"layers": Choice((1, 2)), "taps": Choice(("", "0.5+1")), "log10_alpha_low": Uniform(-9.0, 0.0)},
    fixed={"backbone": "net"},
)


def proposer(folder: Path, space: SearchSpace, engine: str = "tpe") -> Proposer:
    ledger = Ledger(Storage(folder))
    return Proposer({"probe": space}, ledger, seed=1, fold_hash="f", weights={"net": "w"}, engine=engine)


@pytest.mark.parametrize("engine", ["tpe", "random"])
def test_points_that_the_configuration_refuses_are_drawn_again(engine: str, tmp_path: Path) -> None:
    """And a search that was rebuilt half-way proposes the same."""

    def ids(folder: Path, lives: int) -> list[str]:
        found = []
        for _ in range(lives):
            search = proposer(folder, HALF_REFUSED, engine)
            for _ in range(24 // lives):
                record = search.propose()
                assert record is not None and (record.config["layers"] == 1 or not record.config["taps"])
                result = TrialResult(status="complete", score=record.config["log10_alpha_low"])
                search.ledger.write_result(record.trial_id, result)
                search.record_result(record.trial_id, result)
                found.append(record.trial_id)
        return found

    whole = ids(tmp_path / "whole", 1)
    assert len(set(whole)) == 24 and ids(tmp_path / "part", 3) == whole


def test_a_space_that_holds_nothing_but_refused_points_ends_with_the_reason(tmp_path: Path) -> None:
    space = SearchSpace(
        family="probe", config_class=ProbeConfig, domains={"layers": Integer(2, 9)},
        fixed={"backbone": "net", "taps": "0.5+1"},
    )  # fmt: skip
    search = proposer(tmp_path, space)
    assert search.propose() is None
    assert search.nothing_left is not None and f"{DRAWS_UNTIL_EXHAUSTED} proposals in a row" in search.nothing_left
    assert "set layers=1 or taps to nothing" in search.nothing_left and "--space" in search.nothing_left


def test_trials_of_other_ranges_are_observed_with_what_was_fixed_then(tmp_path: Path) -> None:
    """A field that is searched now and was fixed before is observed at the value that it had."""
    first = proposer(
        tmp_path,
        SearchSpace(
            family="probe", config_class=ProbeConfig, domains={"alphas": Integer(3, 12)},
            fixed={"backbone": "net", "layers": 2},
        ),
    )  # fmt: skip
    for _ in range(4):
        record = first.propose()
        assert record is not None and set(record.params) == {"alphas"}
        first.ledger.write_result(record.trial_id, TrialResult(status="complete", score=0.5))
    wider = SearchSpace(
        family="probe",
        config_class=ProbeConfig,
        domains={"layers": Choice((1, 2)), "alphas": Integer(3, 6), "flips": When("layers", (2,), Choice((1, 8)))},
        fixed={"backbone": "net"},
    )
    again = proposer(tmp_path, wider)
    assert again.unobserved == []
    (engine,) = [one for (name, _), one in again._engines.items() if name == "tpe"]
    seen = [dict(one.params) for one in engine._observed.values()]  # type: ignore[attr-defined]
    assert all(params["layers"] == 2 and params["flips"] == 1 for params in seen) and len(seen) == 4
    assert again.propose() is not None


def test_a_study_takes_a_change_once_and_notes_it(tmp_path: Path) -> None:
    ledger = hand.empty_study(tmp_path / "s")
    hand.propose(ledger, 0)
    said: list[str] = []
    changes = read_changes(None, ["probe.transform=sqrt", "baseline.dropout=0.1"])
    record = change_ranges(ledger, ledger.study(), changes, said.append)
    assert [(one.family, one.field, one.now, one.trials) for one in record.own_ranges] == [
        ("probe", "transform", '"sqrt"', 1),
        ("baseline", "dropout", "0.1", 1),
    ]
    assert record.own_ranges[0].before == '{choice = ["log1p", "sqrt", "none"]}'
    assert ledger.study().to_json() == record.to_json()
    probe = stored_space(ledger.study(), "probe")
    assert probe is not None and probe.fixed["transform"] == "sqrt"
    assert {probe.config(params).transform for params in probe.first_trials} == {"sqrt"}
    said.clear()
    assert change_ranges(ledger, record, changes, said.append) is record and said == []  # the same command again
    wider = change_ranges(ledger, record, read_changes(None, ["probe.transform=none"]), said.append)
    assert [one.now for one in wider.own_ranges] == ['"sqrt"', "0.1", '"none"']
    with pytest.raises(RangesError, match=r"probe, baseline; got distilled; leave it out$"):
        change_ranges(ledger, record, read_changes(None, ["distilled.dropout=0.1"]), said.append)
    with pytest.raises(RangesError, match=r"one of the study's.*got elsewhere; name it with --backbone"):
        change_ranges(ledger, record, read_changes(None, ["probe.backbone=elsewhere"]), said.append)


def test_ranges_that_are_wider_again_have_the_published_trial_back(tmp_path: Path) -> None:
    """Also one that was left out; what was said once is not said again."""
    ledger = hand.empty_study(tmp_path / "s")
    plain = ledger.study().spaces or {"baseline": space_of("baseline", ("test_vit",), "smoke").to_json()}
    said: list[str] = []

    def change(*typed: str) -> list[dict[str, Any]]:
        record = change_ranges(
            ledger, ledger.study(), read_changes(None, [f"baseline.{one}" for one in typed]), said.append
        )
        return list(record.spaces["baseline"]["first_trials"])

    published = plain["baseline"]["first_trials"]
    assert "origins" not in plain["baseline"]
    (narrow,) = change("dropout=0.4", "transform=none", "head_lr=1e-3")  # both are the same there
    assert "dropout" not in narrow
    said.clear()
    change("clip_norm=3")
    assert not any("dropout" in line or "same as another" in line for line in said)
    (tmp_path / "my.toml").write_text(
        "[baseline]\ndropout = {uniform = [0.0, 0.6]}\ntransform = {choice = ['log1p', 'sqrt', 'none']}\n"
        "head_lr = {log-uniform = [1e-5, 3e-3]}\nclip_norm = 5"
    )
    record = change_ranges(ledger, ledger.study(), read_changes(tmp_path / "my.toml"), said.append)
    again = record.spaces["baseline"]
    assert [dict(params) for params in again["first_trials"]] == published and "origins" not in again


def test_what_follows_a_change_is_noted_and_shown(tmp_path: Path) -> None:
    """A field that depends on the changed one, searched elsewhere since then or not any more."""
    ledger = hand.empty_study(tmp_path / "s")
    trial = hand.propose(ledger, 0, params={"layout": "halves"})
    said: list[str] = []

    def change(typed: str) -> StudyRecord:
        return change_ranges(ledger, ledger.study(), read_changes(None, [f"probe.{typed}"]), said.append)

    follows = change("layout=tiles-3x4").own_ranges[-1]
    assert (follows.field, follows.place) == ("view_merge", "--set probe.layout=tiles-3x4")
    assert (follows.before, follows.now) == (
        '{choice = ["concat", "mean"], when = {layout = ["halves"]}}',
        '{choice = ["concat", "mean"], when = {layout = ["tiles-3x4"]}}',
    )
    assert "probe: view_merge with layout: searched when layout = tiles-3x4" in said
    lost = change("layout=whole").own_ranges[-1]
    why = "used while layout is not whole, and layout is whole alone"
    assert lost.field == "view_merge" and lost.now.endswith(f"  # not searched any more: {why}")
    record = ledger.study()
    assert len(record.own_ranges) == 4 and change("layout=whole").own_ranges == record.own_ranges
    (row,) = [one for one in show_trial(StudyData(ledger), trial).settings if one.name == "view_merge"]
    assert row.range == "never drawn, as layout is whole alone" and row.own == "--set probe.layout=whole, after 1 trial"
    table = own_ranges_table(SimpleNamespace(study=StudyData(ledger)))  # type: ignore[arg-type]
    assert table is not None and why in str(table.rows[-1])


def test_a_file_of_all_families_says_once_which_are_not_searched(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(output("space", "--toml"))
    said: list[str] = []
    with_changes(
        {"probe": space_of("probe", ("net",), "cpu")}, read_changes(tmp_path / "my.toml"), ("net",), said.append
    )
    assert len(said) == len(BUILT_IN) - 1
    assert re.fullmatch(r"my\.toml:\d+: \d+ ranges of baseline are not used; searched: probe", said[0])


def test_a_backbone_has_no_condition(tmp_path: Path) -> None:
    """Where it did not hold, the configuration's own backbone was meant, whose weights nobody has named."""
    (tmp_path / "my.toml").write_text('[probe]\nbackbone = {choice = ["net"], when = {size = [224]}}')
    changes = read_changes(tmp_path / "my.toml")
    for backbones in (("net", "other"), None):
        with pytest.raises(RangesError, match=r"my.toml:2: .*no condition; got when size; leave when out"):
            with_changes({"probe": space_of("probe", ("net", "other"), "cpu")}, changes, backbones, lambda line: None)


@pytest.mark.parametrize(
    "text",
    [
        'backbone = "vit"',
        'backbone = {choice = ["vit", "other.b"]}',
        'flips = {choice = [1, 8], when = {backbone = ["vit"]}}',
    ],
)
def test_a_backbone_may_be_named_without_its_tag(text: str, tmp_path: Path) -> None:
    """As --backbone takes it; the study's name of it is what is searched and stored."""
    found = []
    for name in ("vit", "vit.tag"):
        (tmp_path / "my.toml").write_text(f"[probe]\n{text.replace('vit', name)}")
        space = {"probe": space_of("probe", ("vit.tag", "other.b"), "cpu")}
        changes = read_changes(tmp_path / "my.toml")
        found.append(with_changes(space, changes, ("vit.tag", "other.b"), lambda line: None)[0]["probe"].to_json())
    assert found[0] == found[1]
    twice, typed = ("vit.tag", "vit.other"), read_changes(None, ["probe.backbone=vit"])
    with pytest.raises(RangesError, match="got vit; name it with --backbone"):
        with_changes({"probe": space_of("probe", twice, "cpu")}, typed, twice, lambda line: None)


def test_ranges_that_were_given_once_are_taken_again_with_one_more_edit(tmp_path: Path) -> None:
    """A condition may name a value that its field can have no more, or not at this scale."""
    ledger, file = hand.empty_study(tmp_path / "s"), tmp_path / "my.toml"
    record = ledger.study()
    stack = space_of("stack", record.settings.backbones, "cpu").to_json()
    record = replace(record, spaces={**record.spaces, "stack": stack})
    text = "[stack]\nregressor = {choice = ['ridge', 'kernel']}\nkernel_width = {log-uniform = [LOW, 5.0], WHEN}"
    text = text.replace("WHEN", "when = {regressor = ['kernel', 'svr']}")
    for low in ("0.5", "1.0"):
        file.write_text(text.replace("LOW", low))
        spaces, _ = with_changes(_spaces(record), read_changes(file), None, lambda line: None)
        record = replace(record, spaces={name: space.to_json() for name, space in spaces.items()})
    file.write_text(text.replace("LOW", "1.0").replace("'svr'", "'wrong'"))
    with pytest.raises(RangesError, match="got 'wrong'"):
        with_changes(_spaces(record), read_changes(file), None, lambda line: None)


def _spaces(record: StudyRecord) -> dict[str, SearchSpace]:
    found = {name: stored_space(record, name) for name in record.spaces}
    return {name: space for name, space in found.items() if space is not None}


def test_a_study_of_an_old_version_goes_on_with_other_ranges(tmp_path: Path) -> None:
    ledger = copy_of("finished", tmp_path)
    before = {record.trial_id: record for record in ledger.trials()}
    said: list[str] = []
    go_on(ledger, trials=6)
    changes = read_changes(None, ["baseline.epochs=3", "baseline.head_width=64", "probe.layout=halves"])
    record = change_ranges(ledger, ledger.study(), changes, said.append)
    assert len(record.own_ranges) == 3
    search = go_on(ledger, trials=12, say=said.append)
    assert {record.trial_id: record for record in ledger.trials()} == before
    proposed = []
    while (one := search.propose()) is not None and len(proposed) < 6:
        proposed.append(one)
        search.record_result(one.trial_id, TrialResult(status="complete", score=0.1))
    own = {"baseline": {"epochs": 3, "head_width": 64}, "probe": {"layout": "halves"}}
    assert proposed and all(own.get(one.family, {}).items() <= one.config.items() for one in proposed)


def test_wrong_ranges_are_refused_before_anything_is_written(tmp_path: Path, tiny_pasture: Path) -> None:
    study, file = tmp_path / "s", tmp_path / "my.toml"
    file.write_text("[probe]\nlayer = 1\n\n[baseline]\ndropout = 1.0\n")
    search = ["search", str(study), "--data", str(tiny_pasture), "--trials", "1", *TINY]
    assert re.search(r"my\.toml:2: .*'layer'; did you mean layers", refused(*search, "--space", str(file)))
    file.write_text("[probe]\nlayers = 1\n\n[baseline]\ndropout = 1.0\n")
    assert "my.toml:5: baseline.dropout: the configuration refuses 1.0" in refused(*search, "--space", str(file))
    assert "refuses 3" in refused(*search, "--set", "probe.flips=3")
    assert "check the path" in refused(*search, "--space", str(tmp_path / "nothing.toml"))
    assert "--family distilled" in refused(*search, "--family", "probe", "--set", "distilled.dropout=0.1")
    assert not study.exists()


@pytest.mark.parametrize("family", ["baseline", "distilled", "density"])
@pytest.mark.parametrize(
    ("ranges", "timed"),
    [
        ("{integer = [0, 4]}", True),
        ("{integer = [0, 4], step = 5}", False),
        ("{integer = [0, 0]}", False),
        ("{choice = [0], when = {dropout = [0.3]}}\ndropout = {choice = [0.0, 0.3]}", None),  # elsewhere the default
        ("{choice = [0, 2], when = {dropout = [0.3]}}\ndropout = {choice = [0.0, 0.3]}", True),
        ("3", True),
        ("0", False),
    ],
)
def test_a_backbone_is_timed_where_any_point_of_own_ranges_may_train_it(
    family: str, ranges: str, timed: bool | None, tmp_path: Path
) -> None:
    """However trained_blocks is searched, fixed or left to its default: each point then has the pass that it needs."""
    (tmp_path / "my.toml").write_text(f"[{family}]\ntrained_blocks = {ranges}")
    space = changed_space(space_of(family, ("net",), "cpu"), read_changes(tmp_path / "my.toml"), lambda line: None)
    found, rng = trained_backbones({family: space}, {"net": "w"}), Random(0)
    drawn = [space.draw(rng, {}) for _ in range(100)]
    assert found == (("net",) if any(space.config(params).trained_blocks for params in drawn) else ())
    assert timed is None or timed == bool(found)


@pytest.mark.long
def test_the_page_from_a_file_to_report_and_show(
    tmp_path: Path, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/search.md, word for word, at the size of a test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").symlink_to(tiny_pasture)
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    Path("my.toml").write_text(text)
    said: dict[str, list[str]] = {}
    searches = 0
    for words in commands(page=PAGE):
        assert words[0] == "biomass"
        typed = words[1:]
        if typed[0] == "search":
            searches += 1
            typed[typed.index("--trials") + 1] = str(2 * min(searches, 4))
            typed += ["--inline", "--cache", "cache", *(TINY if searches == 1 else [])]
        if "TRIAL" in typed:
            trial = next(one for one in Ledger(Storage("STUDY")).trials() if one.family == "baseline")
            typed[typed.index("TRIAL")] = trial.trial_id[:6]
        said.setdefault(words[1], []).append(output(*typed))
    assert searches == 4
    ledger = Ledger(Storage("STUDY"))
    record, trials = ledger.study(), ledger.trials()
    assert {"space": "my.toml"}.items() <= record.made_with.overrides.items()
    own = {(one.family, one.field): one for one in record.own_ranges}
    assert {field for family, field in own if family == "baseline"} == {
        "head_lr", "dropout", "clip_norm", "head_width_2",
    }  # fmt: skip
    assert own["baseline", "dropout"].place == "my.toml:3" and own["baseline", "dropout"].now == "0.4"
    later = own["probe", "alpha_per_target"]
    assert later.place == "--set probe.alpha_per_target=true" and later.trials == 4
    follows = own["probe", "view_merge"]
    assert follows.place == own["probe", "layout"].place == "--set probe.layout=tiles-2x4" and follows.trials == 6
    assert follows.now == '{choice = ["concat", "mean"], when = {layout = ["tiles-2x4"]}}'
    assert len(trials) == 8
    for trial in trials:
        config = trial.config
        if trial.family == "probe":
            assert config["transform"] == "sqrt" and (trial.number < 4 or config["alpha_per_target"])
            assert trial.number < 6 or (config["layout"] == "tiles-2x4" and "view_merge" in trial.params)
        else:
            assert config["dropout"] == 0.4 and 1e-4 <= config["head_lr"] <= 1e-3 and 1 <= config["clip_norm"] <= 5
            assert config["head_width_2"] in ((64, 96, 128) if config["head_width"] > 128 else (128,))
    shown, page = (re.sub(r"[│┃]", " ", said["show"][0]), words_of(Path("report.html").read_text()))
    assert max(len(line) for line in shown.splitlines() if "biomass" not in line) <= 80
    shown = " ".join(shown.split())
    assert "my.toml:3" in shown and "biomass refit" in shown and "baseline, complete" in shown
    assert "8 ranges of your own" in page and "my.toml:3" in page and "--set probe.alpha_per_target=true" in page
    assert "fixed: 0.4 (0.4)" in said["space"][2]
    assert '"distilled"' not in said["space"][1] and "[distilled]" in said["space"][1]
