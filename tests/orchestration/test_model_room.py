"""Models within --weights-gb: the worst go, on record; what lost its model is whole to every reader and can have it
back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from blended_study import InlinePredictor, finished_study
from hypothesis import given
from hypothesis import strategies as st
from tiny_study import RANDOM
from typer.testing import CliRunner

from biomass_models.data.table import read_test, read_train
from biomass_models.features.inputs import ImageSet
from orchestration.blending.blend import BlendOptions, make_cards
from orchestration.blending.members import FileMembers, gather
from orchestration.cli import app
from orchestration.inspect.audit import audit
from orchestration.inspect.repair import plan_repair
from orchestration.search.incumbent import Incumbent
from orchestration.search.model_room import BROKEN, GB, HOPELESS, USEFUL, Held, ModelRoom, trials_to_drop
from orchestration.search.trial import run_trial
from orchestration.study.data import StudyData
from orchestration.study.data_changes import data_fingerprint
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import TrialRef, TrialResult
from orchestration.study.storage import AT_ONCE, Storage
from orchestration.workers.context import WorkerContext
from orchestration.workers.refit import dropped_folds, restore_models
from orchestration.workers.slots.inline_pool import InlinePool

pytestmark = pytest.mark.slow

TRIALS = [
    Held("best", 10, (USEFUL, 0.9)),
    Held("good", 10, (USEFUL, 0.8)),
    Held("poor", 10, (USEFUL, 0.1)),
    Held("hopeful", 3, (HOPELESS, 0.5)),
    Held("hopeless", 3, (HOPELESS, -2.0)),
    Held("broken", 2, (BROKEN, 0.0)),
]


def test_the_worst_go_first_members_last_and_the_best_never() -> None:
    def dropped(limit: int, *members: str, running: int = 0) -> list[str]:
        return trials_to_drop(TRIALS, running, limit, members)

    assert dropped(38) == []
    assert dropped(37) == ["broken"]
    assert dropped(35) == ["broken", "hopeless"]
    assert dropped(37, running=2) == ["broken", "hopeless"]
    assert dropped(20) == ["broken", "hopeless", "hopeful", "poor"]
    assert dropped(20, "poor", "hopeless") == ["broken", "hopeful", "good", "hopeless"]
    assert dropped(0, "good") == ["broken", "hopeless", "hopeful", "poor", "good"]
    assert trials_to_drop([], 100, 0, ()) == []
    assert trials_to_drop([TRIALS[-1]], 0, 0, ()) == ["broken"]


RANKS = st.tuples(st.sampled_from([BROKEN, HOPELESS, USEFUL]), st.floats(-1, 1))


@given(st.lists(st.tuples(st.integers(0, 9), RANKS), max_size=12), st.integers(0, 20), st.integers(0, 80), st.data())
def test_the_limit_holds_where_it_can_and_no_trial_goes_in_vain(
    sizes: list[tuple[int, tuple[int, float]]], running: int, limit: int, data: st.DataObject
) -> None:
    held = [Held(f"{number:02d}", *one) for number, one in enumerate(sizes)]
    members = data.draw(st.sets(st.sampled_from([one.trial_id for one in held]))) if held else set[str]()
    gone = trials_to_drop(held, running, limit, members)
    size = {one.trial_id: one.size for one in held}
    left = running + sum(size.values()) - sum(size[name] for name in gone)
    complete = [one for one in held if one.rank[0] == USEFUL]
    best = max(complete, key=lambda one: (*one.rank, one.trial_id)).trial_id if complete else None
    kept = {name for name in size if name not in gone and size[name]}
    assert left <= limit or kept <= {best}
    assert best not in gone and len(set(gone)) == len(gone)
    if gone:  # one fewer would not have been enough
        assert left + size[gone[-1]] > limit
    if set(gone) & members:
        assert all(name in gone or name == best for name in kept | set(gone) if name not in members)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> tuple[Path, Path]:
    """A study with three complete trials; to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    ledger = finished_study(folder / "study", tiny_pasture, folder / "cache")
    table = read_train(tiny_pasture)
    joined = table.merge(ledger.quadrats()[["image_id", "fold", "group"]], on="image_id")
    fingerprint = data_fingerprint(joined, ImageSet.from_table(tiny_pasture, table).digest)
    ledger.update_study(replace(ledger.study(), data_fingerprint=fingerprint))
    return folder / "study", folder / "cache"


