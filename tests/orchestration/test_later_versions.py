"""A study outlives its version: what another release changes, or what is not installed, through the real code paths."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from released import DATA, copy_of, files_of, finish, go_on
from typer.testing import CliRunner

from biomass_models.backbones.weights import WeightsError
from biomass_models.families import configs, registry
from biomass_models.families.introduced import introduced
from biomass_models.families.probe import config as probe_config
from biomass_models.families.probe import introduced as probe_defaults
from biomass_models.families.probe.config import ProbeConfig
from orchestration.cli import app
from orchestration.inspect.audit import audit
from orchestration.inspect.status import status_of
from orchestration.study.ids import make_trial_id, trial_id_of
from orchestration.study.ledger import Ledger, LedgerError, open_ledger
from orchestration.study.record import SCHEMA
from orchestration.study.records import TrialResult
from orchestration.study.settings import StudyError
from orchestration.workers import weights_here
from search_spaces import probe as probe_ranges

pytestmark = pytest.mark.slow

NETWORK = "test_vit.r160_in1k"


@dataclass(frozen=True, kw_only=True, slots=True)
class LaterProbe(ProbeConfig):
    """The probe of a later version: one more field, one other default."""

    alphas: int = 9  # 13 before
    shrink: float = 0.5  # new; 0 is what the family did before

    def __post_init__(self) -> None:
        ProbeConfig.__post_init__(self)


def release_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_config, "FAMILY", replace(probe_config.FAMILY, config_class=LaterProbe))
    monkeypatch.setattr(probe_ranges, "ProbeConfig", LaterProbe)
    monkeypatch.setattr(probe_defaults, "INTRODUCED", {**probe_defaults.INTRODUCED, "shrink": 0.0})


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """An installation that has these families and no other."""
    found = {name: folder for name, folder in registry.folders().items() if name in names}
    monkeypatch.setattr(registry, "folders", lambda: found)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release whose probe has one more field and another default."""
    release_probe(monkeypatch)


