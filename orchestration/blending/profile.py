"""What predictions of a study's members cost on this machine: measured, and kept in the study.

A run of labelled photographs, as long as a shard of a prediction, goes through every complete trial as new photographs
would: with an empty feature store. All of them, since members that were left out by their score on all rows would be
chosen with the rows that a nest scores them by. A bank of frozen features is timed once, with its decoding and the
loading of its backbone; what remains is the member's own. So a set of members costs its banks once, and each member's
own time. That is a little too much where two banks share decoded photographs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomass_models.backbones.devices import threads
from biomass_models.backbones.weights import WeightsSource
from biomass_models.counted import counted
from biomass_models.data.images import DecodeOnce, View
from biomass_models.data.table import read_train
from biomass_models.errors import UserError
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.features.spec import FeatureBank, FeatureSpec
from orchestration.blending.device import device_name
from orchestration.progress import Say, progress_bar
from orchestration.study.data import StudyData, Trial
from orchestration.study.derived.profiles import MemberCost, ProfileRecord, UnitCost
from orchestration.study.ledger import LedgerError, predicting_models
from orchestration.study.records import Params, TrialRef
from orchestration.study.seeds import content_id
from orchestration.workers.refit import require_same
from orchestration.workers.shards import SHARD_IMAGES, mean_prediction, require_packages
from orchestration.workers.weights_here import source_of_trials

NONE_CAN = "a profile needs a trial that can predict here, got none; the lines before say why of each"


class TimedInputs(Inputs):
    """Inputs of a few photographs that time each bank once, in a feature store of its own."""

    def __init__(self, images: ImageSet, folder: Path, **settings: Any) -> None:
        super().__init__(images, cache_dir=folder / "own", **settings)
        self._folder, self._settings = folder, settings
        self._shared: dict[str, Any] = {}  # what was computed, by unit
        self.units: dict[str, UnitCost] = {}
        self.asked: list[str] = []  # units that a prediction has asked for
        self.elsewhere = 0.0  # seconds of a prediction that its banks took

    def features(self, spec: FeatureSpec, **watched: Any) -> FeatureBank:
        views = f"{counted(len(spec.views), 'view')} of {spec.views[0].width} px"
        copies = "" if spec.flips == 1 else f", {spec.flips} copies"
        label = f"{spec.backbone}, {views}{copies}"
        found: FeatureBank = self._timed("bank", repr(spec), label, lambda own: own.features(spec, **watched))
        return found

    def pixels(self, view: View, **watched: Any) -> Any:
        label = f"photographs decoded at {view.width} px"
        return self._timed("pixels", repr((view, watched["stamp"])), label, lambda own: own.pixels(view, **watched))

    def _timed(self, kind: str, what: str, label: str, ask: Any) -> Any:
        unit, begun = content_id(kind, self.fit, what), time.perf_counter()
        if unit not in self._shared:
            folder = self._folder / unit
            settings = {**self._settings, "load": DecodeOnce()}
            self._shared[unit] = ask(Inputs(self.images, cache_dir=folder, **settings))
            seconds = time.perf_counter() - begun
            self.units[unit] = UnitCost(seconds=seconds / len(self.images.image_ids), label=label)
        self.asked.append(unit)
        self.elsewhere += time.perf_counter() - begun
        return self._shared[unit]


def profile_study(
    data: StudyData,
    data_dir: Path,
    *,
    weights: WeightsSource | None,
    device: str,
    cpus: int,
    say: Say,
) -> ProfileRecord:
    """Measure the complete trials, and keep the profile in the study. What cannot predict is left out, and said.

    weights: None: from where the search had them; cpus: threads of a slot. Whatever stops one trial, such as weights
    or a package that are not here, or memory, costs that trial alone. Raises LedgerError where no trial can.
    """
    trials = data.ranked
    if not trials:
        raise LedgerError(f"a profile is of complete trials, {data.ledger.storage.uri} has none; search until one is")
    can_predict: list[Trial] = []
    source: WeightsSource | None = None
    for trial in trials:
        with _left_out(trial.trial_id, say):
            source = source_of_trials([TrialRef(data.ledger.storage.uri, trial.trial_id)], weights)  # one of all trials
            require_packages([_Named(name=trial.trial_id, family=trial.record.family, config=trial.record.config)])
            require_same("a profile is measured", data.ledger, trial.record, data_dir, source, data=False)
            can_predict.append(trial)
    if source is None or not can_predict:
        raise LedgerError(NONE_CAN)
    whole = ImageSet.from_table(data_dir, read_train(data_dir))
    images = whole.take(np.arange(min(SHARD_IMAGES, len(whole.image_ids))))
    members: dict[str, MemberCost] = {}
    with tempfile.TemporaryDirectory(prefix="biomass-profile-") as name, threads(cpus):
        settings = {"weights": source.absolute(), "device": device, "fit": data.settings.fit}
        cold, inputs = (TimedInputs(images, Path(name) / part, **settings) for part in ("cold", "warm"))
        with progress_bar("Profiling members") as update:
            for done, trial in enumerate(can_predict, start=1):
                with _left_out(trial.trial_id, say):
                    models = [model for _, model in predicting_models(data.ledger, trial.trial_id)]
                    asked = trial.record.family, trial.record.config, models
                    if not members:  # the very first prediction wakes the device up, and is not measured
                        _member(*asked, cold)
                    members[trial.trial_id] = _member(*asked, inputs)
                update(done, len(can_predict))
        where = device_name(device, cpus)
        needed = {unit for member in members.values() for unit in member.units}
        units = {unit: cost for unit, cost in inputs.units.items() if unit in needed}
    if not members:
        raise LedgerError(NONE_CAN)
    found = ProfileRecord(
        device=where, measured_at=time.time(), images=len(images.image_ids), units=units, members=members
    )
    data.ledger.write_profile(found)
    return found


@dataclass(frozen=True, kw_only=True)
class _Named:
    """A member, as far as its packages follow from it."""

    name: str
    family: str
    config: Params


@contextmanager
def _left_out(trial_id: str, say: Say) -> Iterator[None]:
    """Whatever goes wrong with a trial is said, and the next one follows: families of others raise what they like."""
    try:
        yield
    except UserError as error:
        say(f"{trial_id} is left out: {error}")
    except Exception as error:
        say(f"{trial_id} is left out: {type(error).__name__}: {error}")


def _member(family: str, config: Mapping[str, Any], models: Sequence[bytes], inputs: TimedInputs) -> MemberCost:
    """Seconds a photograph of a member with all its models, its banks apart."""
    inputs.asked, inputs.elsewhere, begun = [], 0.0, time.perf_counter()
    mean_prediction(family, config, models, inputs, flips=1)
    own = time.perf_counter() - begun - inputs.elsewhere
    return MemberCost(seconds=max(own, 0.0) / len(inputs.images.image_ids), units=tuple(dict.fromkeys(inputs.asked)))


def render_profile(found: ProfileRecord) -> str:
    """A line for the machine, and one for each shared unit, the most expensive first."""
    units = sorted(found.units.values(), key=lambda unit: -unit.seconds)
    own = [member.seconds for member in found.members.values()]
    lines = [
        f"{found.device}: {counted(len(found.members), 'member')}, {counted(found.images, 'photograph')}",
        *(f"  {1000 * unit.seconds:8.1f} ms a photograph  {unit.label}" for unit in units),
        f"  {1000 * min(own):8.1f} to {1000 * max(own):.1f} ms a photograph for a member itself, all its fold models",
    ]
    return "\n".join(lines)
