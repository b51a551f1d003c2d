"""Whether a folder can be the feature cache: said before anything is computed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from biomass_models.feature_store import CacheError


def require_usable(root: Path) -> None:
    """Make the folder, and a file in it that goes again at once; CacheError says what is in the way."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as probe:
            probe.write(b"here")
    except OSError as error:
        raise CacheError(
            f"the feature cache must be a folder that can be written, got {root}: "
            f"{os.strerror(error.errno).lower() if error.errno else error}; give --cache (or BIOMASS_CACHE) a folder "
            "on a disk of this machine that has room"
        ) from error
