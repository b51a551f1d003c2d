"""Which images are held out together: drawn once per study, written down, used by every trial.

N images, K folds, G groups (a sampling date in a state, or what dataset.toml names), S strata (clover present or not,
times dead matter present or not; not measured is a third case of each). The draw depends on the set of images, the
scheme and the seed, never on the order of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from biomass_models.config_rules import known_name
from biomass_models.counted import counted
from biomass_models.data.problems import errors_of, read_cells
from biomass_models.errors import UserError
from biomass_models.fold_rows import ALWAYS, EXAM, EXAM_WORD, TIME, folds_in, is_ordered, training_rows
from biomass_models.fold_units import KEPT_WHOLE, QUADRAT, dates_of, is_grouped
from biomass_models.targets import LEAST_MEASURED, TARGETS, IntArray

SCHEMES: tuple[str, ...] = ("date", "random", "state", "species", TIME, "file")

LEAST_EXAM_DATES = 2
LEAST_FIRST_DATES = 2  # of a first block: models choose settings by parting their training rows by date
_DRAWS = 32  # random orders of the groups tried for `date`; the most even outcome is kept


class FoldError(UserError):
    """Folds that cannot be drawn or read: too few groups, or a file that does not fit the images."""


def assign_folds(
    quadrats: pd.DataFrame,
    *,
    scheme: str = "date",
    n_folds: int = 5,
    seed: int = 0,
    file: Path | None = None,
    exam: float = 0.0,
    known: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Validation fold of each image: columns image_id, fold (0..K-1), group (groups_of), in quadrats' order.

    quadrats: the wide table of read_train. Schemes: `date` keeps a group on one side and spreads clover and dead matter
    evenly (where nothing is grouped it is `random`); `random` and `species` split by image, stratified; `state` leaves
    one state out, whatever n_folds says; `time` cuts the dates into n_folds blocks in order, of which the first is only
    trained on (fold ALWAYS) and the others are the folds 0..K-2, each to be predicted from what lies before it; `file`
    reads `image_id,fold`. None parts the photographs of a quadrat. exam: share of the images that is in no fold (EXAM):
    whole groups that are drawn first, under `time` the last dates; a file says that itself. known: image_id and group
    of images that an earlier search has learned from: no exam holds their groups. Raises FoldError, also where a fold
    leaves a target too few measured rows to learn from.
    """
    known_name("a fold scheme", scheme, SCHEMES, FoldError)
    if (scheme == "file") != (file is not None):
        raise FoldError(f"a fold file goes with the scheme `file` and with no other, got {scheme!r} and {file}")
    if n_folds < 2:
        raise FoldError(f"at least 2 folds are needed, got {n_folds}")
    if quadrats["image_id"].duplicated().any():
        raise FoldError("folds need one row an image, got repeated image ids; use the table of read_train")
    group = groups_of(quadrats)
    table = quadrats.assign(group=group).sort_values("image_id")

    if file is not None:
        if exam:
            raise FoldError(f"a fold file names the images of an exam itself, by {EXAM_WORD}; leave --exam out")
        fold = _read_fold_file(file, table["image_id"])
        _require_whole_exam(table["group"], fold == EXAM)
        _require_whole_quadrats(table, fold)
        if both := sorted(set(table["group"][fold == EXAM]) & _known_groups(table, known)):
            raise FoldError(
                f"an exam holds sampling dates that no search has learned from, {_some(pd.Series(both))} are known to "
                f"the study that this one follows; give their images a fold from 0, or follow none"
            )
    else:
        fold = np.full(len(table), EXAM, dtype=np.int64)
        learned = ~_exam_rows(table, exam, seed, _known_groups(table, known), last=is_ordered(scheme))
        fold[learned] = _draw(table[learned], scheme, n_folds, seed)
        if is_ordered(scheme):
            _require_whole_quadrats(table, fold)
    _require_measured(table, fold, ordered=is_ordered(scheme))
    column = pd.Series(fold, index=table.index).loc[quadrats.index].to_numpy(dtype=np.int64)
    return pd.DataFrame({"image_id": quadrats["image_id"].to_numpy(), "fold": column, "group": group.to_numpy()})


