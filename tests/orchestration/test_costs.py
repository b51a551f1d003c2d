"""What a trial will cost is decided once, at its proposal: refused ones are recorded, shown, and in nobody's way."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import noting_engine
import pytest
from rich.console import Console
from test_proposer import LINE, SPACES, finish, proposer
from tiny_study import BACKBONE, RANDOM, make_study
from told_study import told_study

from biomass_models.backbones.weights import canonical_name, fingerprint
from biomass_models.errors import UserError
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.configs import config_from_params
from biomass_models.families.distilled.config import DistilledConfig
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.families.speed import Speed
from orchestration.inspect.audit import audit
from orchestration.inspect.leaderboard import family_rows, leaderboard, render_families
from orchestration.inspect.status import render_status, status_of
from orchestration.report.make import make_report
from orchestration.search.fold_costs import FoldCosts, fold_costs_here, trained_backbones
from orchestration.search.gains.turns import EarnedTurns, EqualTurns
from orchestration.search.on_ray.tune_searcher import TuneSearcher
from orchestration.search.prepare import prepare_search, reopen
from orchestration.search.presets.options import Preset
from orchestration.search.proposer import DRAWS_UNTIL_EXHAUSTED, Proposer
from orchestration.search.start import resolve
from orchestration.search.trial import BlockedError
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.records import Asked, TrialResult
from orchestration.study.settings import StudyError
from orchestration.study.storage import Storage
from orchestration.workers import jobs
from orchestration.workers.jobs import CountJob, MeasureJob, Outcome
from orchestration.workers.pool import PILOT
from orchestration.workers.resources import Resources
from orchestration.workers.slots.inline_pool import InlinePool
from search_spaces.spaces import space_of

LIMIT = 60.0


class Priced:
    """Costs by a rule, as a test wants them; counts how often it was asked."""

    is_ready, unknown = True, None

    def __init__(self, price: Callable[[Any], float]) -> None:
        self._price, self.asked = price, 0

    def seconds(self, family: str, config: Any) -> float:
        self.asked += 1
        return self._price(config)


def left_is_expensive(config: ProbeConfig) -> float:
    return 90.0 if config.log10_alpha_low < -4 else 10.0


def priced(folder: Path, price: Callable[[Any], float] = left_is_expensive, **options: Any) -> Proposer:
    return proposer(folder, **{"spaces": LINE, "costs": Priced(price), "max_fold_seconds": LIMIT, **options})


def score_of(params: Any) -> float:
    return -((params["log10_alpha_low"] + 6) ** 2)  # best where it is too expensive


def search(folder: Path, one: Proposer, most: int | None = None) -> list[str]:
    """Propose and end trials; the ids of what was proposed."""
    found = []
    while (most is None or len(found) < most) and (record := one.propose()) is not None:
        found.append(record.trial_id)
        finish(folder, one, record.trial_id, score_of(record.params))
    return found


def test_what_is_above_the_limit_is_recorded_and_takes_no_place(tmp_path: Path) -> None:
    one = priced(tmp_path, max_trials=12)
    found = search(tmp_path, one)
    assert len(found) == 12 == one.trials.ended and one.trials.open == 0 == one.missing
    ledger = Ledger(Storage(tmp_path))
    results = ledger.results()
    refused = {name: result for name, result in results.items() if result.status == "refused"}
    assert refused and one.trials.count("refused") == len(refused) and not set(refused) & set(found)
    for record in ledger.trials():
        assert (record.trial_id in refused) == (record.params["log10_alpha_low"] < -4)
    (result, *_) = refused.values()
    assert (result.estimated_seconds, result.limit_seconds, result.reported_value) == (90.0, LIMIT, None)
    assert result.reason == "a fold may take 60 s (--max-fold-seconds), this one is estimated at 90 s"
    assert [record.number for record in ledger.trials()] == list(range(len(results)))
    tune = TuneSearcher(one)
    assert tune.suggest("next") == TuneSearcher.FINISHED and tune.end_reason is None


def test_a_decision_stays_whatever_a_later_run_measures(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    expected = search(whole, priced(whole, max_trials=9))
    got = []
    for _ in range(3):
        got += search(part, priced(part, max_trials=9), most=3)
    assert got == expected and Ledger(Storage(part)).results().keys() == Ledger(Storage(whole)).results().keys()

    opened = priced(tmp_path / "busy", max_trials=5)
    accepted = [record.trial_id for _ in range(5) if (record := opened.propose()) is not None]
    busy = priced(tmp_path / "busy", lambda config: 1e9, max_trials=5)
    again = [record.trial_id for _ in range(5) if (record := busy.propose()) is not None]
    assert again == accepted
    assert busy.costs.asked == 0 and busy.propose() is None  # type: ignore[union-attr]
    idle = priced(tmp_path / "busy", lambda config: 0.0, max_trials=5)
    assert idle.trials.count("refused") == opened.trials.count("refused") > 0


def test_the_engine_observes_what_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = noting_engine.register(monkeypatch)
    one = priced(tmp_path, max_trials=40, engine=noting_engine.NAME)
    search(tmp_path, one)
    at_once = dict(seen)
    assert at_once.keys() == Ledger(Storage(tmp_path)).results().keys()
    for one in at_once.values():
        assert one.refused == (one.value is None) == (one.params["log10_alpha_low"] < -4)
    seen.clear()
    priced(tmp_path, engine=noting_engine.NAME)
    assert seen == at_once  # rebuilt from the ledger


@pytest.mark.parametrize("hours", [None, 4e9])
def test_a_space_in_which_all_is_refused_ends_with_the_reason(tmp_path: Path, hours: float | None) -> None:
    one = priced(tmp_path, lambda config: 75.0, max_trials=20 if hours is None else None, deadline=hours)
    tune = TuneSearcher(one)
    assert tune.suggest("first") == TuneSearcher.FINISHED
    assert len(Ledger(Storage(tmp_path)).results()) == DRAWS_UNTIL_EXHAUSTED == one.trials.count("refused")
    for words in ("a fold may take 60 s (--max-fold-seconds)", f"{DRAWS_UNTIL_EXHAUSTED} were refused", "was 75 s"):
        assert words in (tune.end_reason or "")
    again = TuneSearcher(priced(tmp_path, lambda config: 75.0, max_trials=20))
    assert again.suggest("first") == TuneSearcher.FINISHED and again.end_reason is not None


def test_a_family_that_is_refused_leaves_its_place_to_the_others(tmp_path: Path) -> None:
    def price(config: Any) -> float:
        return 10.0 if isinstance(config, ProbeConfig) else 1e6

    one = priced(tmp_path, price, spaces=SPACES, max_trials=6)
    records = [record for _ in range(6) if (record := one.propose()) is not None]
    assert [record.family for record in records] == ["probe"] * 6 and one.propose() is None
    for record in records:
        finish(tmp_path, one, record.trial_id, 0.1)
    assert "baseline" in one.why_exhausted and TuneSearcher(one).end_reason is None


def test_nothing_is_drawn_before_a_slot_is_measured_but_open_trials_go_on(tmp_path: Path) -> None:
    first = proposer(tmp_path)
    opened = first.propose()
    assert opened is not None
    costs = FoldCosts(200, ())  # which nobody has asked a slot for
    tune = TuneSearcher(proposer(tmp_path, costs=costs, max_fold_seconds=LIMIT), most_running=5)
    assert tune.suggest("open") == {"trial_id": opened.trial_id}
    assert tune.suggest("new") is None and costs.seconds("probe", ProbeConfig(backbone="net")) is None
    costs.unknown = "FitError: no"
    assert isinstance(tune.suggest("new"), dict)  # what cannot be estimated is not refused


@pytest.mark.parametrize(
    ("limit", "retry", "reopened"), [(60.0, True, 0), (89.0, True, 0), (90.0, True, 3), (1e4, False, 0)]
)
def test_refused_trials_are_taken_up_again_when_the_limit_allows_them(
    tmp_path: Path, limit: float, retry: bool, reopened: int
) -> None:
    ledger = told_study(tmp_path, statuses=["complete", "refused", "refused", "failed", "refused", "pruned"])
    said: list[str] = []
    reopen(ledger, limit, retry, said.append)
    statuses = [result.status for result in ledger.results().values()]
    assert statuses.count("refused") == 3 - reopened and statuses.count("failed") == (0 if retry else 1)
    assert said == (
        ["3 refused trials are within --max-fold-seconds now; --retry-failed takes them up"]
        if not retry
        else ["1 failed trial is taken up again" + (", and 3 that were refused" if reopened else "")]
    )


def test_what_0_1_0_refused_as_a_failure_is_refused(tmp_path: Path) -> None:
    why = "fold 0: FitError: a fold may take 60 s (--max-fold-seconds), this one is estimated at 240 s"
    ledger = told_study(tmp_path, statuses=["complete", "failed", "failed"], reason=why)
    reopen(ledger, 239.0, True, lambda text: None)
    assert len(ledger.results()) == 3
    reopen(ledger, 240.0, True, lambda text: None)
    assert len(ledger.results()) == 1


@pytest.mark.slow
def test_the_limit_and_the_shares_of_a_study_may_be_moved_and_stay(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, name = Ledger(Storage(tmp_path / "study")), canonical_name(BACKBONE)
    weights = {name: fingerprint(name, RANDOM)}
    plain = Preset().with_fields(families=("probe",), backbones=(name,), weights="random", scale="smoke", folds=3)

    def prepared(asked: Preset, *typed: str) -> Proposer:
        made_with = Asked(overrides={field: asked.values()[field] for field in typed})
        wanted = resolve(ledger, asked, made_with, weights=RANDOM, resources=Resources(), say=lambda text: None)
        return prepare_search(
            ledger, tiny_pasture, wanted.settings, fingerprints=weights, max_trials=2, say=lambda text: None,
            made_with=made_with,
        )  # fmt: skip

    made = prepared(plain.with_fields(max_fold_seconds=50.0), "families", "backbones", "weights", "scale", "folds")
    for asked, typed, limit in (
        (plain, (), 50.0),
        (plain.with_fields(max_fold_seconds=90.0), ("max_fold_seconds",), 90.0),
    ):
        moved = prepared(asked, *typed)
        assert ledger.study().settings.max_fold_seconds == limit == moved._max_fold_seconds
    assert prepared(plain)._max_fold_seconds == 90.0 and made._max_fold_seconds == 50.0
    assert isinstance(made._turns, EqualTurns)
    prepared(plain.with_fields(sharing="earned"), "sharing")  # so may what follows the shares
    assert isinstance(prepared(plain)._turns, EarnedTurns) and ledger.study().settings.sharing == "earned"


@pytest.mark.slow
def test_refused_trials_are_shown_and_pass_an_audit(tmp_path: Path) -> None:
    ledger = told_study(tmp_path, statuses=["complete", "refused", "complete", "refused", "failed", "open"])
    status = status_of(ledger)
    assert status.trials == {"complete": 2, "pruned": 0, "failed": 1, "refused": 2, "open": 1}
    assert "trials  3 ended: 2 complete, 0 pruned, 1 failed, 2 refused, 1 open" in render_status(status)
    assert "refused" not in render_status(status_of(told_study(tmp_path / "other", statuses=["complete"])))
    rows = leaderboard(StudyData(ledger))
    assert [row.status for row in rows].count("refused") == 2
    assert sum(row.refused for row in family_rows(rows)) == 2
    text = io.StringIO()
    Console(width=80, file=text).print(render_families(rows))
    assert "refused" in text.getvalue()
    page = make_report(ledger)
    assert "2 refused" in page and "2 trials were refused, a fold of each would have taken too long" in page
    names = [name for name, result in ledger.results().items() if result.status == "refused"]
    assert not any("refused" in problem.text for problem in audit(ledger).found)
    ledger.write_result(names[0], TrialResult(status="refused", reason="?", estimated_seconds=5.0, limit_seconds=60.0))
    ledger.write_result(names[1], TrialResult(status="refused"))
    texts = [problem.text for problem in audit(ledger).found]
    assert sum("it is refused" in text for text in texts) == 2


SPEEDS = [
    Speed(step_seconds=3e-4, operations=8e10, pass_seconds={"vit_small_patch14_dinov2.lvd142m": 0.2}),  # a core
    Speed(step_seconds=2e-4, operations=2e13, pass_seconds={"vit_small_patch14_dinov2.lvd142m": 1e-4}),  # a GPU
    Speed(step_seconds=0.0, operations=1e9, pass_seconds={"vit_small_patch14_dinov2.lvd142m": 5.0}),
]


@pytest.mark.slow
@pytest.mark.parametrize("speed", SPEEDS)
def test_estimates_are_counted_and_so_the_same_at_any_time(speed: Speed) -> None:
    name = "vit_small_patch14_dinov2.lvd142m"
    head = BaselineConfig(backbone=name, size=224, trained_blocks=0, head_lr=3e-4)
    student = DistilledConfig(backbone=name, size=224, trained_blocks=0, grid=3)
    trained = BaselineConfig(backbone=name, size=224)
    costs = FoldCosts(286, (name,), speed)
    for family, config in (("baseline", head), ("distilled", student), ("baseline", trained)):
        seconds = costs.seconds(family, config)
        assert seconds is not None and seconds > 0 and costs.seconds(family, config) == seconds
        assert costs.seconds(family, replace(config, epochs=2 * config.epochs)) == pytest.approx(2 * seconds, rel=0.02)
    # a slot that is ten times as fast in all takes a tenth
    fast = Speed(
        step_seconds=speed.step_seconds / 10,
        operations=10 * speed.operations,
        pass_seconds={key: value / 10 for key, value in speed.pass_seconds.items()},
    )
    for family, config in (("distilled", student), ("baseline", trained)):
        tenth = FoldCosts(286, (name,), fast).seconds(family, config)
        assert tenth == pytest.approx((costs.seconds(family, config) or 0.0) / 10)


def test_a_slot_measures_itself(tmp_path: Path, tiny_pasture: Path) -> None:
    _, context, _ = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    job = MeasureJob(backbones=(BACKBONE,))
    ((_, outcome),) = InlinePool(context).run([job], PILOT)
    assert outcome.status == "done" and outcome.speed is not None
    assert outcome.speed.operations > 1e6 and outcome.speed.pass_seconds.keys() == {BACKBONE}


def test_a_slot_counts_what_this_process_would_and_prices_the_first_trials(tmp_path: Path, tiny_pasture: Path) -> None:
    _, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    slot, asked, heard = InlinePool(context), list[CountJob](), list[tuple[Any, Any]]()

    def count(job: CountJob) -> Outcome:
        asked.append(job)
        ((_, outcome),) = slot.run([job], PILOT)
        return outcome

    first = [jobs.Priced(family=record.family, config=record.config) for record in records[:2]]
    costs = FoldCosts(16, (BACKBONE,), first=first, images=24, on_measured=lambda *found: heard.append(found))
    assert costs.measure_job is not None
    ((_, measured),) = slot.run([costs.measure_job], PILOT)
    costs.set_counter(count)
    costs.set_poll(lambda: measured)
    assert costs.seconds("probe", ProbeConfig(backbone=BACKBONE)) is None and not heard  # nothing is known as yet
    assert costs.is_ready and costs.is_ready and measured.speed is not None
    ((seconds, banks),) = heard
    here = FoldCosts(16, (BACKBONE,), measured.speed)
    configs = {record.family: config_from_params(record.family, record.config) for record in records}
    assert seconds == [here.seconds(one.family, configs[one.family]) for one in first]
    assert len(banks) == 2 and min(banks) > 0
    for family, config in configs.items():
        assert costs.seconds(family, config) == here.seconds(family, config)
    assert [job.of.family for job in asked] == ["baseline", "probe", "distilled"]  # the first ones are counted once


@pytest.mark.parametrize(
    ("outcome", "error", "says"),
    [
        (Outcome(status="failed", reason="BackboneError: no such size"), StudyError, "BackboneError: no such size"),
        (Outcome(status="blocked", reason="the disk is full"), BlockedError, "the disk is full; run the same command"),
        (Outcome(status="stopped"), BlockedError, "the search is being stopped"),
    ],
)
def test_what_cannot_be_counted_is_not_proposed(
    outcome: Outcome, error: type[Exception], says: str, tmp_path: Path
) -> None:
    costs = FoldCosts(16, (), SPEEDS[0])
    costs.set_counter(lambda job: outcome)
    with pytest.raises(error, match=says):
        costs.seconds("probe", ProbeConfig(backbone="net"))
    tune = TuneSearcher(proposer(tmp_path, costs=costs, max_fold_seconds=LIMIT))
    tune.stop_reason = None
    assert tune.suggest("first") == TuneSearcher.FINISHED and says in (tune.end_reason or "")
    assert not Ledger(Storage(tmp_path)).trials()
    answering = FoldCosts(16, (), SPEEDS[0])
    answering.set_counter(lambda job: Outcome(status="done", seconds=LIMIT / 2))
    assert proposer(tmp_path, costs=answering, max_fold_seconds=LIMIT).propose() is not None


@pytest.mark.parametrize(("limit", "begun", "ends"), [(1e-9, False, True), (1e-9, True, False), (1e9, False, False)])
def test_a_first_trial_above_the_limit_ends_the_search_before_it_is_begun(
    limit: float, begun: bool, ends: bool, tmp_path: Path, tiny_pasture: Path
) -> None:
    ledger, context, _ = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache", ("probe",))
    if not begun:
        ledger = Ledger(Storage(copytree(tmp_path / "study", tmp_path / "new", ignore=ignore_patterns("trials"))))
    ledger.update_study(replace(ledger.study(), settings=replace(ledger.study().settings, max_fold_seconds=limit)))
    said: list[str] = []
    spaces = {"probe": space_of("probe", (BACKBONE,), "smoke")}
    costs = fold_costs_here(ledger, spaces, {BACKBONE: "w"}, Resources(gpus_per_fold=0.0), said.append)
    assert costs.measure_job is not None and not costs.is_ready and not said  # this process measures nothing
    ((_, measured),) = InlinePool(context).run([costs.measure_job], PILOT)
    costs.set_poll(lambda: measured)
    if ends:
        with pytest.raises(StudyError, match=r"the first probe trial is estimated at .*raise --max-fold-seconds"):
            _ = costs.is_ready
    else:
        assert costs.is_ready
    assert len(said) == 1 and said[0].startswith("Estimated cost of a probe fold here (first trial): 0.0 s")


def test_only_backbones_that_may_train_are_timed() -> None:
    names = ("net-a", "net-b")
    assert trained_backbones({"probe": space_of("probe", names, "gpu")}, {"net-a": "w", "net-b": "w"}) == ()
    assert trained_backbones({"baseline": space_of("baseline", names, "cpu")}, {"net-a": "w"}) == ()
    spaces = {family: space_of(family, names, "gpu") for family in ("baseline", "distilled", "probe")}
    assert trained_backbones(spaces, {"net-a": "w"}) == ("net-a",)
    assert trained_backbones(spaces, {"net-a": "w", "net-b": "w"}) == names


def test_a_fold_without_a_timed_pass_is_an_error_with_what_to_do() -> None:
    config = BaselineConfig(backbone="vit_small_patch14_dinov2.lvd142m", trained_blocks=2)
    costs = FoldCosts(100, (), replace(SPEEDS[0], pass_seconds={"other": 0.1}))
    with pytest.raises(UserError, match=r"got vit_small.*, timed are other; fix trained_blocks with --set, to 0"):
        costs.seconds("baseline", config)
    assert FoldCosts(100, (), SPEEDS[0]).seconds("baseline", config)
    assert costs.seconds("baseline", replace(config, trained_blocks=0))
