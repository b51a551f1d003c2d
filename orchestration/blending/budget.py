"""A blend within a budget of minutes: which profile says what members cost, and what the card says of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from biomass_models.config_rules import did_you_mean
from biomass_models.counted import counted
from biomass_models.data.table import TEST_FILE, read_test
from biomass_models.errors import UserError
from biomass_models.fold_rows import NONE
from ensembles.blend import fit_blend
from ensembles.budget import Budgeted, PredictionCosts, budget_of
from ensembles.card import Card
from ensembles.choice import rule_named
from ensembles.members.library import Library
from ensembles.spec import BlendSpec
from orchestration.blending.device import device_name
from orchestration.progress import Say
from orchestration.study.derived.profiles import ProfileRecord
from orchestration.study.ledger import Ledger
from orchestration.study.records import TrialRef
from orchestration.study.storage import Storage


def measure(study: str, where: str) -> str:
    """How a profile is made."""
    return f"run `biomass doctor {shlex.quote(study)} --data DIR --profile` {where}"


def require_fold_models(budget: object | None, all_rows: str) -> None:
    """Raise UserError where other models than those of folds are to predict within a budget; budget: None: without."""
    if budget is not None and all_rows != NONE:
        raise UserError(
            f"a budget counts what fold models take without flips, got --all-rows {all_rows}; leave --all-rows out, or "
            "blend without --budget-minutes"
        )


class HalfBudget(UserError):
    """Minutes without photographs, or the other way round."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Time that predictions may take."""

    minutes: float
    images: int
    device: str | None = None  # how the profile's device begins; None: this machine's
    listed: bool = False  # whether the images are those of the test set

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise UserError(f"--budget-minutes is above 0, got {self.minutes}")
        if self.images < 1:
            raise UserError(f"--images is at least 1, got {self.images}")

    @property
    def charged(self) -> int:
        """Photographs that the members' cost a photograph counts for: whole shards, since each loads backbones and
        models again, and a profile is of one shard."""
        from orchestration.workers.shards import SHARD_IMAGES, spans  # torch

        return len(spans(self.images)) * SHARD_IMAGES


def asked_budget(minutes: float | None, images: int | None, device: str | None, data_dir: Path | None) -> Budget | None:
    """As it was asked for, for the test photographs of `data_dir` unless `images` says how many; None where none was.

    Raises HalfBudget, or UserError for what is none. A test set of less than a shard is refused: of a competition it is
    an example, and the photographs that are predicted there are not listed.
    """
    if minutes is None:
        if images is not None or device is not None:
            raise HalfBudget("--images and --device belong to a budget: give --budget-minutes as well")
        return None
    listed = images is None and data_dir is not None and (data_dir / TEST_FILE).exists()
    if listed and data_dir is not None:
        from orchestration.workers.shards import SHARD_IMAGES  # torch

        images = len(read_test(data_dir))
        if images < SHARD_IMAGES:
            raise HalfBudget(
                f"a budget is for the photographs that will be predicted, {TEST_FILE} lists {images}, as an example of "
                "a hidden test set does; give --images N (a bundle meets about 800 on Kaggle)"
            )
    if images is None:
        raise HalfBudget("a budget is for a number of photographs: give --images N, or --data with a test set")
    return Budget(minutes=minutes, images=images, device=device, listed=listed)


def budgeted_cards(
    library: Library, trials: Mapping[str, TrialRef], budget: Budget, rule: str, follow_ups: tuple[str, ...], *,
    seed: int, references: Mapping[str, np.ndarray], say: Say,
) -> list[Card]:  # fmt: skip
    """The card of the blend within the budget, one in a list. Members without a measured cost are never chosen.

    Raises UserError where no profile is of the device, or no member can be paid for.
    """
    device, costs = _costs(library.names, trials, budget)
    if budget.listed:
        say(f"note: the budget is for {counted(budget.images, 'photograph')} of {TEST_FILE}; --images N counts others")
    if missing := [name for name, own in zip(costs.names, costs.own_M, strict=True) if not np.isfinite(own)]:
        members = counted(len(missing), "member was", "members were")
        say(f"note: {members} not profiled on {device}, so not chosen, such as {missing[0]}")
    within = Budgeted(rule_named(rule), costs, 60 * budget.minutes)
    card = fit_blend(library, BlendSpec(rule=within, tried=follow_ups), seed, references=references)
    weight_M = np.array([card.members.get(name, 0.0) for name in library.names])
    say(f"Weighing up budgets on {device}")
    return [
        replace(card, budget=budget_of(library.gram, within, weight_M, images=budget.images, device=device, seed=seed))
    ]


def paid_alone(budget: Budget, trials: Mapping[str, TrialRef]) -> frozenset[str]:
    """Members that the budget pays for. Raises UserError where no profile is of the device."""
    _, costs = _costs(tuple(trials), trials, budget)
    return costs.paid_alone(60 * budget.minutes)


def _costs(names: Sequence[str], trials: Mapping[str, TrialRef], budget: Budget) -> tuple[str, PredictionCosts]:
    """The device, and what these members take there. Raises UserError where no profile is of it."""
    device, profiles = _profiles(trials, budget.device)
    own: dict[str, float] = {}
    needs: dict[str, tuple[str, ...]] = {}
    units: dict[str, float] = {}
    for name in names:
        profile = profiles.get(trials[name].study) if name in trials else None
        cost = None if profile is None else profile.members.get(trials[name].trial_id)
        if profile is None or cost is None:
            continue
        own[name], needs[name] = budget.charged * cost.seconds, cost.units
        units |= {unit: budget.charged * profile.units[unit].seconds for unit in cost.units}
    return device, PredictionCosts.of(names, own, needs, units)


def _profiles(trials: Mapping[str, TrialRef], asked: str | None) -> tuple[str, dict[str, ProfileRecord]]:
    """The device, and each study's profile of it. Raises UserError where none is of it."""
    studies = {ref.study for ref in trials.values()}
    found = {study: {one.device: one for one in Ledger(Storage(study)).profiles()} for study in studies}
    known = sorted({device for profiles in found.values() for device in profiles})
    name, here = asked or device_name(), asked is None
    fitting = [device for device in known if device == name]  # exactly: with other threads it takes another time
    if not here and not fitting:
        fitting = [device for device in known if device.lower() == name.lower()] or [
            device for device in known if device.lower().startswith(name.lower())
        ]
    if len(fitting) > 1:
        raise UserError(f"a budget is of one kind of machine, {name} is {' and '.join(fitting)}; give one as --device")
    if not fitting:
        has = f"the study has {', '.join(known)}{did_you_mean(name, known)}" if known else "the study has none"
        how = measure(min(studies, default="STUDY"), "here" if here else "there")
        other = ", or name another with --device" if known else ""
        raise UserError(f"a budget needs a profile of {name}, {has}; {how}{other}")
    device = fitting[0]
    return device, {study: profiles[device] for study, profiles in found.items() if device in profiles}
