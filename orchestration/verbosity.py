"""How much a command prints beside its results and errors: the level of the project's logger, `orchestration`."""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("orchestration")


def set_verbosity(*, quiet: bool = False, verbose: bool = False) -> None:
    """quiet: neither remarks nor progress; verbose: what was typed and chosen, and Ray's own lines, as well."""
    LOGGER.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)


def is_quiet() -> bool:
    return LOGGER.level >= logging.ERROR


def is_verbose() -> bool:
    return logging.NOTSET < LOGGER.level <= logging.INFO


def level_of_ray() -> int:
    """Of Ray's own loggers."""
    return logging.INFO if is_verbose() else logging.ERROR
