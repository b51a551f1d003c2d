"""The rules that the long tables must keep: one function a rule, each returns every problem it finds.

`long` is a frame of text from problems.read_cells with image_id and id_target (the halves of sample_id) added;
`parsed` is the same frame with numbers and dates in place of their text. A rule whose columns are missing finds
nothing: the missing columns have been reported already.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from biomass_models.data.problems import ROW, Problem, flag, shown
from biomass_models.data.taxonomy import unknown_names
from biomass_models.targets import TARGETS, identity_gap

IDENTITY_TOLERANCE_G = 1e-2  # grams; labels are rounded to four decimals
USUAL_MEAN_G = (2.0, 400.0)  # Dry_Total_g of a quadrat on average; the competition's is 45, its largest 186
_IN_GRAMS = {  # grams per quadrat of 0.21 m2 by the unit that a table may be in
    "kg/ha": 0.021,
    "g/m2": 0.21,
    "t/ha": 21.0,
    "milligrams": 0.001,
    "kilograms": 1000.0,
}

_FEWEST = 3  # images from which their masses are said to be unlike grams
_TARGET_NAMES = ", ".join(TARGETS)
_UNSAFE_ID = r'^[.\-]|[/\\:*?"<>|\x00-\x1f\x7f]|^.{201,}$'  # an id names files: no separators, nothing hidden
_PATH_ID = r"/.*\.\w{3,4}$"
_UNSAFE_PATH = r"^[/~]|\\|:|[\x00-\x1f\x7f]|(?:^|/)\.\.(?:/|$)"


def check_ids(file: str, long: pd.DataFrame) -> list[Problem]:
    if "sample_id" not in long:
        return []
    split = long["image_id"].notna()
    remedy = "write ids like ID1011485656__Dry_Green_g"
    problems = flag(file, long[~split], "sample_id", "sample_id is <image id>__<target_name>", remedy)
    known = long["id_target"].isin(TARGETS)
    problems += flag(file, long[split & ~known], "id_target", f"a target is one of {_TARGET_NAMES}", "mend sample_id")
    path = split & long["image_id"].str.contains(_PATH_ID, regex=True, na=False)
    remedy = "drop folder and suffix in sample_id: train/ID1.jpg -> ID1"
    problems += flag(file, long[path], "image_id", "an image id is a name, not a path", remedy)
    unsafe = split & ~path & long["image_id"].str.contains(_UNSAFE_ID, regex=True, na=False)
    rule = 'an image id can be a file name (no / \\ : * ? " < > |, no leading . or -, at most 200 characters)'
    problems += flag(file, long[unsafe], "image_id", rule, "rename the image")
    if "target_name" in long:
        differs = split & (long["target_name"] != long["id_target"])
        rule = "target_name repeats the target in sample_id"
        got = long["target_name"].map(shown) + " for " + long["sample_id"].map(shown)
        problems += flag(file, long[differs], got[differs], rule, "mend whichever is wrong")
    return problems


def check_complete(file: str, long: pd.DataFrame) -> list[Problem]:
    """Each (image, target) exactly once. Rows whose ids are wrong already are left out."""
    if "sample_id" not in long:
        return []
    good = long[long["image_id"].notna() & long["id_target"].isin(TARGETS)]
    repeated = good[good.duplicated("sample_id")]
    first_row = good.drop_duplicates("sample_id").set_index("sample_id")[ROW]
    got = repeated["sample_id"].map(shown) + " again, first in line " + repeated["sample_id"].map(first_row).astype(str)
    problems = flag(file, repeated, got, "an (image, target) pair appears once", "remove one of the rows")

    by_image = good.groupby("image_id", sort=False)
    short = by_image["id_target"].nunique() < len(TARGETS)
    incomplete = good[good["image_id"].map(short).astype(bool)]
    present = incomplete.groupby("image_id", sort=False)["id_target"].agg(set)
    got = present.map(lambda names: "no " + ", ".join(name for name in TARGETS if name not in names))
    firsts = incomplete.drop_duplicates("image_id")
    got = firsts["image_id"].map(shown) + " with " + firsts["image_id"].map(got)
    return problems + flag(file, firsts, got, f"an image has all {len(TARGETS)} targets", "add the rows")


def leaves_directory(image_path: pd.Series) -> pd.Series:
    """Which paths are absolute, climb with "..", or are not written with / (links are for check.py to follow)."""
    return image_path.str.contains(_UNSAFE_PATH, regex=True).astype(bool)


def check_paths(file: str, long: pd.DataFrame) -> list[Problem]:
    if "image_path" not in long:
        return []
    path = long["image_path"]
    blank = path.isin(["", "."])
    problems = flag(file, long[blank], "image_path", "image_path names a file", "fill the cell in")
    unsafe = leaves_directory(path)
    rule = "image_path stays inside the data directory (relative, with /, no ..)"
    problems += flag(file, long[unsafe], "image_path", rule, "write it like train/ID1011485656.jpg")
    if "image_id" not in long:
        return problems
    owner = long.drop_duplicates("image_path").set_index("image_path")["image_id"]
    shared = (path.map(owner) != long["image_id"]) & long["image_id"].notna() & ~blank
    firsts = long[shared].drop_duplicates("image_id")
    rule = "a photograph belongs to one image id (one photograph on both sides of a fold is a leak)"
    got = firsts["image_path"].map(shown) + " of " + firsts["image_path"].map(owner).map(shown) + " too"
    return problems + flag(file, firsts, got, rule, "mend image_path or remove one of the images")


def check_number(
    file: str, long: pd.DataFrame, parsed: pd.DataFrame, column: str, *, low: float = -np.inf, high: float = np.inf
) -> list[Problem]:
    """Finite numbers in [low, high]."""
    if column not in long:
        return []
    number = parsed[column]
    bad = long[~(np.isfinite(number) & (number >= low) & (number <= high))]
    bounds = ""
    if np.isfinite(low):
        bounds = f" in [{low:g}, {high:g}]" if np.isfinite(high) else f" of at least {low:g}"
    remedy = "mend the cell (decimal point, no unit) or remove the image"
    if len(bad) and bad[column].str.fullmatch(r"-?\d+,\d+").all():
        remedy = "write a decimal point, not a comma: 12.5"
    return flag(file, bad, column, f"{column} is a finite number{bounds}", remedy)


def days_of(text: pd.Series) -> pd.Series:
    """Days of the calendar, year first (2015/9/4, 2015-09-04), as datetime64; NaT for other text."""
    part = text.str.extract(r"^((?:19|20)\d\d)([/-])(\d\d?)\2(\d\d?)(?:[ T]00:00(?::00)?)?$")
    date = pd.to_datetime(part[0] + "-" + part[2] + "-" + part[3], format="%Y-%m-%d", errors="coerce")
    return date.astype("datetime64[us]")


def check_dates(file: str, long: pd.DataFrame, parsed: pd.DataFrame) -> list[Problem]:
    if "Sampling_Date" not in long:
        return []
    rule = "Sampling_Date is a day of the calendar, year first"
    return flag(file, long[parsed["Sampling_Date"].isna()], "Sampling_Date", rule, "write it like 2015/9/4")


def check_filled(file: str, long: pd.DataFrame, columns: Iterable[str]) -> list[Problem]:
    problems: list[Problem] = []
    for column in (column for column in columns if column in long):
        blank = long[long[column] == ""]
        problems += flag(file, blank, column, f"{column} must not be empty", "fill the cell in")
    return problems


def check_consistent(file: str, long: pd.DataFrame, parsed: pd.DataFrame, columns: Iterable[str]) -> list[Problem]:
    """All rows of an image say the same; the first row of an image that differs from its first one is named."""
    if "image_id" not in long:
        return []
    problems: list[Problem] = []
    for column in (column for column in columns if column in parsed):
        first = parsed.groupby("image_id", sort=False)[column].transform("first")
        differs = (parsed[column] != first) & first.notna() & parsed[column].notna()
        rows = parsed[differs].drop_duplicates("image_id")
        got = long[column][rows.index].map(shown) + " after " + first[rows.index].astype("str").map(shown)
        problems += flag(file, rows, got, f"the rows of an image agree on {column}", "mend whichever is wrong")
    return problems


def warn_species(file: str, long: pd.DataFrame) -> list[Problem]:
    if not {"Species", "image_id"} <= set(long.columns):
        return []
    unknown = {text: ", ".join(unknown_names(text)) for text in long["Species"].unique()}
    firsts = long.assign(unknown=long["Species"].map(unknown)).drop_duplicates("image_id")
    firsts = firsts[firsts["unknown"] != ""]
    remedy = "check the spelling; the name is treated as `other`"
    return flag(file, firsts, "unknown", "a species is one of the known names", remedy, level="warning")


def warn_masses(file: str, parsed: pd.DataFrame) -> list[Problem]:
    """Masses that are no grams a quadrat, and images whose five masses miss the identities."""
    if not {"image_id", "target"} <= set(parsed.columns):
        return []
    rows = parsed[parsed["id_target"].isin(TARGETS) & parsed["target"].notna()].drop_duplicates("sample_id")
    mass_NT = rows.pivot(index="image_id", columns="id_target", values="target").reindex(columns=list(TARGETS))
    return warn_unlike_grams(file, mass_NT.dropna()) or _off_identities(file, rows, mass_NT)


def warn_unlike_grams(file: str, mass_NT: pd.DataFrame) -> list[Problem]:
    """One warning for a table in log space, or whose total masses are of another order than a quadrat's.

    mass_NT: grams per quadrat of 0.21 m2, columns TARGETS, NaN where not measured.
    """
    complete_NT, total = mass_NT.dropna().to_numpy(), mass_NT["Dry_Total_g"].dropna()
    undone = {"log1p": (np.expm1, "np.expm1"), "sqrt": (np.square, "np.square")}
    for space, (invert, remedy) in undone.items() if len(complete_NT) >= _FEWEST else ():
        with np.errstate(over="ignore", invalid="ignore"):
            gap_N = identity_gap(invert(complete_NT))
        own_N = identity_gap(complete_NT)
        if np.median(own_N) > 0.1 and np.median(gap_N) < 0.1 * np.median(own_N):
            got = f"masses off the identities by {np.median(own_N):.3g} that look like {space}"
            return [_of_masses(file, "masses are grams per quadrat", got, f"give grams: {remedy}")]
    mean = float(total.mean()) if len(total) >= _FEWEST else np.nan
    if USUAL_MEAN_G[0] <= mean <= USUAL_MEAN_G[1] or not np.isfinite(mean):
        return []
    unit = min(_IN_GRAMS, key=lambda name: abs(np.log(max(mean, 1e-9) * _IN_GRAMS[name] / 45)))
    got = f"a mean Dry_Total_g of {mean:.4g}, which looks like {unit}"
    remedy = f"multiply by {_IN_GRAMS[unit]:g} if it is; scores do not depend on the unit, ranges of the search do"
    return [_of_masses(file, "masses are grams per quadrat of 70 x 30 cm", got, remedy)]


def _of_masses(file: str, rule: str, got: str, remedy: str) -> Problem:
    return Problem(level="warning", file=file, row=None, rule=rule, got=got, remedy=remedy)


def _off_identities(file: str, rows: pd.DataFrame, mass_NT: pd.DataFrame) -> list[Problem]:
    """Green + Clover = GDM and GDM + Dead = Total, for the images whose five masses can be read."""
    gap_N = pd.Series(identity_gap(mass_NT.to_numpy()), index=mass_NT.index)
    firsts = rows.drop_duplicates("image_id")
    gap = firsts["image_id"].map(gap_N)
    firsts, gap = firsts[gap > IDENTITY_TOLERANCE_G], gap[gap > IDENTITY_TOLERANCE_G]
    rule = f"Green + Clover = GDM and GDM + Dead = Total within {IDENTITY_TOLERANCE_G:g} g"
    remedy = "check the five masses; they are used as they are"
    got = firsts["image_id"].map(shown) + " off by " + gap.map("{:.4g} g".format).astype(str)
    return flag(file, firsts, got, rule, remedy, level="warning")
