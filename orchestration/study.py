"""A study: its settings, how it is opened or made. What is fixed here never changes while it lives."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from biomass_models.errors import UserError
from orchestration.environment import code_version
from orchestration.seeds import content_id

if TYPE_CHECKING:  # recipes are listed and completed without loading tables
    import pandas as pd

    from orchestration.ledger import Ledger

PACKAGES = ("torch", "timm", "ray", "optuna", "numpy", "pandas", "pillow", "scikit-learn")


class StudyError(UserError):
    """A study cannot be opened as asked; the text says the rule, what was got and what to do."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What decides a study's results. A resumed study must be given the same."""

    families: tuple[str, ...]
    backbones: tuple[str, ...]  # timm names that the search may choose from
    shares: tuple[float, ...] = ()  # of the trials that each family gets, in any unit; () = equal
    weights: str = "auto"  # auto | random | folder
    scale: str = "cpu"  # which ranges: smoke | demo | cpu | gpu
    scheme: str = "date"  # of the folds
    n_folds: int = 5
    seed: int = 0
    max_fold_seconds: float = 1800.0  # a configuration whose estimate is above is refused with the estimate

    def __post_init__(self) -> None:
        if not self.families or not self.backbones:
            raise StudyError("a study needs at least one family and one backbone")
        if self.shares and (len(self.shares) != len(self.families) or min(self.shares) <= 0):
            raise StudyError(f"shares are above 0, one for each of {len(self.families)} families, got {self.shares}")
        if self.n_folds < 2:
            raise StudyError(f"a study needs at least 2 folds, got {self.n_folds}")


def open_study(
    ledger: Ledger,
    settings: StudySettings,
    *,
    quadrats: pd.DataFrame,
    data_fingerprint: str,
    fold_hash: str,
    weights: dict[str, str],
    made_with: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the study, or check that it is the same one and return its record.

    quadrats: one row an image with labels, metadata, fold and group; weights: fingerprint by backbone.
    made_with: what the command asked for (recipe and overrides); noted in a new study, and never compared.
    Raises StudyError naming every setting that would change results.
    """
    record: dict[str, Any] = {
        "settings": json.loads(json.dumps(asdict(settings))),
        "data_fingerprint": data_fingerprint,
        "fold_hash": fold_hash,
        "weights": weights,
    }
    existing = ledger.study()
    if existing is None:
        record["versions"] = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        record["code"] = code_version()
        record["created_at"] = time.time()
        record["made_with"] = dict(made_with or {})
        ledger.write_study(record, quadrats)
        return record
    asked = {**record["settings"], **{key: record[key] for key in ("data_fingerprint", "fold_hash", "weights")}}
    stored = {
        **{field.name: json.loads(json.dumps(field.default)) for field in fields(settings) if field.default != MISSING},
        **existing["settings"],  # a study that was made before a setting existed has its default
        **{key: existing[key] for key in ("data_fingerprint", "fold_hash", "weights")},
    }
    changed = [f"{key}: {stored.get(key)!r} -> {asked[key]!r}" for key in asked if stored.get(key) != asked[key]]
    if changed:
        raise StudyError(
            f"a study is resumed with the settings it was made with; {ledger.storage.uri} differs in "
            + "; ".join(changed)
            + ". Give the old settings, or start a new study in another folder"
        )
    return existing


def data_fingerprint(quadrats: pd.DataFrame, image_digest: str) -> str:
    """Of all that a study learns from: its table with groups, one row an image, and the photographs' contents."""
    return content_id(quadrats.drop(columns=["fold"]).to_csv(index=False), image_digest)


def trial_id(family: str, config: dict[str, Any], weights: str, seed: int, fold_hash: str) -> str:
    """The same configuration on the same folds is the same trial, whoever proposes it."""
    return content_id(family, config, weights, seed, fold_hash, length=10)