def cli(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"})
    return result.exit_code, f"{result.stdout}{result.exception or ''}"


def ids(ledger: Ledger) -> set[str]:
    return {record.trial_id for record in ledger.trials()}


# -- ids ---------------------------------------------------------------------------------------------------------------


def test_defaults_at_introduction_cover_every_field_and_never_change() -> None:
    """This snapshot grows and is never edited: a changed line would give stored trials other ids."""
    snapshot = json.loads((Path(__file__).parents[1] / "studies" / "introduced.json").read_text())
    for family, defaults in snapshot.items():
        assert {name: introduced(family)[name] for name in defaults} == defaults
    for family in registry.BUILT_IN:
        config = registry.family(family).config_class()
        lacking = {
            name: value for name, value in configs.config_to_params(config).items() if name not in introduced(family)
        }
        assert not lacking, f"families/{family}/introduced.py must hold every field; add to INTRODUCED: {lacking}"
        new = {name: value for name, value in introduced(family).items() if name not in snapshot.get(family, {})}
        assert not new, f'tests/studies/introduced.json must hold them too; add to "{family}": {json.dumps(new)}'


def test_neither_a_new_field_nor_a_changed_default_moves_or_takes_over_an_id(later: None) -> None:
    config = {**introduced("probe"), "backbone": NETWORK}
    del config["shrink"]
    before = make_trial_id("probe", config, "w", 0, "f")
    assert make_trial_id("probe", {**config, "shrink": 0.0}, "w", 0, "f") == before
    assert make_trial_id("probe", {**config, "shrink": 0.5}, "w", 0, "f") != before
    today = configs.config_to_params(LaterProbe(backbone=NETWORK))
    assert today["alphas"] == 9 and make_trial_id("probe", {**today, "shrink": 0.0}, "w", 0, "f") != before


# -- a later version's families, ranges and defaults -------------------------------------------------------------------


def test_one_more_field_and_a_changed_default_leave_a_study_as_it_was(later: None, tmp_path: Path) -> None:
    for name, known in (("killed", 3), ("finished", 6)):
        ledger = copy_of(name, tmp_path)
        before, old = files_of(Path(ledger.storage.uri) / "trials"), ids(ledger)
        results = finish(go_on(ledger, trials=known + 3), tmp_path / "cache")
        assert {result.status for result in results.values()} == {"complete"}
        after = files_of(Path(ledger.storage.uri) / "trials")
        assert {path: after[path] for path in before} == before
        new = [record for record in ledger.trials() if record.trial_id not in old and record.family == "probe"]
        assert new and all(one.config["alphas"] == 13 and one.config["shrink"] == 0.0 for one in new)
        assert audit(ledger).clean


def test_a_study_of_this_version_re_proposes_nothing_in_a_later_one(tmp_path: Path, monkeypatch: Any) -> None:
    ledger = copy_of("killed", tmp_path)
    finish(go_on(ledger, trials=7), tmp_path / "cache")
    drawn = [record.params for record in ledger.trials()]
    release_probe(monkeypatch)
    record = ledger.trials()[0]
    assert trial_id_of(record, ledger.study().fold_hash) == record.trial_id
    found = [one for _ in range(4) if (one := go_on(ledger, trials=11).propose())]
    proposer = go_on(ledger, trials=11)
    found = []
    while (one := proposer.propose()) is not None:
        found.append(one)
        proposer.record_result(one.trial_id, TrialResult(status="failed", reason="x"))
    assert found and not any(one.params in drawn for one in found)


def test_an_option_out_of_a_range_and_numbers_outside_are_no_crash(tmp_path: Path, monkeypatch: Any) -> None:
    """0.1.0 stored no ranges: its studies go on with today's, whatever they are."""
    ledger = copy_of("finished", tmp_path)
    gone = ledger.trials()[1].params["transform"]
    ranges = probe_ranges.space

    def fewer(backbones: tuple[str, ...], scale: str) -> Any:
        space = ranges(backbones, scale)
        options = tuple(one for one in space.domains["transform"].options if one != gone)
        first = tuple({**dict(one), "transform": options[0]} for one in space.first_trials)
        return replace(space, domains={**space.domains, "transform": spaces_choice(options)}, first_trials=first)

    def spaces_choice(options: tuple[Any, ...]) -> Any:
        return type(ranges((NETWORK,), "smoke").domains["transform"])(options)

    monkeypatch.setattr(probe_ranges, "space", fewer)
    said: list[str] = []
    proposer = go_on(ledger, trials=8, say=said.append)
    lost = [one for one in proposer.unobserved if one.family == "probe"]
    assert lost and all(one.params["transform"] == gone for one in lost)
    assert sum("outside of the study's ranges" in text for text in said) == 1
    assert len(finish(proposer, tmp_path / "cache")) == 2 and audit(ledger).clean
    assert {record.trial_id for record in lost} <= ids(ledger)


def test_an_open_trial_outside_of_the_ranges_still_ends(tmp_path: Path) -> None:
    ledger = copy_of("killed", tmp_path)
    open_one = next(record for record in ledger.trials() if record.trial_id == "30cb46c9b1")
    ledger.write_trial(replace(open_one, params={**open_one.params, "dropout": 0.9, "no_more": 1}))
    results = finish(go_on(ledger, trials=3), tmp_path / "cache")
    assert results["30cb46c9b1"].status == "complete"
    assert go_on(ledger, trials=3).trials.ended == 3


def test_one_more_family_in_a_release_changes_nothing_for_an_old_command(tmp_path: Path, monkeypatch: Any) -> None:
    from orchestration.search.presets import named as presets

    folders = {**registry.folders(), "newest": registry.folders()["probe"]}
    monkeypatch.setattr(registry, "folders", lambda: folders)
    bigger = presets.smoke().with_fields(families=("baseline", "probe", "distilled", "newest"), trials=40)
    monkeypatch.setitem(presets.PRESETS, "smoke", lambda: bigger)
    ledger = copy_of("finished", tmp_path)
    proposer = go_on(ledger, trials=7)
    assert set(proposer.spaces) == {"baseline", "probe", "distilled"} and proposer.propose() is not None


def test_a_family_that_is_not_installed_is_read_by_all_and_waits(tmp_path: Path, monkeypatch: Any) -> None:
    ledger = copy_of("finished", tmp_path)
    shutil.copy(DATA.parent / "submission.csv", tmp_path)
    only(monkeypatch, "baseline", "probe")
    study = ledger.storage.uri
    assert audit(ledger).clean and status_of(ledger).trials["complete"] == 6
    for arguments in (
        ["status", study],
        ["leaderboard", study],
        ["report", study, "--out", str(tmp_path / "report.html")],
        ["trace", str(tmp_path / "submission.csv")],
        ["ensemble", study, "--out", str(tmp_path / "blend")],
    ):
        assert cli(*arguments)[0] == 0, arguments
    said: list[str] = []
    proposer = go_on(ledger, trials=8, say=said.append)
    assert any(text.startswith("Family distilled cannot be searched") for text in said)
    results = finish(proposer, tmp_path / "cache")
    assert len(results) == 2 and {ledger.trial(name).family for name in results} <= {"baseline", "probe"}
    assert sorted(record.number for record in ledger.trials()) == list(range(8))
    only(monkeypatch)
    with pytest.raises(StudyError, match="needs a family that this version knows"):
        go_on(ledger, trials=9)


# -- records -----------------------------------------------------------------------------------------------------------


def every_record(root: Path) -> list[Path]:
    return [path for path in root.rglob("*.json") if "ensembles" not in path.parts or path.name == "ensemble.json"]


def test_fields_of_a_later_version_are_kept(tmp_path: Path) -> None:
    ledger = copy_of("killed", tmp_path)
    root = Path(ledger.storage.uri)
    for path in every_record(root):
        path.write_text(json.dumps({**json.loads(path.read_text()), "colour": {"of": [1, None]}}))
    settings = json.loads((root / "study.json").read_text())
    settings["settings"]["mood"] = "calm"
    (root / "study.json").write_text(json.dumps(settings))
    finish(go_on(ledger, trials=4), tmp_path / "cache")  # which writes study.json anew
    study = json.loads((root / "study.json").read_text())
    assert study["colour"] == {"of": [1, None]} and study["settings"]["mood"] == "calm" and study["spaces"]
    record = ledger.trials()[0]
    assert record.rest == {"colour": {"of": [1, None]}}
    ledger.write_trial(record)
    stored = json.loads((root / "trials" / record.trial_id / "trial.json").read_text())
    assert stored["colour"] == {"of": [1, None]} and "schema" not in stored


def test_a_newer_schema_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for name in ("study.json", "trials/d701b58692/trial.json"):
        ledger = copy_of("finished", tmp_path / name.replace("/", "-"))
        path = Path(ledger.storage.uri) / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "schema": SCHEMA + 1}))
        with pytest.raises(LedgerError, match=rf"{name}: this version reads records up to schema {SCHEMA}.*upgrade"):
            status_of(open_ledger(ledger.storage.uri))
        with pytest.raises(LedgerError, match="upgrade"):
            go_on(ledger, trials=7)


