"""What decides a search: what is searched, how much, and where it runs. Each field is an option of `biomass search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from biomass_models.config_rules import known_name
from biomass_models.data.frames import Fit
from biomass_models.errors import UserError
from biomass_models.families import registry
from orchestration.option import BUDGET, FOLDS, WHAT, option, option_of, typed_with
from orchestration.search.engines import registry as engines
from orchestration.study.settings import AIMS, EQUAL, SCORE, SHARINGS, StudySettings
from orchestration.workers.resources import Resources
from search_spaces.spaces import SCALES


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What is searched; a new study stores what it comes to on this machine (`Preset.settings`)."""

    families: tuple[str, ...] = field(
        default=tuple(sorted(registry.BUILT_IN)),
        metadata=option(
            "Family, or FAMILY=SHARE of the trials; repeat. This project's without it.",
            WHAT,
            spelling="--family",
            completion="families",
        ),
    )
    shares: tuple[float, ...] = field(default=(), metadata=typed_with("families"))  # by family; () = equal
    sharing: str = field(
        default=EQUAL,
        metadata=option(
            "Families get equal turns, or what they have earned: equal, earned.",
            WHAT,
            spelling="--shares",
            completion="sharings",
        ),
    )
    backbones: tuple[str, ...] = field(  # timm names; () = the default ones whose weights are here
        default=(),
        metadata=option("timm backbone; repeat for several.", WHAT, spelling="--backbone", completion="backbones"),
    )
    weights: str = field(
        default="auto",
        metadata=option(
            "Backbone weights: auto (package, $BIOMASS_WEIGHTS, hub), random (tests), or a folder.",
            WHAT,
            completion="weights",
        ),
    )
    scale: str = field(  # auto: gpu where a slot has one, else cpu
        default="auto", metadata=option("Ranges: auto, smoke, demo, cpu, gpu.", WHAT, completion="scales")
    )
    space: Path | None = field(
        default=None, metadata=option("Your own ranges: a TOML file (biomass space --toml writes one).", WHAT)
    )
    set_: tuple[str, ...] = field(  # `set` is a word of Python's
        default=(),
        metadata=option(
            "Fix a setting: FAMILY.FIELD=VALUE, such as distilled.huber_delta=1.0; repeat.",
            WHAT,
            spelling="--set",
            completion="settings",
        ),
    )
    fit: str = field(
        default="auto",
        metadata=option(
            "Photographs that are not 2:1: stretch, crop, pad; auto as the data say.", WHAT, completion="fits"
        ),
    )
    engine: str = field(
        default=engines.DEFAULT,
        metadata=option(f"Sampler: {', '.join(engines.BUILT_IN)}, or an installed one.", WHAT, completion="engines"),
    )
    aim: str = field(
        default=SCORE,
        metadata=option("What proposals are to raise: score, or gain of the blend (blend).", WHAT, completion="aims"),
    )
    seed: int = field(default=0, metadata=option("Of folds and proposals.", WHAT, minimum=0))
    folds: int = field(default=5, metadata=option("Number of folds.", FOLDS, minimum=2))
    scheme: str = field(
        default="date", metadata=option("Folds by date, random, state, species, time.", FOLDS, completion="schemes")
    )
    exam: float = field(
        default=0.0,
        metadata=option(
            "Share of the images, by whole dates (0 to 0.5), kept out for biomass exam.", FOLDS, minimum=0.0
        ),
    )
    from_: str | None = field(  # `from` is a word of Python's
        default=None,
        metadata=option("Study of fewer photographs, whose best settings come first.", WHAT, spelling="--from"),
    )
    fold_file: Path | None = field(  # the scheme is then `file`
        default=None, metadata=option("Your folds: CSV image_id,fold from 0; -1: only trained on; exam.", FOLDS)
    )


