"""Predictions of the test images from files of any origin, matched to the members that they belong to by name.

N images, T = 5 targets; masses in grams. A member whose test predictions are missing or do not fit cannot be part of a
submission: it is named with the reason before anything is blended, not found missing afterwards. There is no truth to
hold test predictions against. They are held against two things: the member's own out-of-fold rows, and what the other
members say of the same test images. Predictions of targets that were never measured are not looked at: they are NaN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from biomass_models.targets import TARGETS, FloatArray, identity_gap, weight_T
from ensembles.measured import SHORT, measured_targets
from ensembles.members.checks import column_order, constant_reason, heaviest_target
from ensembles.members.image_ids import matched_ids, plain_id
from ensembles.members.library import LibraryError, aligned_rows
from ensembles.members.spaces import size, spaces, unit_text

# By how much a member's size may move from out-of-fold to test rows, against how the members' sizes move on the whole.
_ALONE, _FEW, _MANY = 4.0, 2.5, 1.8  # one member; two, or few test images; at least three members and ten images
_ODD = 1.4  # a remark, not left out
_TARGET, _SMALL_G = 3.0, 1.0  # the same for one target, and the size below which a target is not compared
_ENOUGH = 10  # test images from which shapes are compared
_SPREAD = 4.0  # by how much the spread may move
_ALIKE = 1.15  # distances within 15 % are alike: the more usual space is named
_GAP = 0.1  # of the total by which the identities may be missed where out-of-fold rows hold them


@dataclass(frozen=True, kw_only=True)
class MatchedTests:
    """Predictions [N, 5] of the same N test images by member, and the members that have none of use, with reasons."""

    image_ids: tuple[str, ...]
    pred_NT: Mapping[str, FloatArray]
    left_out: tuple[tuple[str, str], ...]
    remarks: tuple[tuple[str, str], ...] = ()


def match_tests(
    oof: Mapping[str, pd.DataFrame],
    tests: Mapping[str, pd.DataFrame],
    unreadable: Sequence[tuple[str, str]],
    image_ids: Sequence[str] | None = None,
    *,
    parts: Mapping[str, Sequence[str]] | None = None,
    norm_T: FloatArray = weight_T,
) -> MatchedTests:
    """Test predictions of the members in `oof`; both by name, columns image_id and TARGETS in grams.

    image_ids: the test set; without it, the images that most files predict, in the order of the first such file.
    parts: names of the files, one a fold, that a member was joined from: their test predictions are averaged.
    norm_T: weights of the targets, 0 for one that was never measured (targets.norm_of).
    Raises LibraryError when no test file belongs to any member.
    """
    reasons, parts = dict(unreadable), parts or {}
    known = {*oof, *(part for name in oof for part in parts.get(name, ()))}
    if not known & (set(tests) | set(reasons)):
        raise LibraryError(
            f"test predictions are matched to members by what the wildcards stand for; none of "
            f"{', '.join(list(tests)[:3])} is one of {', '.join(list(oof)[:3])}; name the files alike"
        )
    ids = tuple(map(str, image_ids)) if image_ids is not None else _most_common_images(tests)
    trained_on = pd.Index(next(iter(oof.values()))["image_id"].astype(str)) if oof else pd.Index([])
    measured = measured_targets(norm_T)
    pred_NT: dict[str, FloatArray] = {}
    left_out: dict[str, str] = {}
    for name in oof:
        found = _predictions(name, tests, reasons, ids, parts.get(name, ()), trained_on, measured)
        if isinstance(found, str):
            left_out[name] = found
        else:
            pred_NT[name] = found
    own = {name: aligned_rows(oof[name], trained_on, "", measured) for name in pred_NT}
    oof_NT = {name: found for name, found in own.items() if not isinstance(found, str)}
    leave, remarks = unlike_own_or_others({name: pred_NT[name] for name in oof_NT}, oof_NT, ids, norm_T)
    left_out |= leave
    return MatchedTests(
        image_ids=ids,
        pred_NT={name: pred for name, pred in pred_NT.items() if name not in leave},
        left_out=tuple((name, f"no use for a submission: {left_out[name]}") for name in oof if name in left_out),
        remarks=tuple(remarks.items()),
    )


def unlike_own_or_others(
    test_NT: Mapping[str, FloatArray],
    oof_NT: Mapping[str, FloatArray],
    ids: Sequence[str],
    norm_T: FloatArray = weight_T,
) -> tuple[dict[str, str], dict[str, str]]:
    """Members whose test predictions must be left out, and those worth a remark, with reasons.

    test_NT: [N, 5] grams by member, rows as `ids`; oof_NT: the same members' out-of-fold rows, all in one order.
    """
    out: dict[str, str] = {}
    remarks: dict[str, str] = {}
    for _ in range(2):  # what is left out in the first round no longer counts among the others in the second
        names = [name for name in test_NT if name not in out]
        for name in [*names, *list(out)]:
            others = [other for other in names if other != name]
            reason, odd = _compared(name, others, test_NT, oof_NT, ids, norm_T)
            if reason is not None:
                out[name] = reason
            else:
                out.pop(name, None)
            remarks.pop(name, None)
            if odd is not None and reason is None:
                remarks[name] = odd
    return out, remarks


def _compared(
    name: str,
    others: Sequence[str],
    test_NT: Mapping[str, FloatArray],
    oof_NT: Mapping[str, FloatArray],
    ids: Sequence[str],
    norm_T: FloatArray,
) -> tuple[str | None, str | None]:
    """Why one member's test predictions are of no use, and what is odd about them."""
    test, own = test_NT[name], oof_NT[name]
    if constant := constant_reason(test, norm_T):
        return constant, None
    shifts = [_ratio(size(test_NT[other], norm_T), size(oof_NT[other], norm_T)) for other in others]
    usual = _usual(shifts)  # how the members' size moves from the labelled to the test images
    moved = _ratio(size(test, norm_T), size(own, norm_T)) - usual
    enough = len(test) >= _ENOUGH
    limit = np.log(_ALONE if not others else _FEW if len(others) < 2 or not enough else _MANY)
    consensus = _consensus(others, test_NT)
    if abs(moved) > limit:
        return _scale_text(test, own, consensus, np.exp(moved), float(np.exp(usual)), norm_T), None
    gap, own_gap = (_relative_gap(each, norm_T) for each in (test, own))
    if consensus is None:
        if gap > _GAP and own_gap < 0.2 * gap:
            return _gap_text(gap), None
        return None, _odd(moved)
    if one := _one_target(name, others, test_NT, oof_NT):
        return one, None
    if enough:
        if order := column_order(test, consensus):
            return order.replace("the truth", "the other members"), None
        if shape := _other_shape(test, own, consensus, _consensus(others, oof_NT), ids, heaviest_target(norm_T)):
            return shape, None
    if gap > _GAP and own_gap < 0.2 * gap:
        return _gap_text(gap), None
    return None, _odd(moved)


