"""Named studies: functions that return the settings of one."""

from __future__ import annotations

from dataclasses import dataclass

from orchestration.study import StudySettings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A study and its budget; `images` and `test_images` only matter where the data are generated."""

    settings: StudySettings
    trials: int
    images: int = 357
    test_images: int = 120
    width: int = 1000  # px; a generated photograph is half as high


def demo(seed: int = 0) -> Recipe:
    """`biomass demo`: two families on frozen ImageNet features of a generated pasture; minutes on 2 cores."""
    settings = StudySettings(
        families=("baseline", "probe"), backbones=("tf_efficientnet_lite0",), scale="demo", seed=seed
    )
    return Recipe(settings=settings, trials=24)


def smoke(seed: int = 0) -> Recipe:
    """The same road with tiny pictures and random weights, for tests: under a minute, and its scores mean nothing."""
    settings = StudySettings(
        families=("baseline", "probe", "distilled"),
        backbones=("test_vit",),
        weights="random",
        scale="smoke",
        n_folds=3,
        seed=seed,
    )
    return Recipe(settings=settings, trials=6, images=24, test_images=6, width=160)


RECIPES = {"demo": demo, "smoke": smoke}
