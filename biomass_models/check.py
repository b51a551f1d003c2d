"""Everything that can be checked about a data directory before anything expensive starts (tables, paths, photographs)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from biomass_models import table
from biomass_models.images import ImageError, probe_image
from biomass_models.problems import ROW, DataError, Problem, errors_of

SMALLEST_SIDE = 64  # px; below that no grass blade is visible

_Finding = tuple[str, str, str]  # rule, got, remedy


def check_directory(data_dir: Path, *, on_progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Every problem of the directory, errors and warnings; an untouched copy of the competition's has no errors.

    on_progress: called with (photographs looked at, all of them) in the caller's thread.
    """
    root = Path(data_dir)
    train, problems = table.inspect_train(root)
    test, test_problems = table.inspect_test(root)
    problems = problems + test_problems
    photographs = pd.concat([_photographs(table.TRAIN_FILE, train), _photographs(table.TEST_FILE, test)])

    sizes: list[tuple[int, int] | None] = []
    with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter lock
        found = pool.map(lambda path: _look_at(root, path), photographs["image_path"])
        for row, result in zip(photographs.itertuples(), found, strict=True):
            if isinstance(result, Problem):
                pass
            sizes.append(result)
            if on_progress is not None:
                on_progress(len(sizes), len(photographs))
    return problems
