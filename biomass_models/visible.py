"""Text of studies and data directories as it may be shown: nothing in it can steer a terminal or reorder a line."""

from __future__ import annotations

import re

# C0 and C1 controls but tab and line feed, line and paragraph separators, marks and overrides of the writing
# direction, the byte order mark, tag characters, halves of surrogate pairs
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""The text with each control character and direction override as its escape, such as \x1b or \u202e."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
