"""Named studies: functions that return what `biomass search` is asked for, with command, cost and outcome.

A search without a recipe is the plain `Recipe()`; whatever the command line names goes over it (`overridden`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table

from biomass_models.config_rules import known_name
from biomass_models.families import registry
from orchestration.study.records import Asked
from orchestration.study.settings import StudySettings
from search_spaces.spaces import SCALES

BASELINE_BACKBONE, DISTILLED_BACKBONE = "vit_small_patch14_dinov2.lvd142m", "vit_small_patch16_dinov3.lvd1689m"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides a search: settings, budget and slots. All but the last three are options of `biomass search`."""

    families: tuple[str, ...] = tuple(sorted(registry.BUILT_IN))
    shares: tuple[float, ...] = ()  # of the trials, by family; () = equal
    backbones: tuple[str, ...] = ()  # timm names; () = the default ones whose weights are here
    weights: str = "auto"  # auto, random, or a folder
    scale: str = "auto"  # auto: gpu where a slot has one, else cpu
    scheme: str = "date"  # of the folds
    fold_file: str | None = None  # own folds; the scheme is then `file`
    folds: int = 5
    seed: int = 0
    trials: int | None = None  # of the whole study
    hours: float | None = None  # no trial starts later
    prune: str = "default"
    engine: str = "tpe"  # what proposes the next configuration
    max_fold_seconds: float = 1800.0  # dearer folds are refused, by estimate
    cpus_per_fold: float = 1.0
    gpus_per_fold: float | None = None  # None: 1 where there is a GPU
    slots: int | None = None  # at most so many
    fold_timeout: float = 7200.0  # s without a sign of life
    folds_together: bool | None = None  # frozen heads in one batch; None: on GPUs
    compiles: bool = False  # torch.compile of networks whose backbone trains
    images: int | None = None  # that `biomass demo` draws; None: the recipe is for real photographs
    test_images: int = 120
    width: int = 1000  # px; a generated photograph is half as high

    def check(self) -> None:
        """Raise ValueError with the nearest name for a scale, scheme, pruning rule or engine that does not exist.

        Families are looked at where a study is made: one that is there may have a family that is not installed here.
        """
        from biomass_models.data.folds import SCHEMES
        from orchestration.search.engines import registry as engines
        from orchestration.search.pruning import RULES

        known_name("a scale", self.scale, ("auto", *SCALES))
        known_name("a fold scheme", self.scheme, [scheme for scheme in SCHEMES if scheme != "file"])
        known_name("a pruning rule", self.prune, RULES)
        engines.known(self.engine)

    def settings(self, backbones: Sequence[str], *, weights: str, gpu: bool) -> StudySettings:
        """Settings of the study. backbones: those whose weights were found; weights: auto, random or folder."""
        return StudySettings(
            families=self.families,
            shares=self.shares,
            backbones=tuple(backbones),
            weights=weights,
            scale=self.scale if self.scale != "auto" else "gpu" if gpu else "cpu",
            scheme="file" if self.fold_file else self.scheme,
            n_folds=self.folds,
            seed=self.seed,
            max_fold_seconds=self.max_fold_seconds,
            engine=self.engine,
        )

    def resources(self) -> dict[str, Any]:
        """Arguments of search.Resources, but for cache and cluster."""
        return {
            "cpus_per_fold": self.cpus_per_fold,
            "gpus_per_fold": self.gpus_per_fold,
            "max_slots": self.slots,
            "fold_timeout": self.fold_timeout,
            "folds_together": self.folds_together,
            "compiles": self.compiles,
        }


def demo() -> Recipe:
    """Two families on frozen ImageNet features of a generated pasture.

    Command:  biomass demo
    Cost:     4 to 5 minutes on 2 free CPU cores with an empty cache (measured).
    Expect:   a blend of 0.74 to 0.79 nested, 0.65 to 0.82 on the generated test
              set (measured, seeds 0 to 2). They say nothing of real pasture.
    """
    return Recipe(
        families=("baseline", "probe"), backbones=("tf_efficientnet_lite0",), scale="demo", trials=24, images=357
    )