@pytest.fixture
def study(finished: tuple[Path, Path], tmp_path: Path) -> tuple[Ledger, list[str], Path]:
    """Its ledger, its trials from the worst to the best, and the cache."""
    shutil.copytree(finished[0], tmp_path / "study")
    ledger = Ledger(Storage(tmp_path / "study"))
    incumbent = Incumbent(StudyData(ledger))
    incumbent.refresh()
    return ledger, incumbent.complete[::-1], finished[1]


def models(ledger: Ledger) -> dict[str, bytes]:
    root = Path(ledger.storage.uri)
    return {str(path.relative_to(root / "trials")): path.read_bytes() for path in root.rglob("model.safetensors")}


def make_room(ledger: Ledger, limit: int, say: Callable[[str], None] = lambda text: None) -> None:
    incumbent = Incumbent(StudyData(ledger))
    incumbent.refresh()
    ModelRoom(ledger, limit / GB, say).drop_over_limit(incumbent)


def drop(ledger: Ledger, trial: str) -> None:
    for fold in range(3):
        ledger.drop_model(trial, fold, "--weights-gb 1")


def test_models_are_kept_within_the_limit_on_record(study: tuple[Ledger, list[str], Path]) -> None:
    ledger, (worst, middle, best), _ = study
    before = models(ledger)
    size = {name: sum(len(model) for path, model in before.items() if path.startswith(name)) for name in
            (worst, middle, best)}  # fmt: skip
    total, said = sum(size.values()), list[str]()
    make_room(ledger, total)
    assert models(ledger) == before
    make_room(ledger, total - 1, said.append)
    assert {path.split("/")[0] for path in models(ledger)} == {middle, best}
    assert dropped_folds(ledger, worst) == [0, 1, 2] and dropped_folds(ledger, best) == []
    record = ledger.dropped_model(worst, 0)
    assert record is not None and record.why.startswith("--weights-gb") and said == []
    make_room(ledger, 1, said.append)
    assert {path.split("/")[0] for path in models(ledger)} == {best}
    assert len(said) == 1 and "the best trial and of open ones take" in said[0] and "raise it" in said[0]
    assert all(before[path] == model for path, model in models(ledger).items())


def test_what_a_blend_uses_goes_last(study: tuple[Ledger, list[str], Path]) -> None:
    ledger, (worst, middle, best), _ = study
    own = TrialRef(ledger.storage.uri, worst)
    ledger.write_ensemble("blend", {"members": {}}, {worst: own}, b"")
    ledger.write_failure(middle, "the lamp went out")  # a failed trial goes before the member, whatever its models take
    room = sum(len(model) for path, model in models(ledger).items() if not path.startswith(middle))
    make_room(ledger, room)
    assert {path.split("/")[0] for path in models(ledger)} == {worst, best}


def test_running_trials_count_and_keep_their_models(study: tuple[Ledger, list[str], Path]) -> None:
    ledger, (worst, _, best), _ = study
    ledger.reopen(worst)
    make_room(ledger, 1)
    assert {path.split("/")[0] for path in models(ledger)} == {worst, best}


def test_a_fold_without_its_model_is_finished_for_every_reader(study: tuple[Ledger, list[str], Path]) -> None:
    ledger, (worst, *_), cache = study
    oof, metrics = ledger.oof(worst), [ledger.fold_metrics(worst, fold) for fold in range(3)]
    board = CliRunner().invoke(app, ["leaderboard", ledger.storage.uri, "--json"]).stdout
    before = audit(ledger)
    drop(ledger, worst)
    assert [ledger.fold_metrics(worst, fold) for fold in range(3)] == metrics and ledger.oof(worst).equals(oof)
    after = audit(ledger)
    assert after.problems == before.problems and after.folds == before.folds and after.dropped == 3
    assert "without their model, as recorded" in str(after) and plan_repair(ledger).folds == 0
    assert CliRunner().invoke(app, ["leaderboard", ledger.storage.uri, "--json"]).stdout == board
    assert "note:" not in CliRunner().invoke(app, ["status", ledger.storage.uri]).output
    gathered = gather([ledger.storage.uri], FileMembers(), test_ids=None, seed=0, say=lambda text: None)
    assert worst in gathered.trials
    context = WorkerContext(study=ledger.storage.uri, data_dir="nowhere", cache=str(cache), weights=RANDOM)
    ledger.reopen(worst)  # a search that takes it up again finds all its folds
    again = run_trial(ledger, InlinePool(context), worst)
    assert again is not None and again.status == "complete"


