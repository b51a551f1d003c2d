"""Randomness has an address: every seed is derived from where it is used."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def content_id(*parts: Any, length: int = 12) -> str:
    """Short hexadecimal hash of JSON-able parts; the same parts in any process give the same text."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def derive_seed(*parts: Any) -> int:
    """A seed in [0, 2^31) from an address such as (study seed, trial id, fold, purpose)."""
    return int(content_id("seed", *parts, length=8), 16) & 0x7FFFFFFF
