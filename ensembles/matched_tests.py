"""Predictions of the test images from anybody's files, matched to the members that they belong to by name.

N images, T = 5 targets; masses in grams. A member whose test predictions are missing or do not fit cannot be part of a
submission: it is named with the reason before anything is blended, not found missing afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from biomass_models.targets import TARGETS, TOTAL, FloatArray
from ensembles.library import LibraryError, aligned_rows

_UNLIKE = 30.0  # ratio of mean total masses, test to out-of-fold, beyond which the units must differ


@dataclass(frozen=True, kw_only=True)
class MatchedTests:
    """Predictions [N, 5] of the same N test images by member, and the members that have none of use, with reasons."""

    image_ids: tuple[str, ...]
    pred_NT: Mapping[str, FloatArray]
    left_out: tuple[tuple[str, str], ...]


def match_tests(
    oof: Mapping[str, pd.DataFrame],
    tests: Mapping[str, pd.DataFrame],
    unreadable: Sequence[tuple[str, str]],
    image_ids: Sequence[str] | None = None,
) -> MatchedTests:
    """Test predictions of the members in `oof`; both by name, columns image_id and TARGETS in grams.

    image_ids: the test set; without it, the images that most files predict, in the order of the first such file.
    Raises LibraryError when no test file belongs to any member.
    """
    reasons = dict(unreadable)
    if not set(oof) & (set(tests) | set(reasons)):
        raise LibraryError(
            f"test predictions are matched to members by what the wildcards stand for; none of "
            f"{', '.join(list(tests)[:3])} is one of {', '.join(list(oof)[:3])}; name the files alike"
        )
    ids = tuple(map(str, image_ids)) if image_ids is not None else _most_common_images(tests)
    pred_NT: dict[str, FloatArray] = {}
    left_out: list[tuple[str, str]] = []
    for name, frame in oof.items():
        found: FloatArray | str = reasons.get(name, "there is no file of its test predictions")
        if name in tests:
            found = _sound(tests[name], frame, ids)
        if isinstance(found, str):
            left_out.append((name, f"no use for a submission: {found}"))
        else:
            pred_NT[name] = found
    return MatchedTests(image_ids=ids, pred_NT=pred_NT, left_out=tuple(left_out))


def _sound(frame: pd.DataFrame, oof: pd.DataFrame, ids: tuple[str, ...]) -> FloatArray | str:
    found = aligned_rows(frame, pd.Index(ids), "test images")
    if isinstance(found, str):
        return found
    bad_N = ~np.isfinite(found).all(1)
    if bad_N.any():
        return f"{int(bad_N.sum())} of {len(found)} test images have NaN or infinite predictions"
    total = float(pd.to_numeric(oof[TARGETS[TOTAL]], errors="coerce").abs().mean())
    test_total = float(np.abs(found[:, TOTAL]).mean())
    if total > 0 and not 1 / _UNLIKE < test_total / total < _UNLIKE:
        return f"mean total mass is {test_total:.3g} on the test images, {total:.3g} out of fold; give both in grams"
    return found


def _most_common_images(tests: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    ids = [tuple(frame["image_id"].astype(str)) for frame in tests.values()]
    often = Counter(frozenset(each) for each in ids)
    if not often:
        raise LibraryError("no file of test predictions could be read; see --test-predictions")
    wanted = often.most_common(1)[0][0]
    return next(each for each in ids if frozenset(each) == wanted)