class CountedStorage(Storage):
    """Of an object store in memory: notes each request, and how many of them had to be waited for one by one."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.asked: list[str] = []
        self.waits = 0
        self._together = False

    def _noted(self, what: str, answer: Callable[[str], Any], name: str) -> Any:
        self.asked.append(what)
        self.waits += not self._together
        return answer(name)

    def read(self, name: str) -> bytes:
        return self._noted("read", super().read, name)

    def size(self, name: str) -> int | None:
        return self._noted("size", super().size, name)

    def children(self, folder: str) -> list[str]:
        return self._noted("list", super().children, folder)

    def sizes(self, folder: str) -> dict[str, int]:
        return self._noted("list", super().sizes, folder)

    def each(self, question: Callable[[str], Any], names: Iterable[str]) -> list[Any]:
        asked = list(names)
        self.waits += -(-len(asked) // AT_ONCE)
        self._together = True
        try:
            return [question(name) for name in asked]
        finally:
            self._together = False


def test_an_object_store_is_asked_little_however_many_trials_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request takes milliseconds, in the thread that watches the search: 300 ended trials and 96 open ones."""
    storage = CountedStorage("mock:///study")
    storage.filesystem.create_dir("study", recursive=True)
    ledger, names = Ledger(storage), [f"{number:010x}" for number in range(396)]
    monkeypatch.setattr(ledger, "quadrats", lambda: pd.DataFrame({"fold": range(5)}))

    def put(trial: str, fold: int) -> None:
        storage.filesystem.create_dir(f"study/trials/{trial}/fold-{fold}", recursive=True)
        storage.write(f"trials/{trial}/fold-{fold}/model.safetensors", b"x" * 10)

    for name in names[:300]:
        for fold in range(5):
            put(name, fold)
    for name in names[300:]:
        put(name, 0)
    results = {name: TrialResult(status="complete", score=number / 300) for number, name in enumerate(names[:300])}
    incumbent = SimpleNamespace(results=results, best=lambda _: [])

    def asked(room: ModelRoom) -> tuple[int, int]:
        storage.asked.clear()
        storage.waits = 0
        room.drop_over_limit(incumbent)  # type: ignore[arg-type]
        return len(storage.asked), storage.waits

    far, near = ModelRoom(ledger, 1.0, print), ModelRoom(ledger, 16_000 / GB, print)
    assert max(*asked(far), *asked(near)[1:]) <= 8  # one listing of everything: moto has 1000 files a page
    for number in (300, 301):
        for fold in range(1, 5):
            put(names[number], fold)
        results[names[number]] = TrialResult(status="complete", score=1.0)
        requests, waits = asked(far)
        assert requests <= 5 and waits <= 5
        requests, waits = asked(near)
        assert requests <= 5 + 96 and waits <= 5 + 3  # open ones are looked at, many at a time
    for fold in range(1, 5):  # the open ones grow over the limit: the worst trial pays
        for name in names[302:]:
            put(name, fold)
    put(names[302], 4)
    results[names[302]] = TrialResult(status="complete", score=1.0)
    near.drop_over_limit(incumbent)  # type: ignore[arg-type]
    left = ledger.model_sizes()
    assert sum(sum(sizes.values()) for sizes in left.values()) <= 16_000 and left[names[0]] == {}


def test_a_death_between_record_and_deletion_costs_nothing(study: tuple[Ledger, list[str], Path]) -> None:
    ledger, (worst, *_), _ = study
    model = models(ledger)[f"{worst}/fold-0/model.safetensors"]
    ledger.drop_model(worst, 0, "--weights-gb 1")
    ledger.storage.write(f"trials/{worst}/fold-0/model.safetensors", model)  # as if it had not been deleted yet
    assert audit(ledger).dropped == 1 and 0 not in ledger.model_sizes([worst])[worst]
    with pytest.raises(LedgerError, match="was dropped"):
        ledger.fold_model(worst, 0)


def test_restoring_brings_back_the_same_bytes(study: tuple[Ledger, list[str], Path], tiny_pasture: Path) -> None:
    ledger, trials, cache = study
    before = models(ledger)
    for trial in trials:
        drop(ledger, trial)
        with pytest.raises(LedgerError, match="brings it back") as told:
            ledger.fold_model(trial, 1)
        command = re.search(r"`biomass (refit .* --restore)`", str(told.value))
        assert command is not None
        arguments = command[1].replace("DIR", str(tiny_pasture)).split()
        done = CliRunner().invoke(app, [*arguments, "--cache", str(cache)])
        assert done.exit_code == 0, done.exception
        assert done.stdout.count("restored fold") == 3 and done.stdout.count("bit for bit") == 3
    assert models(ledger) == before and audit(ledger).dropped == 0
    again = CliRunner().invoke(app, [*arguments, "--cache", str(cache)])
    assert isinstance(again.exception, LedgerError) and "has all its models" in str(again.exception)


