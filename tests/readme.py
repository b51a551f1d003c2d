"""The command lines of README and docs, for the tests that run them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def commands(heading: str | None = None, page: Path = README) -> list[list[str]]:
    """Words of every line in a page's bash blocks, or in those under one heading."""
    text = page.read_text()
    if heading is not None:
        text = re.split(r"\n#{2,3} ", text.split(f"\n## {heading}\n")[1])[0]
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line) for line in lines]