def smoke() -> Recipe:
    """The same road with tiny pictures and random weights: does it work here?

    Command:  biomass demo --recipe smoke
              biomass search STUDY --data DIR --recipe smoke
    Cost:     under a minute on 2 CPU cores for the demo's 24 images (measured).
    Expect:   six trials of all three families; their scores mean nothing.
    """
    return Recipe(
        families=("baseline", "probe", "distilled"),
        backbones=("test_vit",),
        weights="random",
        scale="smoke",
        folds=3,
        trials=6,
        images=24,
        test_images=6,
        width=160,
    )


def cpu_overnight() -> Recipe:
    """All families on frozen features, on a machine without a GPU, in one night.

    Command:  biomass search STUDY --data DIR --recipe cpu_overnight
    Cost:     9 hours at most. On two busy cores `biomass doctor` said 6 hours
              for 600 trials on 357 images and one small backbone
              (tf_efficientnet_lite0), from timed pilots: 0.2 s a fold of a
              probe, 1 s of a baseline, 41 s of a distilled one; features once,
              10 to 200 s each. Large backbones cost more.
    Expect:   hundreds of trials. On the competition's photographs: not measured
              here. Backbones whose weights are missing are left out, and it is
              said; more of them, and larger ones, gain more than more trials.
    """
    return Recipe(scale="cpu", trials=600, hours=9.0, gpus_per_fold=0.0)


def kaggle_single_gpu() -> Recipe:
    """All families on one 16 GB GPU, within a 9-hour notebook.

    Command:  biomass search STUDY --data /kaggle/input/csiro-biomass
                  --recipe kaggle_single_gpu --weights /kaggle/input/WEIGHTS
    Cost:     8 GPU-hours at most; an hour is left for blending. Not measured
              here.
    Expect:   not measured here. The published settings come first; hopeless
              trials are pruned strictly, because a session is short. The same
              command goes on in the next session if STUDY was kept.
    """
    return Recipe(
        scale="gpu",
        trials=60,
        hours=8.0,
        prune="strict",
        gpus_per_fold=1.0,
        cpus_per_fold=2.0,
        slots=1,
        max_fold_seconds=3600.0,
    )


def kaggle_t4x2() -> Recipe:
    """The same on Kaggle's two T4s: two folds at a time.

    Command:  biomass search STUDY --data /kaggle/input/csiro-biomass
                  --recipe kaggle_t4x2 --weights /kaggle/input/WEIGHTS
    Cost:     16 GPU-hours at most, in 8 hours. Not measured here.
    Expect:   about twice the trials of kaggle_single_gpu (estimate: folds are
              independent; the 4 CPU cores may become the bottleneck).
    """
    return Recipe(
        scale="gpu",
        trials=120,
        hours=8.0,
        prune="strict",
        gpus_per_fold=1.0,
        cpus_per_fold=2.0,
        slots=2,
        max_fold_seconds=3600.0,
    )


def cluster_8gpu() -> Recipe:
    """All families on a Ray cluster with eight GPUs, for a day.

    Command:  ray job submit --address http://HEAD:8265 --working-dir . --
                  python -m orchestration search /shared/STUDY
                  --data /shared/DIR --recipe cluster_8gpu
    Cost:     192 GPU-hours at most. Not measured here; `biomass doctor --scale
              gpu --trials 500` times a pilot and says what it will be.
    Expect:   not measured here. Nodes may come and go (docs/cluster.md).
    """
    return Recipe(
        scale="gpu", trials=500, hours=24.0, gpus_per_fold=1.0, cpus_per_fold=4.0, slots=8, max_fold_seconds=3600.0
    )


