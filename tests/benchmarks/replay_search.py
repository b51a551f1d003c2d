"""What a way of searching would have made of recorded studies: true score of the blend at equal CPU seconds.

    python tests/benchmarks/replay_search.py shares|aim FOLDER [--orders 20] [--engine tpe] [--out table.md]
    python tests/benchmarks/replay_search.py shares|aim alike|noisy|world --simulated 16 [--orders 2]

FOLDER: recorded studies as recordings.py describes them, or the kind of those that are simulated: families that are all
alike, one beside three of noise, or one family whose settings can be learned (for the aim). The unit is a recorded
study; within one, orders of its trials are averaged. A replay takes recorded trials only, one after the other as one
slot would:

    shares   the family of the next trial is chosen as `biomass search --shares` does (equal: turns of trials; earned),
             and beside them `seconds`, equal turns of seconds; the family's next recorded trial in a drawn order is
             taken
    aim      an engine (--engine) proposes for the score, or for the blend (`biomass search --aim`), families by equal
             turns of seconds; the recorded trial of the family that is nearest to what it proposes is taken. An order
             is a seed of proposals; the first ten of a family are the same for both aims

After each share of the recorded CPU seconds (BUDGETS) the default rule blends what has ended by then, and the blend is
scored on the test set. What a default is decided by was fixed before anything was recorded (DECIDES): a quarter of the
seconds for shares, since with up to six families that were recorded for the same time no share that can be earned is
then more than a family has recorded; a half for the aim, since engines draw their first ten trials of a family at
random. A default changes only for a gain of two standard errors over studies.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from recordings import ALIKE, NOISY, Recording, read_recordings, simulate_recording, simulate_world
from simulate_search import place_in

from biomass_models.targets import FloatArray, IntArray
from orchestration.search.engines.base import Observation
from orchestration.search.engines.registry import DEFAULT, new_engine
from orchestration.search.gains.aims import BlendAim
from orchestration.search.gains.turns import EarnedTurns, EqualTurns, Proposed, Turns
from orchestration.study.records import Params
from orchestration.study.seeds import derive_seed
from orchestration.study.settings import AIMS, BLEND
from search_spaces.domain import Choice, SearchSpace, When

BUDGETS = (0.0625, 0.125, 0.25, 0.5)  # shares of a recording's CPU seconds
DECIDES = {"shares": 0.25, "aim": 0.5}
ORDERS = 20


class NoErrors:
    """Nothing is known of any trial, so that no family earns anything."""

    def of(self, trial_ids: Sequence[str]) -> tuple[list[str], FloatArray]:
        return [], np.zeros((0, 0, 0))


SHARES: Mapping[str, Callable[[Recording], Turns]] = {  # the first is what the others are compared with
    "equal": lambda recording: EqualTurns(dict.fromkeys(recording.families, 1.0)),
    "seconds": lambda recording: EarnedTurns(dict.fromkeys(recording.families, 1.0), NoErrors()),
    "earned": lambda recording: EarnedTurns(dict.fromkeys(recording.families, 1.0), recording),
}
SIMULATED: Mapping[str, Callable[[int], Recording]] = {  # by seed
    "alike": lambda seed: simulate_recording(ALIKE, seed),
    "noisy": lambda seed: simulate_recording(NOISY, seed),
    "world": simulate_world,
}


def replay_turns(recording: Recording, turns: Turns, order_M: IntArray, budgets: Sequence[float]) -> list[float]:
    """True scores at shares of the recorded seconds; order_M: of the trials, each family's own is what counts."""
    left = _by_family([recording.trials[place] for place in order_M])
    clock = Clock(recording, budgets)
    while not clock.is_over and (families := [family for family in recording.families if left[family]]):
        clock.end(left[turns.next_family(families, clock.ended)].pop(0))
    return clock.scores()


