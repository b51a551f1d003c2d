"""Numbers and counts as people read them: a true minus sign, as many digits as mean something."""

from __future__ import annotations

import math
import time

from biomass_models.counted import plural
from biomass_models.targets import TARGETS
from ensembles.honest import Estimate
from orchestration.study.data import StudyData

GAP = "\u00a0"  # a space that no line ends at
NONE = "–"  # where there is no number
SHORT = {name: name.removeprefix("Dry_").removesuffix("_g").lower() for name in TARGETS} | {"GDM_g": "green + clover"}

CLEAR = "more than chance explains"  # a difference of two standard errors or more
SCHEMES = {
    "date": "folds by date",
    "random": "random folds",
    "state": "folds by state",
    "species": "folds by species",
    "time": "blocks of time in order",
    "file": "folds of the user's own",
}


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """A plain decimal number; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return NONE
    text = f"{abs(value):.{digits}f}"
    zero = float(text) == 0
    return ("−" if value < 0 and not zero else "+" if sign and not zero else "") + text


def mass(value: float, unit: str, *, sign: bool = False) -> str:
    """A mass with its unit: a decimal below 100, where it means something."""
    return f"{number(value, 1 if abs(value) < 100 else 0, sign=sign)}{GAP}{unit}"


def plus_minus(estimate: Estimate, *, sign: bool = False) -> str:
    """value ± standard error; the value alone where a single group leaves no error."""
    if math.isnan(estimate.se):
        return number(estimate.value, sign=sign)
    return f"{number(estimate.value, sign=sign)}{GAP}±{GAP}{number(estimate.se)}"


def percent(share: float | None, digits: int = 0) -> str:
    return NONE if share is None or math.isnan(share) else f"{number(100 * share, digits)}{GAP}%"


def count(amount: int, one: str, more: str | None = None) -> str:
    """As `counted`: `1 trial`, `12 000 trials`."""
    return f"{amount:,}".replace(",", GAP) + f" {plural(amount, one, more)}"


def duration(seconds: float) -> str:
    """With the unit that suits its length."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86400:.1f} days"


def folds_text(study: StudyData) -> str:
    """How many folds of which kind; of blocks of time also the first, which is no fold."""
    amount = study.settings.folds if study.settings.ordered else len(study.folds)
    return f"{amount} {SCHEMES[study.settings.scheme]}"


def moment(seconds: float) -> str:
    """A time of day, in UTC because a report travels."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def setting(value: object) -> str:
    """A hyper-parameter's value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    if isinstance(value, list | tuple):
        return ", ".join(map(setting, value))
    return str(value)


def listed(items: list[str], most: int = 3) -> str:
    """`a, b and c`; the rest as a count."""
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most} more"
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def verdict(gain: Estimate) -> str:
    """What a paired difference says, by its size in standard errors."""
    if math.isnan(gain.se) or gain.se == 0:
        return "its error is not known"
    ratio = abs(gain.value) / gain.se
    if ratio >= 2:
        return CLEAR
    return "perhaps chance" if ratio >= 1 else "chance can explain it"


def day_name(group: str) -> str:
    """`NSW|2015-06-29` as people say it."""
    state, _, date = group.partition("|")
    return f"{date} in {state}" if date else group


def short_id(trial_id: str) -> str:
    """Enough of an id to tell trials apart on an axis: two that look alike would be drawn as one."""
    return trial_id[:6]
