"""What a slot was measured to do, once; estimates of folds are counted from it. Torch-free: it goes between processes.

A timing at each estimate would say another thing whenever the machine is busy, and of the wrong machine where the
process that decides is not a slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of one slot. Operations are counted as in estimate.step_operations."""

    step_seconds: float  # of a training step of new layers with next to nothing in it
    operations: float  # a second, in larger steps
    # by backbone that may train: see estimate.measure
    pass_seconds: Mapping[str, float] = field(default_factory=dict, hash=False)