def groups_of(quadrats: pd.DataFrame) -> pd.Series:
    """What folds keep whole, a text for each image: KEPT_WHOLE where it is there, else "State|date", or the date."""
    if KEPT_WHOLE in quadrats:
        return quadrats[KEPT_WHOLE].astype("str")
    _require_column(quadrats, "Sampling_Date", "groups by date")
    date = dates_of(quadrats)
    return quadrats["State"].astype("str") + "|" + date if "State" in quadrats else date


def _require_column(quadrats: pd.DataFrame, column: str, what: str) -> None:
    if column not in quadrats:
        raise FoldError(f"{what} need the column {column}, which these data do not have; choose another --scheme")


def _draw(table: pd.DataFrame, scheme: str, n_folds: int, seed: int) -> IntArray:
    if scheme == "date" and not is_grouped(table):
        scheme = "random"
    if scheme == "species":
        _require_column(table, "Species", "folds by species")
    if scheme == "state":
        _require_column(table, "State", "folds by state")
        fold, states = pd.factorize(table["State"], sort=True)
        _require_enough("states", len(states), 2)
        return np.asarray(fold, dtype=np.int64)
    if scheme == TIME:
        return _by_time(table, n_folds)
    if QUADRAT not in table:
        return _DRAW_OF[scheme](table, n_folds, np.random.default_rng(seed))
    # photographs of a quadrat are one row of what is dealt
    firsts = table.drop_duplicates(QUADRAT)
    fold_of = pd.Series(_DRAW_OF[scheme](firsts, n_folds, np.random.default_rng(seed)), index=firsts[QUADRAT])
    return fold_of.loc[table[QUADRAT]].to_numpy(dtype=np.int64)


def _require_whole_quadrats(table: pd.DataFrame, fold: IntArray) -> None:
    if QUADRAT not in table:
        return
    folds_Q = table.assign(fold=fold).groupby(QUADRAT)["fold"].nunique()
    if len(cut := folds_Q[folds_Q > 1]):
        raise FoldError(
            f"photographs of a quadrat lie in one fold, those of {_some(cut.index.to_series())} lie in several; give "
            "them one"
        )


def _require_measured(table: pd.DataFrame, fold: IntArray, *, ordered: bool) -> None:
    """Raise FoldError where a target is measured in no row that is scored, or the training rows of a fold have too few
    measured cells. A target that was measured in every row has as many as there are rows, which only the first of
    ordered folds may lack."""
    remedy = f"measure more, {'cut fewer blocks (--folds), ' * ordered}or leave its column out of dataset.toml"
    for target in (name for name in TARGETS if name in table):
        measured = table[target].notna().to_numpy()
        if not measured.any() or (measured.all() and not ordered):
            continue
        if not measured[fold >= 0].any():
            raise FoldError(f"what is learned is scored, {target} is measured only in images that are not; {remedy}")
        rows = {k: int(measured[training_rows(fold, k, ordered=ordered)].sum()) for k in folds_in(fold)}
        least = min(rows, key=lambda k: rows[k])
        if rows[least] < LEAST_MEASURED:
            where = f"before fold {least}" if ordered else f"without fold {least}"
            raise FoldError(
                f"{target} is learned from {LEAST_MEASURED} measured photographs or more, {where} there "
                f"are {rows[least]}; {remedy}"
            )


def _known_groups(table: pd.DataFrame, known: pd.DataFrame | None) -> set[str]:
    """Groups of the table that an earlier search has met: by name, or by one of their images."""
    if known is None:
        return set()
    met = table["image_id"].isin(known["image_id"]) | table["group"].isin(known["group"])
    return set(table.loc[met, "group"])


