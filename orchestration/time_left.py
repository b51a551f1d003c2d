"""How long a search will take: one estimate, which the driver shows and `biomass status` reads."""

from __future__ import annotations

from collections.abc import Sequence


def seconds_left(ended: Sequence[float], missing: int, *, since: float, slots: int, now: float) -> float | None:
    """Time until so many trials more will have ended, from those that this run has ended; None while none has.

    ended: when, in seconds since 1970, as `since` (the begin of the run) and `now`. slots: trials that run side by
    side; the first ones, which begin together and wait for features, are left out once there are as many others. While
    no trial ends the estimate falls by the time of one trial at most, and never grows.
    """
    moments = sorted(moment for moment in ended if moment >= since)
    if not moments or missing <= 0:
        return None if not moments else 0.0
    first = slots if len(moments) >= 2 * slots else 0
    begin = moments[first - 1] if first else since
    each = (moments[-1] - begin) / (len(moments) - first)
    return each * missing - min(max(0.0, now - moments[-1]), each)
