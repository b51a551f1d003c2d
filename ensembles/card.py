"""The card of a blend: what it is made of, what it is worth, how far to trust the numbers. Plain data, JSON in and out.

Scores are the weighted R2 of pooled out-of-fold rows. `nested` numbers were chosen and weighted without the rows they
score; `method` names how they and their errors were computed (honest.py, nests.py). Cards of earlier versions keep
their numbers and their method. Masses in grams. Nothing is in it of a target that was never measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from biomass_models.errors import UserError
from biomass_models.fold_rows import INSTEAD, NONE
from ensembles.budget import BudgetPoint, CardBudget
from ensembles.honest import METHOD, OLD_METHOD, Estimate, interval_for_new
from ensembles.intervals.rows import IntervalRows
from ensembles.measured import WEIGHTED_R2

BESIDE = ("optimism", "origin")  # what a written card holds beside its fields: derived, and where it comes from


@dataclass(frozen=True, kw_only=True)
class TargetScore:
    """One target alone: plain R2 around its own mean, None where it never varies."""

    in_sample_r2: float | None
    nested_r2: float | None
    nested_rmse: float  # grams


@dataclass(frozen=True, kw_only=True)
class CardStateRule:
    """The state rule of a blend (states.py)."""

    threshold: float  # chance above which a state counts
    never: dict[str, list[str]]  # state -> components that it never has, for every state, in the order of the chances


@dataclass(frozen=True, kw_only=True)
class Card:
    """A blend, its nested scores and their errors."""

    rule: str
    follow_ups: tuple[str, ...]  # what follows the rule (spec.FOLLOW_UPS)
    chosen_rule: str  # what was chosen, where the rule chooses among rules; the rule itself otherwise
    members: dict[str, float]  # weight of each chosen member, heaviest first, summing to 1 (mean over measured targets)
    target_weights: dict[str, dict[str, float]] | None  # target -> member -> weight, when fitted per target
    calibration: dict[str, tuple[float, float]] | None  # target -> (slope, offset in grams), when calibrated
    floors: dict[str, float] | None  # component -> grams; what is predicted up to it becomes 0
    follow_up_gains: dict[str, Estimate]  # nested, of those tried; used if above its SE
    flips: int  # turned and mirrored copies that members' predictions are means over; 1 is the picture as it is
    flips_gain: Estimate | None  # nested, where flips were tried
    library_size: int
    images: int
    groups: int
    seed: int
    in_sample_score: float  # members chosen and scored on the same rows: too good
    nested_score: float  # chosen and weighted without the scored units: the number to trust
    nested_se: float
    nested_by: str  # what a nest holds out: date, state, group, photograph; "fold" where there is a single one of those
    nested_fold_scores: dict[str, float | None]
    nested_group_score: float | None  # of earlier versions: nested over groups instead of folds
    nested_group_se: float | None
    group_scores: dict[str, float | None]  # nested, within the group
    bootstrap: Estimate | None  # of earlier versions: BBC-CV over groups
    ceiling_score: float  # exact optimum on the simplex, in sample: no blend of these members can show more
    ceiling_gap: float  # duality gap of that optimum
    best_single: str
    best_single_score: float  # in sample, projected as all members are: not the trial's own score, which pages show
    best_single_nested_score: float  # the best member, chosen without the scored units
    top5_nested_score: float  # the mean of the five best, chosen without the scored units
    versus: dict[str, Estimate]  # nested blend minus something else, paired over units
    targets: dict[str, TargetScore]
    state_scores: dict[str, float | None]  # nested, within the state
    diversity: float | None  # mean residual correlation between chosen members, None for a single one
    left_out: tuple[tuple[str, str], ...]  # (name, reason)
    merged: tuple[tuple[str, str], ...]  # (name, the better or affordable member that it repeats)
    method: str = OLD_METHOD  # of nested scores and errors
    nested_low: float | None = None  # 95 % interval of the expected nested score
    nested_high: float | None = None
    units: int | None = None  # G, what errors are counted by
    cut_groups: int = 0  # groups that lie in several folds: scores are too good then
    counted: str = WEIGHTED_R2  # what scores count (measured.counted_text)
    target_norm: dict[str, float] | None = None  # weights of the measured targets in a projection; None: the metric's
    state_rule: CardStateRule | None = None
    state_model: dict[str, Any] | None = None  # what says how likely states are, where the state rule was tried
    intervals: IntervalRows | None = None  # what intervals of new masses follow from; None: made before there were any
    budget: CardBudget | None = None  # of minutes, where the blend was made within one
    all_rows: str = NONE  # of fold_rows.ALL_ROWS: what predicts new photographs beside, or instead of, the fold models

    @property
    def all_rows_text(self) -> str | None:
        """What predicts new photographs, in a sentence; None where the models that are scored do."""
        if self.all_rows == NONE:
            return None
        what = "instead of the fold models" if self.all_rows == INSTEAD else "beside the fold models"
        return (
            f"new photographs are predicted by a model of each trial that was fitted on all labelled rows, {what}; it "
            "has no score of its own: the scores are of the fold models"
        )

    @property
    def nested(self) -> Estimate:
        """The nested score with its error: what every page shows. NaN for an interval that was not recorded."""
        low, high = (math.nan if end is None else end for end in (self.nested_low, self.nested_high))
        return Estimate(value=self.nested_score, se=self.nested_se, low=low, high=high)

    def interval_for_new(self, new: int) -> tuple[float, float] | None:
        """95 % interval of the score on `new` other units; None where the card's method has none."""
        if self.method != METHOD or self.units is None or math.isnan(self.nested_se):
            return None
        return interval_for_new(self.nested, self.units, new)

    @property
    def optimism(self) -> float:
        """How much the in-sample score promises beyond the nested one."""
        return self.in_sample_score - self.nested_score

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts only; None for an error that a single group cannot have."""
        return _without_nan(asdict(self) | {"optimism": self.optimism})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Card:
        """The card that to_json wrote; a field that an earlier version did not write has its default.

        Raises UserError that names what is missing, and what is unknown: it may decide what the blend predicts.
        """
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        given = {key: value for key, value in content.items() if key not in BESIDE}
        missing, unknown = sorted(needed - set(given)), sorted(set(given) - {field.name for field in fields(cls)})
        if missing or unknown:
            raise UserError(
                f"a card holds fixed fields, got {missing} missing and {unknown} unknown; blend again with this version"
            )
        for field in ("bootstrap", "flips_gain"):
            given[field] = None if given[field] is None else _estimate(given[field])
        for field in ("versus", "follow_up_gains"):
            given[field] = {name: _estimate(estimate) for name, estimate in given[field].items()}
        given["nested_se"] = _number(given["nested_se"])
        given["follow_ups"] = tuple(given["follow_ups"])
        given["targets"] = {name: TargetScore(**score) for name, score in given["targets"].items()}
        for field in ("left_out", "merged"):
            given[field] = tuple((name, why) for name, why in given[field])
        if given.get("state_rule") is not None:
            given["state_rule"] = CardStateRule(**given["state_rule"])
        if given.get("intervals") is not None:
            given["intervals"] = IntervalRows.from_json(given["intervals"])
        if given.get("budget") is not None:
            given["budget"] = _budget(given["budget"])
        if given["calibration"] is not None:
            given["calibration"] = {name: (pair[0], pair[1]) for name, pair in given["calibration"].items()}
        return cls(**given)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _estimate(content: Mapping[str, Any]) -> Estimate:
    return Estimate(**{key: _number(value) for key, value in content.items()})


def _budget(content: Mapping[str, Any]) -> CardBudget:
    curve = tuple(BudgetPoint(**{**point, "nested_se": _number(point["nested_se"])}) for point in content["curve"])
    needs = {name: tuple(units) for name, units in content["needs"].items()}
    gain = None if content.get("next_gain") is None else _estimate(content["next_gain"])
    return CardBudget(**{**content, "curve": curve, "needs": needs, "next_gain": gain})


def _number(value: float | None) -> float:
    return math.nan if value is None else value