def _exam_rows(table: pd.DataFrame, share: float, seed: int, known: set[str], *, last: bool) -> NDArray[np.bool_]:
    """Which rows an exam takes: whole groups in a drawn order (last: whole dates, the last ones), until adding another
    is farther from the share. known: groups that it does not take."""
    taken = np.zeros(len(table), dtype=bool)
    if share == 0.0:
        return taken
    if not 0.0 < share <= 0.5:
        raise FoldError(f"an exam takes a share of the images, above 0 and at most 0.5, got {share:g}")
    if last:
        _require_dates(table)
    unit = dates_of(table) if last else table["group"]
    known = set(unit[table["group"].isin(known)])
    names = sorted(unit.unique())
    dates = 0
    for name in reversed(names) if last else np.random.default_rng([seed, 1]).permutation(names):
        if name in known:
            continue
        own = (unit == name).to_numpy()
        grown, wanted = int(taken.sum() + own.sum()), share * len(table)
        if dates >= LEAST_EXAM_DATES and abs(grown - wanted) >= abs(taken.sum() - wanted):
            break
        taken |= own
        dates += 1
    if dates < LEAST_EXAM_DATES and known:
        raise FoldError(
            f"an exam needs {LEAST_EXAM_DATES} sampling dates that no search has learned from, got "
            f"{len(set(names) - known)} that the study does not know that this one follows; leave --exam or --from out"
        )
    if taken.all() or dates < LEAST_EXAM_DATES:
        raise FoldError(
            f"an exam needs {LEAST_EXAM_DATES} sampling dates, and others to learn from, got {len(names)} in all; "
            "leave --exam out"
        )
    return taken


def _require_whole_exam(group: pd.Series, kept: NDArray[np.bool_]) -> None:
    """Raise FoldError where a date lies on both sides of an exam, or the exam has too few of them."""
    names = set(group[kept])
    if both := sorted(names & set(group[~kept])):
        raise FoldError(
            f"an exam holds whole sampling dates, {_some(pd.Series(both))} also lies in folds; give all of its images "
            f"{EXAM_WORD} for a fold, or none"
        )
    if names and len(names) < LEAST_EXAM_DATES:
        raise FoldError(f"an exam holds {LEAST_EXAM_DATES} sampling dates or more, got {len(names)}")


def fold_hash(folds: pd.DataFrame, *, ordered: bool = False) -> str:
    """12 hex digits of which image is in which fold, whatever the order of the rows, and of whether folds are in order
    of time; an exam's images are in none."""
    pairs = zip(folds["image_id"], folds["fold"].astype(int), strict=True)
    lines = sorted(f"{image_id}\t{fold}\n" for image_id, fold in pairs if fold != EXAM)
    lines += ["ordered\n"] * ordered
    return hashlib.blake2b("".join(lines).encode(), digest_size=6).hexdigest()


def _strata(table: pd.DataFrame) -> IntArray:
    """[N] stratum 0..3: clover present, dead matter present; 4..8 where one of them was not measured."""
    present = [np.asarray(table[name] > 0, dtype=np.int64) for name in ("Dry_Clover_g", "Dry_Dead_g")]
    unknown = [np.asarray(table[name].isna()) for name in ("Dry_Clover_g", "Dry_Dead_g")]
    (clover, dead), (no_clover, no_dead) = present, unknown
    stratum = np.where(no_clover, 4 + dead, 2 * clover + dead)
    return np.where(no_dead, np.where(no_clover, 8, 6 + clover), stratum)