MOST_TRIALS = 1_000_000  # of a study
PSEUDO_WEIGHT = 0.3  # what a photograph that models have labelled counts beside a weighed one


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is searched, and what by this run alone."""

    trials: int | None = field(
        default=None, metadata=option("Trials of the whole study.", BUDGET, minimum=1, maximum=MOST_TRIALS)
    )
    hours: float | None = field(
        default=None, metadata=option("Start no trial after so many hours.", BUDGET, unit="h", minimum=0.0)
    )
    prune: str = field(
        default="default",
        metadata=option("Stop hopeless trials after a fold: off, default, strict.", BUDGET, completion="prune_rules"),
    )
    max_fold_seconds: float = field(
        default=1800.0,
        metadata=option("Refuse trials whose folds are estimated to take longer.", BUDGET, unit="s", minimum=1),
    )
    retry_failed: bool = field(
        default=False,
        metadata=option("Take failed trials up again.", BUDGET, spelling="--retry-failed", noted=False),
    )
    second_round: str | None = field(
        default=None,
        metadata=option(
            "Ensemble of this study whose members label the test photographs: trials learn from them as well.",
            WHAT,
            noted=False,
        ),
    )
    pseudo_weight: float = field(
        default=PSEUDO_WEIGHT,
        metadata=option("What such a photograph counts beside a weighed one, up to 1.", WHAT, minimum=0.0, noted=False),
    )

    @property
    def ends(self) -> bool:
        """Whether a search comes to an end by itself."""
        return self.trials is not None or self.hours is not None


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Photographs that `biomass demo` draws."""

    images: int  # for training
    test_images: int = 120
    width: int = 1000  # px; twice the height


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What decides a search. Every field of the first three parts is an option of `biomass search`."""

    study: StudyOptions = field(default_factory=StudyOptions)
    budget: Budget = field(default_factory=Budget)
    resources: Resources = field(default_factory=Resources)
    drawing: Drawing | None = None  # None: the preset is for real photographs

    def check(self) -> None:
        """Raise UserError with the nearest name for a scale, scheme, pruning rule, engine, ... that does not exist.

        Families are looked at where a study is made: one that is there may have a family that is not installed here.
        """
        from biomass_models.data.folds import SCHEMES
        from biomass_models.data.frames import FITS
        from orchestration.search.pruning import RULES

        known_name("a scale", self.study.scale, ("auto", *SCALES))
        known_name("a fit of photographs", self.study.fit, ("auto", *FITS))
        known_name("a fold scheme", self.study.scheme, [scheme for scheme in SCHEMES if scheme != "file"])
        known_name("a pruning rule", self.budget.prune, RULES)
        known_name("a way of sharing", self.study.sharing, SHARINGS)
        known_name("an aim", self.study.aim, AIMS)
        if self.budget.second_round is None and self.budget.pseudo_weight != PSEUDO_WEIGHT:
            raise UserError(
                f"--pseudo-weight is of a second round, got {self.budget.pseudo_weight:g} without one; name its "
                "ensemble with --second-round, or leave the weight out"
            )
        engines.known(self.study.engine)

    def settings(self, backbones: Sequence[str], *, weights: str, gpu: bool, fit: Fit = "stretch") -> StudySettings:
        """Settings of the study.

        backbones: those whose weights were found; weights: auto, random or folder; fit: what the data say.
        """
        study = self.study
        return StudySettings(
            families=study.families,
            shares=study.shares,
            backbones=tuple(backbones),
            weights=weights,
            scale=study.scale if study.scale != "auto" else "gpu" if gpu else "cpu",
            fit=fit if study.fit == "auto" else cast("Fit", study.fit),
            scheme="file" if study.fold_file else study.scheme,
            folds=study.folds,
            seed=study.seed,
            exam=study.exam,
            max_fold_seconds=self.budget.max_fold_seconds,
            sharing=study.sharing,
            aim=study.aim,
            engine=study.engine,
        )

    def values(self) -> dict[str, Any]:
        """By name, of the fields of all parts that are options."""
        return {name: getattr(getattr(self, part), name) for name, part in PART_OF.items()}

    def with_fields(self, **values: Any) -> Preset:
        """The same with other values of some fields, each in the part that has it. Raises KeyError for another name."""
        by_part: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            by_part.setdefault(PART_OF[name], {})[name] = value
        return replace(self, **{part: replace(getattr(self, part), **own) for part, own in by_part.items()})


PARTS: Mapping[str, Any] = {"study": StudyOptions, "budget": Budget, "resources": Resources}
OPTION_FIELDS: Mapping[str, Field[Any]] = {one.name: one for part in PARTS.values() for one in fields(part)}
PART_OF: Mapping[str, str] = {one.name: part for part, own in PARTS.items() for one in fields(own)}
NOTED = frozenset(name for name, one in OPTION_FIELDS.items() if (own := option_of(one)) is None or own.noted)
