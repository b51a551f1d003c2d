"""What the Tab key offers for names. Nothing here loads torch or Ray: a key press must not take seconds."""

from __future__ import annotations

from collections.abc import Iterable


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def families(incomplete: str) -> list[str]:
    from biomass_models.families import registry

    return _starting(incomplete, registry.names())


def backbones(incomplete: str) -> list[str]:
    from biomass_models.backbones.packages import PACKAGES
    from search_spaces.spaces import DEFAULT_BACKBONES

    shipped = (package.name.split(".")[0] for package in PACKAGES if not package.stands_in)
    return _starting(
        incomplete, dict.fromkeys((*DEFAULT_BACKBONES, *shipped))
    )  # timm has a thousand more, and takes seconds to list them


def settings(incomplete: str) -> list[str]:
    """FAMILY.FIELD= of every family that can be loaded."""
    from dataclasses import fields

    from biomass_models.errors import UserError
    from biomass_models.families import registry

    found = []
    for family in registry.names():
        try:
            config_class = registry.family(family).config_class
        except UserError:
            continue
        found += [f"{family}.{field.name}=" for field in fields(config_class)]
    return _starting(incomplete, found)


def obtainable(incomplete: str) -> list[str]:
    from biomass_models.backbones.packages import PACKAGES

    return _starting(incomplete, (package.title for package in PACKAGES))


def scales(incomplete: str) -> list[str]:
    from search_spaces.spaces import SCALES

    return _starting(incomplete, ("auto", *SCALES))


def fits(incomplete: str) -> list[str]:
    from biomass_models.data.frames import FITS

    return _starting(incomplete, ("auto", *FITS))


def schemes(incomplete: str) -> list[str]:
    from biomass_models.data.folds import SCHEMES

    return _starting(incomplete, (scheme for scheme in SCHEMES if scheme != "file"))


def prune_rules(incomplete: str) -> list[str]:
    from orchestration.search.pruning import RULES

    return _starting(incomplete, RULES)


def sharings(incomplete: str) -> list[str]:
    from orchestration.study.settings import SHARINGS

    return _starting(incomplete, SHARINGS)


def aims(incomplete: str) -> list[str]:
    from orchestration.study.settings import AIMS

    return _starting(incomplete, AIMS)


def engines(incomplete: str) -> list[str]:
    from orchestration.search.engines import registry

    return _starting(incomplete, registry.names())


def blend_rules(incomplete: str) -> list[str]:
    from ensembles.choice import RULES

    return _starting(incomplete, RULES)


def follow_ups(incomplete: str) -> list[str]:
    from ensembles.spec import FOLLOW_UPS

    return _starting(incomplete, FOLLOW_UPS)


def all_rows(incomplete: str) -> list[str]:
    from biomass_models.fold_rows import ALL_ROWS

    return _starting(incomplete, ALL_ROWS)


def units(incomplete: str) -> list[str]:
    from biomass_models.data.dataset import UNITS

    return _starting(incomplete, UNITS)


def presets(incomplete: str) -> list[str]:
    from orchestration.search.presets.named import PRESETS

    return _starting(incomplete, PRESETS)


def weights(incomplete: str) -> list[str]:
    return _starting(incomplete, ("auto", "random"))  # a folder is typed