def _by_date(table: pd.DataFrame, n_folds: int, rng: np.random.Generator) -> IntArray:
    """Whole groups to folds, greedily and from several random orders; the draw with the lowest unevenness is kept.

    scikit-learn's StratifiedGroupKFold is nearly as even (folds of 62-78 of the field's 357 images, here 63-78), but
    its seed moves it little (three of four seeds gave the same folds), and it may leave a fold empty.
    """
    group: IntArray
    group, names = pd.factorize(table["group"], sort=True)
    what = "sampling dates (State, Sampling_Date)" if KEPT_WHOLE not in table else "groups"
    _require_enough(what, len(names), n_folds)
    # the last column counts all images, so that sizes weigh as much as strata
    stratum = _strata(table)
    strata = max(4, int(stratum.max()) + 1)
    count_GS = np.zeros((len(names), strata + 1))
    np.add.at(count_GS, (group, stratum), 1)
    count_GS[:, -1] = count_GS[:, :-1].sum(1)
    draws = [_greedy_groups(count_GS, n_folds, rng) for _ in range(_DRAWS)]
    _, best = min(draws, key=lambda draw: draw[0])
    return np.asarray(best[group], dtype=np.int64)


def _greedy_groups(count_GS: NDArray[np.float64], n_folds: int, rng: np.random.Generator) -> tuple[float, IntArray]:
    """One greedy draw: (unevenness, fold of each group [G]).

    Unevenness is the chi-square distance sum_ks (n_ks - n_s / K)^2 / (n_s / K) from folds that are all alike.
    """
    share_S = np.maximum(count_GS.sum(0) / n_folds, 1e-9)
    size_G = count_GS[:, -1]
    # large groups first, since small ones can still fill gaps; the jitter makes the orders differ
    order = np.argsort(-size_G * rng.uniform(0.5, 1.5, len(size_G)), kind="stable")
    label_K = rng.permutation(n_folds)
    filled_KS = np.zeros((n_folds, count_GS.shape[1]))
    fold_G = np.zeros(len(size_G), dtype=np.int64)
    for g in order:
        after_KS = filled_KS + count_GS[g]
        change_K = ((after_KS**2 - filled_KS**2) / share_S).sum(1)
        k = int(np.argmin(change_K))  # an empty fold is always cheapest, so none stays empty
        filled_KS[k] = after_KS[k]
        fold_G[g] = label_K[k]
    return float((((filled_KS - share_S) ** 2) / share_S).sum()), fold_G


def _require_dates(table: pd.DataFrame) -> None:
    _require_column(table, "Sampling_Date", "folds by time")
    if lacking := int(table["Sampling_Date"].isna().sum()):
        raise FoldError(
            f"folds by time need the date of every photograph, {counted(lacking, 'has', 'have')} none; fill it in, or "
            "choose another --scheme"
        )


def _by_time(table: pd.DataFrame, n_blocks: int) -> IntArray:
    """Blocks of whole dates in order: ALWAYS for the first, then 0, 1, ..."""
    _require_dates(table)
    day, names = pd.factorize(dates_of(table), sort=True)
    if len(names) < n_blocks - 1 + LEAST_FIRST_DATES:
        raise FoldError(
            f"{n_blocks} blocks of time need {counted(n_blocks - 1 + LEAST_FIRST_DATES, 'sampling date')}, "
            f"{LEAST_FIRST_DATES} of them in the first, got {len(names)}; ask for fewer (--folds), or choose another "
            "--scheme"
        )
    ends = _even_cuts(np.bincount(day), n_blocks)
    return np.searchsorted(ends, day, side="right").astype(np.int64) + ALWAYS


def _even_cuts(size_D: IntArray, blocks: int) -> IntArray:
    """Where each of so many runs of dates ends (last + 1): those with the least sum of squared sizes, so about equal;
    the first has LEAST_FIRST_DATES or more, the others one."""
    before_E = np.concatenate([[0.0], np.cumsum(size_D, dtype=np.float64)])
    # cost_E: of the best blocks so far that end before date E
    cost_E = np.where(np.arange(len(before_E)) >= LEAST_FIRST_DATES, before_E**2, np.inf)
    begins_BE = []
    for _ in range(blocks - 1):
        # [begin, end]: of one more block between the two
        block_EE = (before_E[None, :] - before_E[:, None]) ** 2
        total_EE = np.where(np.triu(np.ones_like(block_EE, dtype=bool), 1), cost_E[:, None] + block_EE, np.inf)
        begins_BE.append(total_EE.argmin(0))
        cost_E = total_EE.min(0)
    ends = [len(size_D)]
    for begin_E in reversed(begins_BE):
        ends.append(int(begin_E[ends[-1]]))
    return np.array(ends[::-1], dtype=np.int64)