@pytest.mark.parametrize("harm", ["broken", "gone", "of another kind"])
def test_trials_without_a_sound_study_are_refused_by_everyone(harm: str, tmp_path: Path) -> None:
    ledger = copy_of("finished", tmp_path)
    path = Path(ledger.storage.uri) / "study.json"
    if harm == "gone":
        path.unlink()
    else:
        path.write_text('{"settings": ' if harm == "broken" else '{"settings": {"families": 3}}')
    before = files_of(Path(ledger.storage.uri))
    for arguments in (
        ["status", ledger.storage.uri],
        ["leaderboard", ledger.storage.uri],
        ["audit", ledger.storage.uri],
        ["report", ledger.storage.uri],
        ["ensemble", ledger.storage.uri, "--out", str(tmp_path / "blend")],
        ["search", ledger.storage.uri, "--data", str(DATA), "--preset", "smoke"],
    ):
        code, said = cli(*arguments)
        assert code != 0 and "study.json" in said, (arguments, said)
    with pytest.raises(LedgerError, match=r"study\.json"):
        go_on(ledger, trials=7)
    assert files_of(Path(ledger.storage.uri)) == before


# -- what was typed ----------------------------------------------------------------------------------------------------


def test_only_what_was_typed_is_compared(tmp_path: Path) -> None:
    ledger = copy_of("finished", tmp_path)
    for preset in ("smoke", None):
        assert go_on(ledger, trials=7, preset=preset).trials.ended == 6
    for typed, named in (
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"folds": 5}, "folds: 3 -> 5"),
        ({"scale": "cpu"}, "scale: 'smoke' -> 'cpu'"),
        ({"weights": "auto"}, "weights: 'random' -> 'trained'"),
        ({"scheme": "random"}, "scheme: 'date' -> 'random'"),
        ({"families": ("probe",), "shares": ()}, "families: "),
        ({"preset": "cpu_overnight"}, "scale: 'smoke' -> 'cpu'"),  # another preset names what it sets
    ):
        with pytest.raises(StudyError, match=named):
            go_on(ledger, trials=7, **typed)
    families = ("distilled", "probe", "baseline")
    same = go_on(ledger, trials=7, seed=0, scale="auto", families=families, shares=(), backbones=("test_vit",))
    assert same.trials.ended


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_networks(tmp_path: Path) -> Ledger:
    """The finished study, as if it had been made with two networks."""
    ledger = copy_of("finished", tmp_path)
    study = ledger.study()
    settings = replace(study.settings, backbones=(NETWORK, "test_resnet.r160_in1k"))
    weights = {name: f"random-{name}" for name in settings.backbones}
    ledger.update_study(replace(study, settings=settings, weights=weights))
    return ledger