def _relative_gap(pred_NT: FloatArray, norm_T: FloatArray) -> float:
    """Typical gap in the identities by the size of the masses; 0 where they cannot be held against all five."""
    if not (norm_T > 0).all():
        return 0.0
    return float(np.median(identity_gap(pred_NT)) / max(size(pred_NT, norm_T), 1e-9))


def _consensus(others: Sequence[str], pred_NT: Mapping[str, FloatArray]) -> FloatArray | None:
    """Median of the other members' predictions; None for fewer than two, of which neither would be the odd one."""
    return np.median([pred_NT[other] for other in others], axis=0) if len(others) >= 2 else None


def _usual(shifts: Sequence[float]) -> float:
    """Median of the others' shifts; with fewer than four of them a shift of 0 is counted as well."""
    return float(np.median([*shifts, 0.0] if len(shifts) < 4 else shifts))


def _ratio(test_size: float, own_size: float) -> float:
    return float(np.log(max(test_size, 1e-6) / max(own_size, 1e-6)))


def _scale_text(
    test: FloatArray, own: FloatArray, consensus: FloatArray | None, factor: float, usual: float, norm_T: FloatArray
) -> str:
    """Test predictions of another size, with the space or unit that would explain it."""
    found = {}
    for space in spaces(own):
        with np.errstate(over="ignore", invalid="ignore"):
            grams = space.grams(test)
        found[f"looks like {space.name}: {space.remedy}"] = _distance(grams, own, consensus, usual, norm_T)
    text = unit_text(factor).replace("the truth", "what is expected")
    found[text] = _distance(test / factor, own, consensus, usual, norm_T)
    near = min(found.values()) * _ALIKE
    best = next(text for text, distance in found.items() if distance <= near)
    column = heaviest_target(norm_T)
    mean, own_mean = test[:, column].mean(), own[:, column].mean()
    means = f"mean {SHORT[TARGETS[column]]} {mean:.3g} g on the test images, {own_mean:.3g} g out of fold"
    beside = "" if consensus is None else f", {consensus[:, column].mean():.3g} g by the other members"
    hint = best if found[best] < 0.6 else "give both in grams"
    return f"{means}{beside}; {hint}"


def _distance(
    grams: FloatArray, own: FloatArray, consensus: FloatArray | None, usual: float, norm_T: FloatArray
) -> float:
    """Relative distance from the other members, or from the own out-of-fold rows as a distribution."""
    if not np.isfinite(grams[:, norm_T > 0]).all():
        return np.inf
    if consensus is not None:
        return size(grams - consensus, norm_T) / max(size(consensus, norm_T), 1e-9)
    at = np.linspace(0.1, 0.9, 9)
    expected = np.quantile(own, at, axis=0) * usual
    return size(np.quantile(grams, at, axis=0) - expected, norm_T) / max(size(expected, norm_T), 1e-9)


