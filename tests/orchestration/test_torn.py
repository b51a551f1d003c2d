"""A torn file costs what it held: every reader goes on and names it, a repair reopens it, the next search makes it
again with the same bytes. Each remedy that is printed on the way is carried out here."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_study import make_study
from typer.testing import CliRunner

from biomass_models.targets import TARGETS
from ensembles.members.library import LibraryError
from orchestration.blending.members import FileMembers, gather
from orchestration.cli import app
from orchestration.inspect.audit import audit
from orchestration.inspect.repair import plan_repair
from orchestration.search.incumbent import Incumbent
from orchestration.search.trial import run_trial
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.lock import LockError, study_lock
from orchestration.study.storage import Storage
from orchestration.workers.context import WorkerContext
from orchestration.workers.jobs import FoldJob, Outcome
from orchestration.workers.pool import Job, Priority
from orchestration.workers.slots.inline_pool import InlinePool

pytestmark = pytest.mark.slow


class Counting(InlinePool):
    """Counts the folds that are really computed."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self.computed: list[tuple[str, int]] = []

    def run(self, jobs: list[Job], priority: Priority) -> Iterator[tuple[Job, Outcome]]:
        for job, outcome in super().run(jobs, priority):
            assert isinstance(job, FoldJob)
            self.computed.append((job.trial_id, job.fold))
            yield job, outcome


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> tuple[Path, WorkerContext]:
    """A study with a complete trial of each family, a blend of them, and references; to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    ledger, context, records = make_study(folder / "study", tiny_pasture, folder / "cache")
    for record in records:
        run_trial(ledger, InlinePool(context), record.trial_id)
    names = [record.trial_id for record in records]
    ledger.write_references(ledger.oof(names[0])[["image_id", *TARGETS]].assign(reference="colour ridge"))
    ledger.write_ensemble("blend", {"members": {}}, {}, b"sample_id,target\n")
    assert audit(ledger).clean, str(audit(ledger))
    return folder, context


@pytest.fixture
def study(finished: tuple[Path, WorkerContext], tmp_path: Path) -> tuple[Ledger, WorkerContext]:
    folder, context = finished
    shutil.copytree(folder / "study", tmp_path / "study")
    context = replace(context, study=str(tmp_path / "study"))
    return Ledger(Storage(tmp_path / "study")), context


def search_on(ledger: Ledger, context: WorkerContext) -> list[tuple[str, int]]:
    """What a search does with open trials; returns the folds that it computed."""
    pool = Counting(context)
    for record in ledger.trials():
        run_trial(ledger, pool, record.trial_id)
    return pool.computed


def tree(ledger: Ledger) -> dict[str, str]:
    root = Path(ledger.storage.uri)
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


FILES = {  # file of a complete trial -> folds that are computed again when it is torn
    "oof.parquet": 0, "result.json": 0,
    "fold-1": 1, "fold-1/metrics.json": 1, "fold-1/oof.parquet": 1, "fold-1/model.safetensors": 1,
    "fold-1/attention.parquet": 1,
}  # fmt: skip
WAYS: dict[str, Callable[[Path], None]] = {"gone": remove, "cut": cut, "flipped": flip, "empty": text("")}
DAMAGE = [(name, way) for name in FILES for way in (["gone"] if name == "fold-1" else WAYS)]
DAMAGE += [(name, way) for name in ("result.json", "fold-1/metrics.json") for way in ("a list", "of other types")]
WAYS |= {"a list": text("[1]"), "of other types": text('{"status": 3, "fold": "x", "files": 7}')}


@pytest.mark.parametrize(("name", "way"), DAMAGE)
def test_a_torn_file_of_a_trial_is_named_skipped_and_made_again(
    study: tuple[Ledger, WorkerContext], name: str, way: str
) -> None:
    ledger, context = study
    torn = Incumbent(StudyData(ledger))
    torn.refresh()
    trial = torn.complete[0]  # the incumbent: all others are compared with it
    if name.endswith("attention.parquet"):  # only one family says where it looked
        trial = next(one.trial_id for one in ledger.trials() if one.family == "distilled")
    before, files = ledger.oof(trial), tree(ledger)
    path = Path(ledger.storage.uri) / "trials" / trial / name
    WAYS[way](path)
    if way == "flipped" and audit(ledger).clean:  # a marker with another digit in a number that nothing vouches for
        assert name.endswith(".json")
        return

    seen = readers_go_on(ledger)
    if name == "oof.parquet" or (way == "gone" and name.startswith("fold-1") and "attention" not in name):
        assert seen.count(trial) >= 3 and "biomass repair" in seen
    problems = audit(ledger)
    assert not problems.clean
    assert any(trial in line for line in [*problems.problems, *problems.open])

    damaged = tree(ledger)
    plan = plan_repair(ledger)
    assert tree(ledger) == damaged  # a dry run
    shown = CliRunner().invoke(app, ["repair", ledger.storage.uri, "--yes"])
    assert shown.exit_code == 0, shown.output
    if plan.steps:
        assert f"trial {trial}" in shown.stdout
    assert search_on(ledger, context) == [(trial, 1)] * FILES[name]
    assert plan.folds == FILES[name]
    assert audit(ledger).clean, str(audit(ledger))
    assert ledger.oof(trial).equals(before)
    changed = {path for path, digest in tree(ledger).items() if files.get(path) != digest}
    assert all(f"/trials/{trial}/" in path or "/tensorboard/" in path for path in changed)
    assert CliRunner().invoke(app, ["repair", ledger.storage.uri]).stdout.strip() == "nothing to repair"


def readers_go_on(ledger: Ledger) -> str:
    """Every command that only reads ends well; returns all that they say."""
    study = ledger.storage.uri
    report = Path(study).parent / "report.html"
    commands = [["status", study], ["leaderboard", study], ["report", study, "--out", str(report)]]
    commands += [["replay", study]]
    seen = ""
    for command in commands:
        done = CliRunner().invoke(app, command)
        if not isinstance(done.exception, LibraryError):  # trials without skill are no members, torn or not
            assert done.exit_code == 0, f"{command}: {done.output} {done.exception}"
        seen += done.output
    with contextlib.suppress(LibraryError):
        gather([study], FileMembers(), test_ids=None, seed=0, say=lambda line: None)
    incumbent = Incumbent(StudyData(ledger))
    incumbent.refresh()
    assert set(incumbent.best(5)) == set(incumbent.complete)
    incumbent.blend_score()
    return seen


def test_a_torn_record_is_set_aside_and_its_folds_serve_when_it_is_proposed_again(
    study: tuple[Ledger, WorkerContext],
) -> None:
    ledger, context = study
    record = ledger.trials()[0]
    before = ledger.oof(record.trial_id)
    cut(Path(ledger.storage.uri) / "trials" / record.trial_id / "trial.json")
    readers_go_on(ledger)
    with pytest.raises(LedgerError, match=r"trial\.json cannot be read; `biomass repair"):
        ledger.trial(record.trial_id)
    assert f"trial {record.trial_id} is left out" in CliRunner().invoke(app, ["status", ledger.storage.uri]).output
    CliRunner().invoke(app, ["repair", ledger.storage.uri, "--yes"])
    assert audit(ledger).clean and len(ledger.trials()) == 2 and len(ledger.results()) == 2
    assert "has lost" not in CliRunner().invoke(app, ["status", ledger.storage.uri]).output
    ledger.write_trial(record)
    assert search_on(ledger, context) == []
    assert audit(ledger).clean and ledger.oof(record.trial_id).equals(before)


def test_a_failed_trial_that_lost_a_fold_is_computed_again_when_it_is_retried(
    study: tuple[Ledger, WorkerContext],
) -> None:
    ledger, context = study
    trial = ledger.trials()[0].trial_id
    ledger.write_failure(trial, "the lamp went out")
    cut(Path(ledger.storage.uri) / "trials" / trial / "fold-0" / "oof.parquet")
    shown = CliRunner().invoke(app, ["repair", ledger.storage.uri, "--yes"]).stdout
    assert "fold 0 is computed again, with --retry-failed" in shown
    assert audit(ledger).clean and search_on(ledger, context) == []
    ledger.reopen(trial)
    assert search_on(ledger, context) == [(trial, 0)] and audit(ledger).clean


def test_torn_tables_beside_the_trials_are_made_anew(study: tuple[Ledger, WorkerContext]) -> None:
    ledger, _ = study
    root = Path(ledger.storage.uri)
    cut(root / "references.parquet")
    flip(root / "ensembles" / "blend" / "submission.csv")
    with pytest.raises(LedgerError, match=r"submission\.csv is not the file .*; `biomass ensemble` makes it anew"):
        ledger.submission("blend")
    readers_go_on(ledger)
    assert len(audit(ledger).problems) == 2
    CliRunner().invoke(app, ["repair", ledger.storage.uri, "--yes"])
    assert audit(ledger).clean and ledger.ensemble_names() == []
    assert ledger.storage.size("references.parquet") is None  # the search makes them where they are not there
    ledger.write_ensemble("blend", {"members": {}}, {}, b"sample_id,target\n")
    assert audit(ledger).clean


@pytest.mark.parametrize("way", ["gone", "cut", "flipped"])
def test_an_open_trial_mends_its_own_folds(study: tuple[Ledger, WorkerContext], way: str) -> None:
    ledger, context = study
    trial = ledger.trials()[0].trial_id
    before = ledger.oof(trial)
    ledger.reopen(trial)
    WAYS[way](Path(ledger.storage.uri) / "trials" / trial / "fold-2" / "oof.parquet")
    with pytest.raises(LedgerError, match=r"fold-2/oof\.parquet .*; run `biomass search` again to resume it"):
        ledger.fold_oof(trial, 2)
    assert search_on(ledger, context) == [(trial, 2)]
    assert ledger.oof(trial).equals(before) and audit(ledger).clean


@pytest.mark.parametrize("way", ["gone", "cut", "empty"])
def test_a_study_without_its_table_says_what_to_do(study: tuple[Ledger, WorkerContext], way: str) -> None:
    ledger, _ = study
    path = Path(ledger.storage.uri) / "quadrats.parquet"
    content = path.read_bytes()
    WAYS[way](path)
    for command in ("status", "leaderboard", "audit", "replay", "repair"):
        failed = CliRunner().invoke(app, [command, ledger.storage.uri])
        assert isinstance(failed.exception, LedgerError)
        assert f"{path}" in str(failed.exception) and "copy it back" in str(failed.exception)
    path.write_bytes(content)  # from another copy of the study
    assert audit(ledger).clean


def test_a_repair_leaves_what_no_computation_can_mend(study: tuple[Ledger, WorkerContext]) -> None:
    ledger, _ = study
    trial = ledger.trials()[0].trial_id
    ledger.note_fold_start(trial, 1)
    before = tree(ledger)
    shown = CliRunner().invoke(app, ["repair", ledger.storage.uri, "--yes"])
    assert shown.exit_code == 1 and "left as it is" in shown.stdout and "nothing to repair" in shown.stdout
    assert tree(ledger) == before


def test_a_repair_waits_for_the_driver_of_the_study(study: tuple[Ledger, WorkerContext]) -> None:
    ledger, _ = study
    cut(Path(ledger.storage.uri) / "trials" / ledger.trials()[0].trial_id / "oof.parquet")
    with study_lock(ledger):
        before = tree(ledger)
        assert CliRunner().invoke(app, ["repair", ledger.storage.uri]).exit_code == 0
        refused = CliRunner().invoke(app, ["repair", ledger.storage.uri, "--yes"])
        assert isinstance(refused.exception, LockError)
        assert {path for path, digest in tree(ledger).items() if before[path] != digest} <= {
            f"{ledger.storage.uri}/owner.json"
        }
    assert CliRunner().invoke(app, ["repair", ledger.storage.uri, "--yes"]).exit_code == 0