def _by_image(table: pd.DataFrame, n_folds: int, rng: np.random.Generator) -> IntArray:
    return _dealt(_strata(table), n_folds, rng)


def _by_species(table: pd.DataFrame, n_folds: int, rng: np.random.Generator) -> IntArray:
    """By image, each species spread over all folds; species with fewer images than folds form one stratum."""
    images_N = table["Species"].map(table["Species"].value_counts())
    return _dealt(pd.factorize(table["Species"].where(images_N >= n_folds, ""), sort=True)[0], n_folds, rng)


def _dealt(stratum_N: IntArray, n_folds: int, rng: np.random.Generator) -> IntArray:
    """Images shuffled, sorted by stratum and dealt like cards: folds differ by at most 1 image, of a stratum too."""
    _require_enough("images", len(stratum_N), n_folds)
    order = rng.permutation(len(stratum_N))
    order = order[np.argsort(stratum_N[order], kind="stable")]
    fold_N = np.empty(len(stratum_N), dtype=np.int64)
    fold_N[order] = rng.permutation(n_folds)[np.arange(len(order)) % n_folds]
    return fold_N


_DRAW_OF: dict[str, Callable[[pd.DataFrame, int, np.random.Generator], IntArray]] = {
    "date": _by_date,
    "random": _by_image,
    "species": _by_species,
}


def _require_enough(what: str, got: int, needed: int) -> None:
    if got < needed:
        raise FoldError(
            f"each fold holds out some {what} of its own: {needed} are needed, got {got}; "
            "ask for fewer folds, choose another scheme, or bring more data"
        )


def _read_fold_file(path: Path, image_id: pd.Series) -> IntArray:
    """Folds of the images, in the order of image_id, from a CSV `image_id,fold`."""
    cells, problems = read_cells(Path(path), ("image_id", "fold"))
    faults = [str(problem) for problem in errors_of(problems)]
    if not faults:
        listed = cells["image_id"]
        given = cells["fold"].str.lower().replace(EXAM_WORD, str(EXAM))
        known = given.str.fullmatch(rf"{ALWAYS}|\d{{1,6}}") | (cells["fold"].str.lower() == EXAM_WORD)
        number = pd.to_numeric(given.where(known, "0")).astype(np.int64)
        present, always = folds_in(number[known]), bool((number[known] == ALWAYS).any())
        wrong = {
            f"fold is a whole number from 0, {ALWAYS} for an image that is only trained on, or {EXAM_WORD}": cells[
                "fold"
            ][~known],
            "an image has one fold": listed[listed.duplicated()],
            "every image of the table has a fold": image_id[~image_id.isin(listed)],
            "every image is in the table": listed[~listed.isin(image_id)],
        }
        faults = [f"{rule}, got {_some(values)}" for rule, values in wrong.items() if len(values)]
        if present != list(range(len(present))) or len(present) < (1 if always else 2):
            faults.append(
                f"folds are numbered 0, 1, ... without gaps, at least two, or one beside images of fold {ALWAYS}; got "
                f"{present[:20]}{f' and {ALWAYS}' * always}"
            )
    if faults:
        raise FoldError(f"{Path(path).name} does not give folds; mend it:\n" + "\n".join(faults))
    return np.asarray(number.set_axis(listed).loc[image_id], dtype=np.int64)


def _some(values: pd.Series) -> str:
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return ", ".join(map(repr, values[:5])) + more
