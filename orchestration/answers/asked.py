"""A prediction as it is asked for, by the command or from Python: the blend opened, the unit, who does the work."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from biomass_models.backbones.devices import encoding_precision, pick_device
from biomass_models.errors import UserError
from orchestration.answers.opened import BlendPlace, OpenBlend, is_bundle, open_blend, with_likeness
from orchestration.answers.predict import Work, in_this_process
from orchestration.answers.units import Conversion, conversion
from orchestration.progress import Say
from orchestration.workers.resources import Resources


def opened_as_asked(
    place: BlendPlace,
    given: pd.DataFrame,
    *,
    unit: str | None,
    area: float | None,
    data_dir: Path | None,
    resources: Resources,
    say: Say,
) -> tuple[OpenBlend, Conversion]:
    """The blend, and the conversion to the unit. data_dir: that of the search, where embeddings are not kept yet."""
    opened = open_blend(place)
    converted = conversion(opened.mass_unit, unit, area, given)
    if opened.likeness is None and data_dir is not None:
        if is_bundle(place.where):
            raise UserError("a bundle keeps what it is exported with; export it again from a study that has embeddings")
        from orchestration.blending.predict import Predictor  # it loads Ray

        say("Embeddings of the training photographs are kept from now on")
        opened = with_likeness(opened, Predictor(data_dir, resources=resources, weights=place.weights))
    if place.ensemble is None and not is_bundle(place.where):
        say(f"Ensemble {opened.name}, the newest of the study")
    return opened, converted


def work_as_asked(opened: OpenBlend, resources: Resources, *, threads: int, say: Say) -> Work:
    """In this process, or on Ray where the resources are not inline. threads: CPU cores of a process."""
    if resources.inline:
        return in_this_process(opened, cache=resources.cache.expanduser(), cache_gb=resources.cache_gb, cores=threads)
    from orchestration.answers.on_ray import on_ray

    return on_ray(opened.place, resources, threads=threads, say=say)


def made_with_as_asked(resources: Resources, *, threads: int) -> dict[str, str | int]:
    """What rounds sums another way: parts of a prediction that was begun so are not joined with others."""
    made: dict[str, str | int] = {"threads": threads}
    if not resources.inline:
        return made | {"device": f"of Ray, {resources.gpus_per_fold} of a GPU"}
    device = pick_device("auto")
    return made | {"device": device.type, "encoding": str(encoding_precision(device))}
