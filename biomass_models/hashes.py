"""Hashes that name what is cached: of a description, and of the code that makes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def hash_of(description: Mapping[str, Any]) -> str:
    """16 hex digits of a JSON-able description; the order of its keys does not matter."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def source_hash(*modules: Any) -> str:
    """Hash of the source of modules whose code decides the numbers: a bank never outlives a change of them."""
    sources = [module.__loader__.get_source(module.__name__).encode() for module in modules]  # files, or a wheel
    return hashlib.blake2b(b"\0".join(sources), digest_size=8).hexdigest()
