"""How a study is opened or made. What is fixed here never changes while it lives."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version

import pandas as pd

from orchestration.environment import code_version
from orchestration.ledger import Ledger
from orchestration.records import Asked, StudyRecord
from orchestration.seeds import content_id
from orchestration.settings import StudyError, StudySettings

PACKAGES = ("torch", "timm", "ray", "optuna", "numpy", "pandas", "pillow", "scikit-learn")


def open_study(
    ledger: Ledger,
    settings: StudySettings,
    *,
    quadrats: pd.DataFrame,
    data_fingerprint: str,
    fold_hash: str,
    weights: dict[str, str],
    made_with: Asked = Asked(),  # noqa: B008  a frozen record
) -> StudyRecord:
    """Make the study, or check that it is the same one and return its record.

    quadrats: one row an image with labels, metadata, fold and group; weights: fingerprint by backbone.
    made_with: what the command asked for; noted in a new study, and never compared.
    Raises StudyError naming every setting that would change results.
    """
    existing = ledger.find_study()
    if existing is None:
        record = StudyRecord(
            settings=settings,
            data_fingerprint=data_fingerprint,
            fold_hash=fold_hash,
            weights=weights,
            versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            code=code_version(),
            created_at=time.time(),
            made_with=made_with,
        )
        ledger.write_study(record, quadrats)
        return record
    facts = {"data_fingerprint": data_fingerprint, "fold_hash": fold_hash, "weights": weights}
    pairs = [(key, existing.settings.to_json().get(key), value) for key, value in settings.to_json().items()]
    pairs += [(key, existing.to_json()[key], value) for key, value in facts.items()]
    changed = [f"{key}: {stored!r} -> {asked!r}" for key, stored, asked in pairs if stored != asked]
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
