"""What Ray's errors wrap: the innermost cause in one line, and the node on which it happened. Ray-free."""

from __future__ import annotations

import re

LONGEST = 300  # characters
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
RAISED = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt|Warning|Failed|Timeout|NotFound)\b")
DETAIL = re.compile(r"Worker exit detail: (.*?)(?: Some common causes|\n|$)", re.DOTALL)
NODE_DIED = "because its node has died"
ADDRESS = re.compile(r"\bip(?:=|: )([0-9A-Fa-f.:]+)")


def innermost_cause(error: BaseException) -> str:
    """One line: `ModuleNotFoundError: No module named 'timm'` out of all that Ray puts around it."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception) and cause is not error:
        return innermost_cause(cause)
    text = COLOURS.sub("", str(error)).strip()
    if not _is_of_ray(error):
        return _line(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    if raised := _raised(text.splitlines()):
        return _line(raised)
    if NODE_DIED in text:
        return "its node has died"
    if detail := DETAIL.search(text):
        return _line(f"its process died: {detail[1].rstrip('. ')}")
    return _line(text or type(error).__name__)


def lost_broker(cause: str) -> str:
    """Why a search ends whose broker does not answer any more, and what to do."""
    return f"the broker of the folds is lost: {cause}; run the same command again to resume"


def where(error: BaseException) -> str | None:
    """Address of the node whose process raised it or died, if the error names one."""
    found = ADDRESS.search(COLOURS.sub("", str(error)))
    return found[1] if found else None


def _is_of_ray(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "ray"


def _raised(lines: list[str]) -> str | None:
    """The last exception of a printed traceback: what follows the indented lines of its frames."""
    for place in range(len(lines) - 1, 0, -1):
        if lines[place - 1].startswith("  ") and RAISED.match(lines[place]):
            return " ".join(lines[place:])
    return None


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