def test_a_network_that_is_away_waits(two_networks: Ledger, tmp_path: Path, monkeypatch: Any) -> None:
    proposer = go_on(two_networks, trials=12)
    proposed = [one for _ in range(6) if (one := proposer.propose())]
    other = [one for one in proposed if one.config["backbone"] != NETWORK]
    assert other, "the second network is searched"
    real = weights_here.fingerprint

    def away(name: str, source: Any) -> str:
        if name != NETWORK:
            raise WeightsError(f"put {name} into a folder")
        return real(name, source)

    monkeypatch.setattr(weights_here, "fingerprint", away)
    said: list[str] = []
    again = go_on(two_networks, trials=16, say=said.append)
    assert sum("its open trials wait" in text for text in said) == 1
    assert {one.trial_id for one in again.trials.set_aside} == {one.trial_id for one in other}
    results = finish(again, tmp_path / "cache")
    assert all(two_networks.trial(name).config["backbone"] == NETWORK for name in results)
    assert len(results) == 10 - len(other) and again.trials.open == 0

    def nothing(name: str, source: Any) -> str:
        raise WeightsError(f"put {name} into a folder")

    monkeypatch.setattr(weights_here, "fingerprint", nothing)
    with pytest.raises(WeightsError, match="into a folder"):
        go_on(two_networks, trials=20)


def test_other_contents_of_a_weights_file_are_taken_only_where_nothing_was_trained(
    two_networks: Ledger, monkeypatch: Any
) -> None:
    monkeypatch.setattr(
        weights_here, "fingerprint", lambda name, source: "new" if name != NETWORK else f"random-{name}"
    )
    proposed = go_on(two_networks, trials=12)
    opened = [one for _ in range(6) if (one := proposed.propose())]
    assert two_networks.study().weights["test_resnet.r160_in1k"] == "new"
    monkeypatch.setattr(
        weights_here, "fingerprint", lambda name, source: "newer" if name != NETWORK else f"random-{name}"
    )
    said: list[str] = []
    again = go_on(two_networks, trials=12, say=said.append)
    assert any("are others than before" in text for text in said)
    stale = [one.trial_id for one in opened if one.weights == "new"]
    assert stale and all(two_networks.result(name).status == "failed" for name in stale)  # type: ignore[union-attr]
    assert again.trials.set_aside == []
    monkeypatch.setattr(weights_here, "fingerprint", lambda name, source: "other")
    with pytest.raises(StudyError, match="must stay those of the finished folds"):
        go_on(two_networks, trials=12)


# -- data --------------------------------------------------------------------------------------------------------------


def changed_data(folder: Path) -> Path:
    """Two photographs added, two labels changed, one photograph replaced."""
    data = Path(shutil.copytree(DATA, folder / "data"))
    lines = (data / "train.csv").read_text().splitlines()
    first = [line for line in lines[1:] if line.startswith(lines[1].split("__")[0])]
    for number in range(2):
        name = f"ID99{number}"
        shutil.copy(sorted((data / "train").glob("*.jpg"))[0], data / "train" / f"{name}.jpg")
        lines += [line.replace(lines[1].split("__")[0], name) for line in first]
    for place in (6, 7):
        cells = lines[place].split(",")
        lines[place] = ",".join([*cells[:-1], str(float(cells[-1]) + 1)])
    (data / "train.csv").write_text("\n".join(lines) + "\n")
    victim = sorted((data / "train").glob("ID1*.jpg"))[-1]
    shutil.copy(sorted((data / "test").glob("*.jpg"))[0], victim)
    return data


def test_changed_data_are_described(tmp_path: Path) -> None:
    ledger, data = copy_of("finished", tmp_path), changed_data(tmp_path)
    with pytest.raises(StudyError, match=r"2 photographs added \(ID990, ID991\), 2 labels changed \(ID\S+ \S+, ID"):
        go_on(ledger, trials=7, data=data)
    go_on(ledger, trials=7)  # notes the photographs' contents, which 0.1.0 did not
    with pytest.raises(StudyError, match=r"2 labels changed .*, 1 photograph replaced \(ID1\d+\)") as told:
        go_on(ledger, trials=7, data=data)
    assert len(str(told.value)) < 3 * 80 + len(str(data)) + len(ledger.storage.uri)