def replay_aim(
    recording: Recording, engine: str, aim: BlendAim | None, seed: int, budgets: Sequence[float]
) -> list[float]:
    """As replay_turns, for what an engine proposes with this aim; None: the score."""
    left = _by_family(recording.trials)
    engines = {family: new_engine(engine, recording.spaces[family]) for family in recording.families}
    told: dict[str, float | None] = {}
    turns = SHARES["seconds"](recording)
    clock = Clock(recording, budgets)
    while not clock.is_over and (families := [family for family in recording.families if left[family]]):
        family = turns.next_family(families, clock.ended)
        values = {} if aim is None else aim.values(clock.ended)
        for number, (record, result) in enumerate(clock.ended):
            if record.family == family and result is not None:
                value = result.reported_value if aim is None else values[record.trial_id]
                if told.get(record.trial_id) == value:
                    continue
                told[record.trial_id] = value
                observed = Observation(trial_id=record.trial_id, number=number, params=record.params, value=value)
                engines[family].observe(observed)
        proposed = engines[family].ask({}, derive_seed("replay", seed, family, len(clock.ended)))
        clock.end(left[family].pop(nearest(recording.spaces[family], proposed, left[family])))
    return clock.scores()


def nearest(space: SearchSpace, params: Params | None, trials: Sequence[Proposed]) -> int:
    """Place of the trial whose params are nearest, the first of those that are as near; params: None for any."""
    if params is None:
        return 0
    return min(range(len(trials)), key=lambda place: distance(space, params, trials[place].record.params))


def distance(space: SearchSpace, one: Params, other: Params) -> float:
    """Sum over the fields of a space: how far numbers are apart, of the width of their range on its own scale; 1 for
    another choice, and for a field that only one of them has."""
    found = 0.0
    for name, domain in space.domains.items():
        inner = domain.domain if isinstance(domain, When) else domain
        if (name in one) != (name in other):
            found += 1.0
        elif name in one and one[name] != other[name]:
            is_choice = isinstance(inner, Choice)
            found += 1.0 if is_choice else abs(place_in(inner, one[name]) - place_in(inner, other[name]))
    return found


def _by_family(trials: Sequence[Proposed]) -> dict[str, list[Proposed]]:
    found: dict[str, list[Proposed]] = defaultdict(list)
    for trial in trials:
        found[trial.record.family].append(trial)
    return found


class Clock:
    """Trials that have ended, one after the other, and the blend of those that had ended at each budget."""

    def __init__(self, recording: Recording, budgets: Sequence[float]) -> None:
        self.ended: list[Proposed] = []
        self._recording, self._total = recording, float(recording.cpu_seconds_M.sum())
        self._budgets = budgets
        self._spent = 0.0
        self._counts: list[int] = []  # of the trials that had ended, by budget

    @property
    def is_over(self) -> bool:
        return len(self._counts) == len(self._budgets)

    def end(self, trial: Proposed) -> None:
        """The next trial ends; one that ends after a budget is not in its blend."""
        self._spent += self._recording.cpu_seconds_M[self._recording.place_of[trial.record.trial_id]]
        self._pass(self._spent / self._total)
        self.ended.append(trial)

    def scores(self) -> list[float]:
        """True score at each budget."""
        self._pass(np.inf)
        found = {count: self._recording.true_score(self._names(count)) for count in set(self._counts)}
        return [found[count] for count in self._counts]

    def _pass(self, share: float) -> None:
        passed = sum(budget < share for budget in self._budgets)
        self._counts += [len(self.ended)] * (passed - len(self._counts))

    def _names(self, count: int) -> list[str]:
        return [one.record.trial_id for one in self.ended[: max(count, 1)]]


class Gain(NamedTuple):
    """A mean over recorded studies and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} ± {self.error:.4f}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """True scores of ways to search."""

    arms: tuple[str, ...]  # the first is what the others are compared with
    budgets: tuple[float, ...]
    names: tuple[str, ...]  # of the recorded studies
    score_SAB: FloatArray  # study, arm, budget: means over orders
    decisive: float  # one of the budgets

    def gain(self, arm: str, budget: float) -> Gain:
        """True score more than the first arm's."""
        gain_S = self.gain_S(arm, budget)
        return Gain(float(gain_S.mean()), float(gain_S.std(ddof=1) / len(gain_S) ** 0.5) if len(gain_S) > 1 else np.nan)

    def gain_S(self, arm: str, budget: float) -> FloatArray:
        """Of each recorded study."""
        of_budget_SA = self.score_SAB[:, :, self.budgets.index(budget)]
        gain_S: FloatArray = of_budget_SA[:, self.arms.index(arm)] - of_budget_SA[:, 0]
        return gain_S

    def decides(self, arm: str) -> bool:
        """Whether the arm is to be the default."""
        gain = self.gain(arm, self.decisive)
        return gain.value > 0 and gain.value >= 2 * gain.error


