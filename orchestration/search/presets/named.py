"""Named studies: functions that return what `biomass search` takes, with command, cost and outcome.

A search without a preset is the plain `Preset()`; what the command line names goes over it (`overridden`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomass_models.config_rules import known_name
from orchestration.search.presets.options import NOTED, Budget, Drawing, Preset, StudyOptions
from orchestration.workers.resources import Resources

if TYPE_CHECKING:
    from orchestration.study.records import Asked

BASELINE_BACKBONE, DISTILLED_BACKBONE = "vit_small_patch14_dinov2.lvd142m", "vit_small_patch16_dinov3.lvd1689m"


def demo() -> Preset:
    """Four families on frozen ImageNet features of a generated pasture.

    Command:  biomass demo
    Cost:     4 to 5 minutes on 2 free CPU cores with an empty cache (measured).
    Expect:   a blend of 0.77 to 0.86 nested, 0.68 to 0.85 on the generated test
              set (measured, seeds 0 to 2). They say nothing of real pasture.
    """
    return Preset(
        study=StudyOptions(
            families=("baseline", "density", "probe", "stack"), backbones=("tf_efficientnet_lite0",), scale="demo"
        ),
        budget=Budget(trials=24),
        drawing=Drawing(images=357),
    )


def smoke() -> Preset:
    """The same road with tiny pictures and random weights: does it work here?

    Command:  biomass demo --preset smoke
              biomass search STUDY --data DIR --preset smoke
    Cost:     under a minute on 2 CPU cores for the demo's 24 images (measured).
    Expect:   six trials, two of each family named here; scores mean nothing.
    """
    return Preset(
        study=StudyOptions(
            families=("baseline", "probe", "distilled"),
            backbones=("test_vit",),
            weights="random",
            scale="smoke",
            folds=3,
        ),
        budget=Budget(trials=6),
        drawing=Drawing(images=24, test_images=6, width=160),
    )


def cpu_overnight() -> Preset:
    """All families on frozen features, on a machine without a GPU, in one night.

    Command:  biomass search STUDY --data DIR --preset cpu_overnight
    Cost:     9 hours at most. On two free cores, 357 images and two small backbones
              (tf_efficientnet_lite0, DINOv2 ViT-S/14) `biomass doctor` says 4
              hours for 600 trials, a third of them for features. Of the first
              half hour it says 1.1 slot-hours where 1.0 passed (measured: 28
              trials, 142 folds). Larger backbones cost more.
    Expect:   hundreds of trials. On the competition's photographs: not measured
              here. Backbones whose weights are missing are left out, and it is
              said; more of them, and larger ones, gain more than more trials.
    """
    return Preset(
        study=StudyOptions(scale="cpu"),
        budget=Budget(trials=600, hours=9.0),
        resources=Resources(gpus_per_fold=0.0),
    )


def kaggle_single_gpu() -> Preset:
    """All families on one 16 GB GPU, within a 9-hour notebook.

    Command:  biomass search STUDY --data /kaggle/input/csiro-biomass
                  --preset kaggle_single_gpu --weights /kaggle/input/WEIGHTS
    Cost:     8 GPU-hours at most; an hour is left for blending. Not measured
              here.
    Expect:   not measured here. The published settings come first; hopeless
              trials are pruned strictly, because a session is short. The same
              command goes on in the next session if STUDY was kept.
    """
    return Preset(
        study=StudyOptions(scale="gpu"),
        budget=Budget(trials=60, hours=8.0, prune="strict", max_fold_seconds=3600.0),
        resources=Resources(gpus_per_fold=1.0, cpus_per_fold=2.0, slots=1),
    )


def kaggle_t4x2() -> Preset:
    """The same on Kaggle's two T4s: two folds at a time.

    Command:  biomass search STUDY --data /kaggle/input/csiro-biomass
                  --preset kaggle_t4x2 --weights /kaggle/input/WEIGHTS
    Cost:     16 GPU-hours at most, in 8 hours. Not measured here.
    Expect:   about twice the trials of kaggle_single_gpu (estimate: folds are
              independent; the 4 CPU cores may become the bottleneck).
    """
    return Preset(
        study=StudyOptions(scale="gpu"),
        budget=Budget(trials=120, hours=8.0, prune="strict", max_fold_seconds=3600.0),
        resources=Resources(gpus_per_fold=1.0, cpus_per_fold=2.0, slots=2),
    )


def cluster_8gpu() -> Preset:
    """All families on a Ray cluster with eight GPUs, for a day.

    Command:  ray job submit --address http://HEAD:8265 --working-dir . --
                  python -m orchestration search /shared/STUDY
                  --data /shared/DIR --preset cluster_8gpu
    Cost:     192 GPU-hours at most. Not measured here; `biomass doctor --scale
              gpu --trials 500` measures a slot and estimates it.
    Expect:   not measured here. Nodes may come and go (docs/cluster.md).
    """
    return Preset(
        study=StudyOptions(scale="gpu"),
        budget=Budget(trials=500, hours=24.0, max_fold_seconds=3600.0),
        resources=Resources(gpus_per_fold=1.0, cpus_per_fold=4.0, slots=8),
    )


def published() -> Preset:
    """The original project's two models as published, on folds by date.

    Baseline: DINOv2 ViT-S/14 at 980 px, last 4 blocks trained. Distilled:
    DINOv3 ViT-S/16, whole image and four corners at 224 px, last 5 blocks
    trained, with the metadata teacher. Nothing is searched: two trials.

    Command:  biomass search STUDY --data DIR --preset published
    Cost:     10 folds. Estimate for a T4: 1 to 3 GPU-hours (87 PFLOP counted,
              at 8 to 20 TFLOP/s). Not measured here; core-weeks on a CPU.
    Expect:   not measured here. Folds are by date, so that scores lie far below
              those of random folds (0.84 to 0.87 there went with 0.60 to 0.66
              on the hidden test set). --trials 4 adds their twins: targets in
              grams, and no teacher.
    """
    return Preset(
        study=StudyOptions(
            families=("baseline", "distilled"), backbones=(BASELINE_BACKBONE, DISTILLED_BACKBONE), scale="gpu"
        ),
        budget=Budget(trials=2, prune="off", max_fold_seconds=7200.0),
        resources=Resources(gpus_per_fold=1.0, cpus_per_fold=2.0),
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    function.__name__: function
    for function in (demo, smoke, cpu_overnight, kaggle_single_gpu, kaggle_t4x2, cluster_8gpu, published)
}


def preset_named(name: str) -> Preset:
    """Raises UserError with the nearest name where there is no such preset."""
    return PRESETS[known_name("a preset", name, PRESETS)]()


def overridden(name: str | None, typed: Mapping[str, Any]) -> tuple[Preset, Asked]:
    """A preset with what the command line names over it, and the note of both that a new study keeps.

    typed: by field of a part of Preset; None where nothing was typed. name: None is the plain preset.
    Raises UserError for a name that does not exist, of a preset or of anything that it chooses.
    """
    given = {
        name: tuple(value) if isinstance(value, list) else value for name, value in typed.items() if value is not None
    }
    preset = (preset_named(name) if name else Preset()).with_fields(**given)
    preset.check()
    noted = {key: str(value) if isinstance(value, Path) else value for key, value in given.items() if key in NOTED}
    from orchestration.study.records import Asked  # pandas with it, which the list of presets does without

    return preset, Asked(preset=name, overrides=noted)
