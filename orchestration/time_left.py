"""How long work will take: one estimate for what a driver shows, what `biomass status` reads and every other bar."""

from __future__ import annotations

from collections.abc import Sequence


def seconds_left(ended: Sequence[float], missing: int, *, since: float, slots: int, now: float) -> float | None:
    """Time until so many trials more will have ended, from those that this run has ended; None while none has.

    ended: when, in seconds since 1970, as `since` (the begin of the run) and `now`. slots: trials that run side by
    side; the first ones, which begin together and wait for features, are left out once there are as many others.
    """
    moments = sorted(moment for moment in ended if moment >= since)
    if not moments:
        return None
    first = slots if len(moments) >= 2 * slots else 0
    begin = moments[first - 1] if first else since
    return count_down((moments[-1] - begin) / (len(moments) - first), missing, now - moments[-1])


def count_down(each: float, missing: int, silent: float) -> float:
    """Seconds for what is missing at `each` seconds, when nothing has ended for `silent` seconds.

    Falls by the time of one meanwhile, and never grows.
    """
    return each * missing - min(max(0.0, silent), each) if missing > 0 else 0.0