def compare_shares(
    recordings: Sequence[Recording], *, orders: int = ORDERS, budgets: tuple[float, ...] = BUDGETS
) -> Comparison:
    """All ways to share, on the same drawn orders."""

    def replayed(recording: Recording, arm: str, order: int) -> list[float]:
        order_M = np.random.default_rng([order, len(recording.trials)]).permutation(len(recording.trials))
        return replay_turns(recording, SHARES[arm](recording), order_M, budgets)

    return _compared(recordings, tuple(SHARES), replayed, orders, budgets, DECIDES["shares"])


def compare_aims(
    recordings: Sequence[Recording], *, engine: str, orders: int = ORDERS, budgets: tuple[float, ...] = BUDGETS
) -> Comparison:
    """Both aims with the same seeds of proposals."""

    def replayed(recording: Recording, arm: str, order: int) -> list[float]:
        return replay_aim(recording, engine, BlendAim(recording) if arm == BLEND else None, order, budgets)

    return _compared(recordings, tuple(AIMS), replayed, orders, budgets, DECIDES["aim"])


def _compared(
    recordings: Sequence[Recording],
    arms: tuple[str, ...],
    replayed: Callable[[Recording, str, int], list[float]],
    orders: int,
    budgets: tuple[float, ...],
    decisive: float,
) -> Comparison:
    """replayed: scores by budget of a recording, an arm and the number of an order."""
    score_SAB = np.zeros((len(recordings), len(arms), len(budgets)))
    for study, recording in enumerate(recordings):
        for place, arm in enumerate(arms):
            score_SAB[study, place] = np.mean([replayed(recording, arm, order) for order in range(orders)], axis=0)
    names = tuple(one.name for one in recordings)
    return Comparison(arms=arms, budgets=budgets, names=names, score_SAB=score_SAB, decisive=decisive)


def render(found: Comparison, recordings: Sequence[Recording], orders: int) -> str:
    """As Markdown."""
    counts = [len(one.trials) for one in recordings]
    hours = [one.cpu_seconds_M.sum() / 3600 for one in recordings]
    base, *others = found.arms
    lines = [
        f"{len(counts)} recorded studies of {min(counts)} to {max(counts)} trials and {min(hours):.1f} to "
        f"{max(hours):.1f} CPU hours, {orders} orders each; true score of the default blend, ± one standard error over "
        "studies.",
        "",
        f"| CPU seconds of those recorded | {base} | " + " | ".join(f"{arm} more" for arm in others) + " |",
        "|---" * (len(others) + 2) + "|",
    ]
    for place, budget in enumerate(found.budgets):
        mark = " (decides)" if budget == found.decisive else ""
        cells = (str(found.gain(arm, budget)) for arm in others)
        lines.append(f"| {100 * budget:g} %{mark} | {found.score_SAB[:, 0, place].mean():.4f} | {' | '.join(cells)} |")
    lines.append("")
    for arm in others:
        by_study = ", ".join(
            f"{name} {gain:+.4f}" for name, gain in zip(found.names, found.gain_S(arm, found.decisive), strict=True)
        )
        verdict = "two standard errors or more" if found.decides(arm) else "less than two standard errors"
        lines.append(f"{arm}, at {100 * found.decisive:g} %: {verdict} ({by_study})")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("shares", "aim"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--simulated", type=int, default=0, help="how many recorded studies to simulate instead")
    parser.add_argument("--orders", type=int, default=ORDERS)
    parser.add_argument("--engine", default=DEFAULT, help="of the replay of aims")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    asked = parser.parse_args()
    simulate = SIMULATED.get(str(asked.folder))
    if asked.simulated and simulate is None:
        parser.error(f"simulated studies are {', '.join(SIMULATED)}, got {asked.folder}")
    if asked.simulated and simulate is not None:
        recordings = [simulate(seed) for seed in range(asked.simulated)]
    else:
        recordings = read_recordings(asked.folder)
    if asked.what == "shares":
        found = compare_shares(recordings, orders=asked.orders)
    else:
        found = compare_aims(recordings, engine=asked.engine, orders=asked.orders)
    text = render(found, recordings, asked.orders)
    print(text)
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
