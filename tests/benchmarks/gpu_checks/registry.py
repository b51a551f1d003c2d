"""The checks, in the order in which they run. Torch-free: each loads its code in its own process."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Check:
    """code: module and function, which takes a World and Findings and raises Skip where this machine cannot run it."""

    name: str
    title: str
    share: float  # of the time of all: about its seconds
    code: str
    needs_gpu: bool = False

    def load(self) -> Callable[[Any, Any], None]:
        module, _, function = self.code.partition(".")
        loaded: Callable[[Any, Any], None] = getattr(importlib.import_module(f"gpu_checks.{module}"), function)
        return loaded


CHECKS = {
    check.name: check
    for check in (
        Check(name="peak", title="matrix products at their peak", share=25, code="speed.peak"),
        Check(name="autocast", title="half precision with scaler", share=40, code="training.autocast"),
        Check(
            name="memory",
            title="out of memory: batches are halved",
            share=40,
            code="memory.out_of_memory",
            needs_gpu=True,
        ),
        Check(name="folds", title="folds in one batch", share=35, code="speed.folds_together"),
        Check(name="trunk", title="cached trunk", share=30, code="training.trunk"),
        Check(name="lora", title="LoRA and DoRA", share=35, code="training.lora"),
        Check(name="encoder", title="encoding", share=50, code="speed.encoder"),
        Check(name="published", title="the preset `published`", share=60, code="training.published"),
        Check(name="search", title="a search on Ray", share=55, code="searches.tiny_search"),
        Check(name="workers", title="two workers on one card", share=60, code="memory.two_workers", needs_gpu=True),
        Check(name="compile", title="torch.compile", share=80, code="training.compiled"),
    )
}