def published() -> Recipe:
    """The original project's two models as published, on folds by date.

    Baseline: DINOv2 ViT-S/14 at 980 px, last 4 blocks trained. Distilled:
    DINOv3 ViT-S/16, whole image and four corners at 224 px, last 5 blocks
    trained, with the metadata teacher. Nothing is searched: two trials.

    Command:  biomass search STUDY --data DIR --recipe published
    Cost:     10 folds. Estimate for a T4: 1 to 3 GPU-hours (87 PFLOP counted,
              at 8 to 20 TFLOP/s). Not measured here; core-weeks on a CPU.
    Expect:   not measured here. Folds are by date, so that scores lie far below
              those of random folds (0.84 to 0.87 there went with 0.60 to 0.66
              on the hidden test set). --trials 4 adds their twins: targets in
              grams, and no teacher.
    """
    return Recipe(
        families=("baseline", "distilled"),
        backbones=(BASELINE_BACKBONE, DISTILLED_BACKBONE),
        scale="gpu",
        trials=2,
        prune="off",
        max_fold_seconds=7200.0,
        gpus_per_fold=1.0,
        cpus_per_fold=2.0,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__: function
    for function in (demo, smoke, cpu_overnight, kaggle_single_gpu, kaggle_t4x2, cluster_8gpu, published)
}


@dataclass(frozen=True, kw_only=True)
class RecipeRow:
    """A recipe as it is listed."""

    name: str
    summary: str  # first line of its docstring
    about: str  # the rest: command, cost, what to expect
    settings: Recipe

    @classmethod
    def of(cls, name: str) -> RecipeRow:
        summary, _, about = (inspect.getdoc(RECIPES[name]) or "").partition("\n\n")
        return cls(name=name, summary=summary, about=about, settings=RECIPES[name]())


def render_recipes(rows: Sequence[RecipeRow]) -> Table:
    """As a terminal table of at most 80 columns."""
    view = Table(title="Recipes", title_justify="left", width=80, show_lines=True)
    for column in ("name", "what it searches", "budget", "a slot"):
        view.add_column(column, no_wrap=column != "what it searches")
    for row in rows:
        asked = row.settings
        families = "all" if set(asked.families) == set(registry.BUILT_IN) else ", ".join(asked.families)
        searched = [row.summary, f"families: {families}"]
        searched.append(f"backbones: {', '.join(asked.backbones) or 'the default ones that are here'}")
        budget = [f"{asked.trials} trials" if asked.trials else "", f"{asked.hours:g} h" if asked.hours else ""]
        slot = [f"{asked.gpus_per_fold:g} GPU" if asked.gpus_per_fold else "", f"{asked.cpus_per_fold:g} CPU"]
        slot.append(f"at most {asked.slots}" if asked.slots else "")
        view.add_row(row.name, *("\n".join(filter(None, cell)) for cell in (searched, budget, slot)))
    return view


def render_recipe(row: RecipeRow) -> str:
    """The docstring, and every setting that is not the plain search's."""
    plain = asdict(Recipe())
    own = {field: value for field, value in asdict(row.settings).items() if value != plain[field]}
    under = ",\n" + " " * 20  # a list has a line for each item
    shown = {field: under.join(value) if isinstance(value, tuple) else value for field, value in own.items()}
    lines = [f"  {field:<17} {value}" for field, value in shown.items()]
    return "\n".join([row.name, row.summary, "", row.about, "", "Settings, where it has its own:", *lines])


def recipe_named(name: str) -> Recipe:
    """Raises ValueError with the nearest name where there is no such recipe."""
    return RECIPES[known_name("a recipe", name, RECIPES)]()


def overridden(name: str | None, given: Mapping[str, Any]) -> tuple[Recipe, Asked]:
    """A recipe with what the command line names over it, and the note of both that a new study keeps.

    given: by field of Recipe; None where nothing was said. name: None is the plain recipe.
    Raises ValueError for a name that does not exist, of a recipe or of anything that it chooses.
    """
    overrides = {field: value for field, value in given.items() if value is not None}
    recipe = replace(recipe_named(name) if name else Recipe(), **overrides)
    recipe.check()
    return recipe, Asked(recipe=name, overrides=overrides)
