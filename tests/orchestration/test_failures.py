"""Failure is an answer: recorded with its reason, observed without a value, counted; alike from the start, it stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import noting_engine
import pytest
import timm
from commands import biomass
from safetensors.torch import save_file
from test_proposer import LINE, proposer
from tiny_study import BACKBONE, RANDOM, make_study

from biomass_models.backbones.weights import WeightsSource, canonical_name, fingerprint
from orchestration.inspect.audit import audit, refit
from orchestration.search.ending import require_a_success
from orchestration.search.known_trials import ALIKE_FAILURES
from orchestration.search.on_ray.tune_searcher import TuneSearcher
from orchestration.search.opening import StudyError
from orchestration.search.prepare import prepare_search, reopen
from orchestration.search.presets.options import Preset
from orchestration.search.trial import BlockedError, run_trial
from orchestration.study.ledger import Ledger
from orchestration.study.records import COMPLETE, FAILED, PRUNED, TrialResult
from orchestration.study.storage import Storage
from orchestration.workers.context import WorkerContext
from orchestration.workers.jobs import FoldJob
from orchestration.workers.pool import RUNNING
from orchestration.workers.slots.inline_pool import InlinePool

pytestmark = pytest.mark.slow


def test_an_image_that_breaks_during_the_search_fails_the_trial_and_names_the_file(
    tmp_path: Path, own_pasture: Path
) -> None:
    ledger, context, records = make_study(tmp_path / "study", own_pasture, tmp_path / "cache")
    victim = sorted((own_pasture / "train").glob("*.jpg"))[3]
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 3])
    result = run_trial(ledger, InlinePool(context), records[0].trial_id)
    assert result is not None and result.status == "failed" and victim.name in (result.reason or "")

    victim.write_bytes(whole)  # mended: the failed trial is taken up again and nothing is left of the failure
    reopen(ledger, 1800.0, True, lambda text: None)
    assert ledger.result(records[0].trial_id) is None
    again = run_trial(ledger, InlinePool(context), records[0].trial_id)
    assert again is not None and again.status == "complete"


def test_a_loss_that_is_not_finite_fails_the_trial_with_the_reason(tmp_path: Path, tiny_pasture: Path) -> None:
    """Weights with a NaN in them, as a half-written or an overflown file has, in all three families."""
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    tensors = {name: tensor.contiguous() for name, tensor in timm.create_model("test_vit").state_dict().items()}
    tensors["blocks.0.mlp.fc1.bias"][0] = float("nan")
    (tmp_path / "weights").mkdir()
    save_file(tensors, tmp_path / "weights" / "test_vit.safetensors")
    broken = replace(context, weights=WeightsSource(kind="folder", folder=tmp_path / "weights"))
    for record in records:
        result = run_trial(ledger, InlinePool(broken), record.trial_id)
        assert result is not None and result.status == "failed"
        assert "must stay finite, got nan" in (result.reason or "")


def test_a_failure_is_observed_without_a_value_and_a_pruned_trial_with_its_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = noting_engine.register(monkeypatch)
    search = proposer(tmp_path, LINE, engine=noting_engine.NAME)
    endings = [
        TrialResult(status="failed", reason="fold 1: no"),
        TrialResult(status="pruned", estimate=0.4, reason="pruned after fold 1: ..."),
        TrialResult(status="complete", score=0.3),
    ]
    for ending in endings:
        record = search.propose()
        assert record is not None
        search.ledger.write_result(record.trial_id, ending)
        search.record_result(record.trial_id, ending)
    for _ in range(2):  # at once, and rebuilt from the ledger
        assert [(one.number, one.value, one.refused) for one in seen.values()] == [
            (0, None, False), (1, 0.4, False), (2, 0.3, False),
        ]  # fmt: skip
        assert search.trials.best_score == 0.3 and [
            search.trials.count(kind) for kind in (FAILED, PRUNED, COMPLETE)
        ] == [1, 1, 1]
        seen.clear()
        search = proposer(tmp_path, LINE, engine=noting_engine.NAME)


@pytest.mark.parametrize("alike", [True, False])
def test_first_trials_that_all_fail_alike_stop_the_search(tmp_path: Path, alike: bool) -> None:
    search = TuneSearcher(proposer(tmp_path, LINE))
    for number in range(ALIKE_FAILURES):
        assert isinstance(search.suggest(f"tune-{number}"), dict)
        (identity,) = search._trial_ids.values()
        why = "cannot read a.jpg" if alike or number else "out of memory"
        search.proposer.ledger.write_failure(identity, f"fold {number}: {why}")
        search.on_trial_complete(f"tune-{number}", {"status": "failed"})
    if alike:
        assert search.stop_reason is not None and "cannot read a.jpg" in search.stop_reason
        assert search.suggest("next") == TuneSearcher.FINISHED
    else:
        assert search.stop_reason is None and isinstance(search.suggest("next"), dict)


@pytest.mark.parametrize(
    ("blocked", "begun"), [("cache", 0), ("cache", 1), ("its parent", 0), ("its parent", 1), ("study", 0)]
)
def test_a_folder_that_takes_nothing_leaves_the_trial_open(
    tmp_path: Path, tiny_pasture: Path, blocked: str, begun: int
) -> None:
    """begun: folds that end before, with a folder that takes them."""
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache" / "features")
    trial, pool = records[1].trial_id, InlinePool(context)
    for fold in range(begun):
        ((_, outcome),) = pool.run([FoldJob(trial_id=trial, fold=fold)], RUNNING)
        assert outcome.status == "done"
    place = {"cache": "cache/features", "its parent": "cache", "study": f"study/trials/{trial}/fold-1"}[blocked]
    aside = tmp_path / "aside"
    if (tmp_path / place).exists():
        (tmp_path / place).rename(aside)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("")  # a file where a folder is needed: also root may not write below it
    said = "must have room and answer" if blocked == "study" else "must be a folder that can be written"
    with pytest.raises(BlockedError, match=f"{said}, got .*{place}.* then run the same command again"):
        run_trial(ledger, pool, trial)
    assert ledger.result(trial) is None
    (tmp_path / place).unlink()
    if aside.exists():
        aside.rename(tmp_path / place)
    again = run_trial(ledger, InlinePool(context), trial)
    assert again is not None and again.status == COMPLETE


def test_a_cache_without_room_leaves_the_trial_open(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    small = replace(context, cache_gb=1e-6)
    with pytest.raises(BlockedError, match="raise --cache-gb, then run the same command again"):
        run_trial(ledger, InlinePool(small), records[1].trial_id)
    assert ledger.results() == {}
    larger = run_trial(ledger, InlinePool(replace(context, cache_gb=1.0)), records[1].trial_id)
    assert larger is not None and larger.status == COMPLETE


GOOD, SHORT = TrialResult(status=COMPLETE), TrialResult(status=PRUNED)
BAD, OTHER = TrialResult(status=FAILED, reason="fold 0: a"), TrialResult(status=FAILED, reason="fold 0: b")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ([], [], None),
        ([GOOD], [], None),
        ([], [BAD, GOOD], None),
        ([GOOD], [BAD] * (ALIKE_FAILURES - 1), None),
        ([GOOD], [BAD] * ALIKE_FAILURES + [SHORT], None),
        ([], [BAD], "got 1 failed, most often .1. for: fold 0: a"),
        ([BAD, OTHER, OTHER], [], "got 3 failed, most often .2. for: fold 0: b"),
        ([GOOD], [BAD, OTHER] * ALIKE_FAILURES, f"got {2 * ALIKE_FAILURES} failed"),
    ],
)
def test_a_search_in_which_all_failed_is_an_error(
    old: list[TrialResult], new: list[TrialResult], said: str | None
) -> None:
    results = {f"{number}": result for number, result in enumerate([*old, *new])}
    if said is None:
        require_a_success(results, list(results)[: len(old)])
        return
    with pytest.raises(StudyError, match=f"{said}.*--retry-failed"):
        require_a_success(results, list(results)[: len(old)])


@pytest.mark.long
@pytest.mark.ray
def test_the_command_of_a_search_without_a_success_ends_with_its_reason(tmp_path: Path, tiny_pasture: Path) -> None:
    asked = Preset().with_fields(
        families=("probe",), backbones=(BACKBONE,), weights="random", scale="smoke", folds=3, trials=1
    )
    name = canonical_name(BACKBONE)
    ledger, weights = Ledger(Storage(tmp_path / "study")), {name: fingerprint(name, RANDOM)}
    settings = asked.settings((name,), weights="random", gpu=False)
    trial = prepare_search(
        ledger, tiny_pasture, settings, fingerprints=weights, max_trials=1, say=lambda text: None
    ).propose()
    assert trial is not None
    ledger.write_failure(trial.trial_id, "fold 0: the lamp went out")
    command = ["search", "study", "--data", str(tiny_pasture), "--family", "probe", "--backbone", BACKBONE]
    command += ["--weights", "random", "--scale", "smoke", "--folds", "3", "--trials", "1"]
    ended = biomass(*command, cwd=tmp_path, check=False)
    assert ended.returncode == 1 and "Finished" not in ended.stdout
    assert "a search must complete a trial, got 1 failed, most often (1) for: fold 0: the lamp went out" in ended.stderr
    seen = biomass("audit", "study", cwd=tmp_path, check=False)
    assert seen.returncode == 1 and "audit passed" not in seen.stdout
    assert "no trial is complete, got 1 failed, most often (1) for: fold 0: the lamp went out" in seen.stdout
    reopen(ledger, 1800.0, True, lambda text: None)  # --retry-failed, as both messages say
    context = WorkerContext(
        study=ledger.storage.uri, data_dir=str(tiny_pasture), cache=f"{tmp_path}/cache", weights=RANDOM
    )
    run_trial(ledger, InlinePool(context), trial.trial_id)
    require_a_success(ledger.results(), ())
    assert audit(ledger).clean


def test_no_more_trials_than_allowed_are_under_way(tmp_path: Path) -> None:
    search = TuneSearcher(proposer(tmp_path, LINE), most_running=2)
    assert [isinstance(search.suggest(name), dict) for name in "abc"] == [True, True, False]
    assert search.suggest("c") is None and search.running == 2
    search.most_running = 3
    assert isinstance(search.suggest("c"), dict)


def test_an_audit_passes_what_is_whole_and_names_what_is_not(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    first, second, *_ = (record.trial_id for record in records)
    run_trial(ledger, InlinePool(context), first)
    found = audit(ledger)
    assert not found.problems and second in found.open and not found.clean
    run_trial(ledger, InlinePool(context), second)
    for record in records[2:]:
        ledger.write_failure(record.trial_id, "left out, to be quick")
    found = audit(ledger)
    assert found.clean and found.trials["complete"] == 2 and found.folds == 6
    again = {"cache_dir": tmp_path / "cache", "weights": context.weights, "say": lambda text: None}
    assert refit(ledger, tiny_pasture, sample=2, **again) == []  # type: ignore[arg-type]

    folder = f"trials/{first}/fold-1"
    model = ledger.storage.read(f"{folder}/model.safetensors")
    ledger.storage.write(f"{folder}/model.safetensors", model[:-1] + bytes([model[-1] ^ 1]))
    assert any(f"{folder}/model.safetensors is not the file" in problem for problem in audit(ledger).problems)
    ledger.storage.write(f"{folder}/model.safetensors", model)
    ledger.note_fold_start(first, 1)
    problems = audit(ledger).problems
    assert any("begun again after it had been finished" in problem for problem in problems)
    (only,) = [name for name in ledger.storage.children(folder) if name.startswith("start-")][1:]
    ledger.storage.remove(f"{folder}/{only}")
    assert audit(ledger).clean

    metrics = ledger.storage.read(f"{folder}/metrics.json")
    ledger.storage.remove(f"{folder}/metrics.json")
    assert any("complete without the folds [1]" in problem for problem in audit(ledger).problems)
    ledger.storage.write(f"{folder}/metrics.json", metrics)
    ledger.write_failure(second, "")
    assert any("failed without a reason" in problem for problem in audit(ledger).problems)


def test_a_refit_that_differs_is_named(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    trial = records[1].trial_id
    run_trial(ledger, InlinePool(context), trial)
    other = Ledger(Storage(ledger.storage.uri))
    oof, metrics = other.fold_oof(trial, 0), other.fold_metrics(trial, 0)
    oof["Dry_Dead_g"] += 1e-13 * oof["Dry_Dead_g"]
    assert metrics is not None
    other.write_fold(trial, oof=oof, model=other.fold_model(trial, 0), metrics=metrics)
    problems = refit(
        ledger, tiny_pasture, sample=1, cache_dir=tmp_path / "cache", weights=context.weights, say=lambda text: None
    )
    assert [problem.text for problem in problems] == [f"trial {trial}: fold 0 fitted again has other out-of-fold rows"]