def _one_target(
    name: str, others: Sequence[str], test_NT: Mapping[str, FloatArray], oof_NT: Mapping[str, FloatArray]
) -> str | None:
    """A single target whose size moved where the other members' did not."""
    for target, column in enumerate(TARGETS):
        if np.isnan(test_NT[name][:, target]).any():  # never measured
            continue

        def moved(member: str, target: int = target) -> float:
            test, own = (np.sqrt((each[member][:, target] ** 2).mean()) for each in (test_NT, oof_NT))
            return _ratio(float(test), float(own))

        theirs = np.sqrt(np.median([(test_NT[other][:, target] ** 2).mean() for other in others]))
        own_size = np.sqrt((oof_NT[name][:, target] ** 2).mean())
        if theirs < _SMALL_G or own_size < _SMALL_G:
            continue
        change = moved(name) - _usual([moved(other) for other in others])
        if abs(change) > np.log(_TARGET):
            text = unit_text(float(np.exp(change))).replace("the truth", "what the other members say")
            return f"{column} is {text}; is it in another unit, or another column?"
    return None


def _other_shape(
    test: FloatArray,
    own: FloatArray,
    consensus: FloatArray,
    consensus_oof: FloatArray | None,
    ids: Sequence[str],
    column: int,
) -> str | None:
    """Rows in another order, or hardly any spread, by the other members' masses of one target."""
    assert consensus_oof is not None
    mass, theirs = test[:, column], consensus[:, column]
    what = SHORT[TARGETS[column]]
    then, now = _correlation(own[:, column], consensus_oof[:, column]), _correlation(mass, theirs)
    # Fisher's z of a correlation has the standard error 1 / sqrt(N - 3)
    if np.arctanh(then) - np.arctanh(now) > 3 / np.sqrt(len(mass) - 3) and now < 0.3:
        order_N = np.argsort(np.asarray(ids, dtype=np.str_), kind="stable")
        undone = np.empty_like(mass)
        undone[order_N] = mass
        orders = {"reversed rows": mass[::-1], "sorted image ids": undone, "unsorted image ids": mass[order_N]}
        hint = next(
            (f", in the order of {name}" for name, row in orders.items() if _correlation(row, theirs) > 0.7), ""
        )
        return (
            f"rows look permuted{hint}: {what} masses correlate {now:.2f} with the other members', "
            f"{then:.2f} out of fold; write the ids that were predicted"
        )
    spread = np.log(max(mass.std(), 1e-9) / max(theirs.std(), 1e-9))
    spread -= np.log(max(own[:, column].std(), 1e-9) / max(consensus_oof[:, column].std(), 1e-9))
    if abs(spread) > np.log(_SPREAD):
        return (
            f"{what} masses spread {np.exp(spread):.2g} times as much as the other members'; are they all predictions?"
        )
    return None


def _gap_text(gap: float) -> str:
    return (
        f"masses miss the identities by {gap:.0%} of their size, out of fold they hold them; "
        "is a column in another unit or place?"
    )


def _odd(moved: float) -> str | None:
    if abs(moved) < np.log(_ODD):
        return None
    return f"test predictions are {np.exp(moved):.2g} times as large as its out-of-fold rows let expect; check the unit"


def _correlation(left_N: FloatArray, right_N: FloatArray) -> float:
    if min(left_N.std(), right_N.std()) < 1e-9:
        return 0.0
    return float(np.clip(np.corrcoef(left_N, right_N)[0, 1], -0.999, 0.999))


def _predictions(
    name: str,
    tests: Mapping[str, pd.DataFrame],
    reasons: Mapping[str, str],
    ids: tuple[str, ...],
    parts: Sequence[str],
    trained_on: pd.Index,
    measured: Sequence[str],
) -> FloatArray | str:
    """One member's finite predictions of the test images, or the reason why there are none."""
    if name not in tests and parts:
        if missing := [part for part in parts if part not in tests]:
            return f"there is no file of the test predictions of its {', '.join(missing[:3])}"
        found = [_predictions(part, tests, reasons, ids, (), trained_on, measured) for part in parts]
        wrong = next((each for each in found if isinstance(each, str)), None)
        return wrong if wrong is not None else np.mean([each for each in found if not isinstance(each, str)], axis=0)
    if name not in tests:
        return reasons.get(name, "there is no file of its test predictions")
    rows = aligned_rows(tests[name], pd.Index(ids), "test images", measured)
    if isinstance(rows, str):
        own = matched_ids(pd.Index(tests[name]["image_id"].astype(str)), trained_on)
        return f"{rows}; it holds the labelled images" if own.isin(trained_on).any() else rows
    bad_N = ~np.isfinite(rows[:, [TARGETS.index(name) for name in measured]]).all(1)
    if bad_N.any():
        return f"{int(bad_N.sum())} of {len(rows)} test images have NaN or infinite predictions"
    return rows


def _most_common_images(tests: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    ids = [tuple(map(plain_id, frame["image_id"].astype(str))) for frame in tests.values()]
    often = Counter(frozenset(each) for each in ids)
    if not often:
        raise LibraryError("no file of test predictions could be read; see --test-predictions")
    wanted = often.most_common(1)[0][0]
    return next(each for each in ids if frozenset(each) == wanted)
