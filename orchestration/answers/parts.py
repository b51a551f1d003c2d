"""A prediction's parts, one file a shard, beside the file that they become: what is done is done once, whoever dies.

<out>.parts/plan.json           what is predicted, with what
<out>.parts/<plan>-<first>-<last>.parquet

Spans are the same in every plan of as many photographs, so a part's name has a hash of its own plan: where files cannot
be locked (lock.py), parts of two predictions are not joined.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from biomass_models.whole_files import write_whole
from orchestration.study.seeds import content_id

PLAN = "plan.json"


class Parts:
    """Of one prediction. A folder of another plan is begun anew."""

    def __init__(self, out: Path, plan: Mapping[str, Any], spans: Sequence[tuple[int, int]]) -> None:
        self.folder = out.with_name(f"{out.name}.parts")
        self.spans = tuple(spans)
        text = json.dumps(plan, indent=1, sort_keys=True).encode()
        self._plan = content_id(text.decode())
        path = self.folder / PLAN
        if not path.is_file() or path.read_bytes() != text:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            write_whole(path, text)

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Spans without a part, in order."""
        return [span for span in self.spans if not self._path(span).is_file()]

    def write(self, span: tuple[int, int], table: pd.DataFrame) -> None:
        write_whole(self._path(span), part_bytes(table))

    def joined(self) -> pd.DataFrame:
        """All rows in order."""
        return pd.concat([pd.read_parquet(self._path(span)) for span in self.spans], ignore_index=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _path(self, span: tuple[int, int]) -> Path:
        return self.folder / f"{self._plan}-{span[0]}-{span[1]}.parquet"


def part_of(content: bytes) -> pd.DataFrame:
    """The table of part_bytes."""
    return pd.read_parquet(BytesIO(content))


def part_bytes(table: pd.DataFrame) -> bytes:
    """As parquet, without an index."""
    stream = BytesIO()
    table.to_parquet(stream, index=False)
    return stream.getvalue()