def test_a_model_of_other_data_is_not_put_back(
    study: tuple[Ledger, list[str], Path], own_pasture: Path, tiny_pasture: Path
) -> None:
    ledger, (worst, *_), cache = study
    drop(ledger, worst)
    one, other, *_ = sorted((own_pasture / "train").glob("*.jpg"))
    one.write_bytes(other.read_bytes())
    with pytest.raises(LedgerError, match=r"restored from what it was made of; .*replaced.*; give those"):
        restore_models(ledger, worst, own_pasture, cache_dir=cache, weights=RANDOM)
    assert dropped_folds(ledger, worst) == [0, 1, 2]
    restore_models(ledger, worst, tiny_pasture, cache_dir=cache, weights=RANDOM)
    assert dropped_folds(ledger, worst) == []


def test_a_model_that_differs_is_put_back_on_record(study: tuple[Ledger, list[str], Path], tiny_pasture: Path) -> None:
    """As on another kind of machine: the rows that the study keeps are not quite those of the model fitted here."""
    ledger, (worst, *_), cache = study
    rows, metrics = ledger.fold_oof(worst, 0), ledger.fold_metrics(worst, 0)
    assert metrics is not None
    rows["Dry_Dead_g"] += 0.25
    ledger.write_fold(worst, oof=rows, model=b"of another machine", metrics=metrics)
    ledger.drop_model(worst, 0, "--weights-gb 1")
    (again,) = restore_models(ledger, worst, tiny_pasture, cache_dir=cache, weights=RANDOM)
    assert not again.same and "0.25 g apart" in str(again)
    marker = ledger.fold_metrics(worst, 0)
    assert marker is not None and marker.restored is not None
    assert marker.restored.largest_difference_g == pytest.approx(0.25)
    assert ledger.fold_model(worst, 0) != b"of another machine" and ledger.fold_oof(worst, 0).equals(rows)


def test_members_without_models_predict_the_same(study: tuple[Ledger, list[str], Path], tiny_pasture: Path) -> None:
    ledger, trials, cache = study
    members = {name: TrialRef(ledger.storage.uri, name) for name in trials}
    kept = InlinePredictor(tiny_pasture, cache).test(members, flips=1)
    shutil.rmtree(Path(ledger.storage.uri) / "ensembles")
    drop(ledger, trials[0])
    drop(ledger, trials[2])
    predictor = InlinePredictor(tiny_pasture, cache)
    restored = predictor.test(members, flips=1)
    assert all((kept[name] == restored[name]).all() for name in trials)
    assert [outcome.status for outcome in predictor.outcomes] == ["done"] * (2 + 1)  # two trials, one shard
    drop(ledger, trials[0])
    InlinePredictor(tiny_pasture, cache).test(members, flips=1)  # kept predictions need no model
    assert dropped_folds(ledger, trials[0]) == [0, 1, 2]


def test_commands_that_need_the_models_say_how_to_get_them(
    study: tuple[Ledger, list[str], Path], tiny_pasture: Path, tmp_path: Path
) -> None:
    ledger, (worst, *_), cache = study
    drop(ledger, worst)
    image = str(read_test(tiny_pasture)["image_id"].iloc[0])
    explain = ["explain", ledger.storage.uri, worst, "--image", image, "--data", str(tiny_pasture)]
    explain += ["--cache", str(cache), "--out", str(tmp_path / "picture.png")]
    own = {worst: TrialRef(ledger.storage.uri, worst)}
    gathered = gather([ledger.storage.uri], FileMembers(), test_ids=None, seed=0, say=lambda text: None)
    card = replace(make_cards(gathered, BlendOptions(), None, lambda text: None)[0], members={worst: 1.0})
    ledger.write_ensemble("blend", card.to_json(), own, b"")
    export = ["export", ledger.storage.uri, "blend", "--out", str(tmp_path / "bundle")]
    for command in (explain, export):
        refused = CliRunner().invoke(app, command)
        assert isinstance(refused.exception, LedgerError) and f"{worst} --data DIR --restore" in str(refused.exception)
    assert not (tmp_path / "bundle").exists()
    restore_models(ledger, worst, tiny_pasture, cache_dir=cache, weights=RANDOM)
    for command in (explain, export):
        assert CliRunner().invoke(app, command).exit_code == 0
