"""Ranges of what a network may do beside its published setting (training/config.NetworkOptions).

Each is off in the first trials. What brought some teams much brought others nothing: a search decides. The scales
smoke and demo leave them off, so that their trials stay few and comparable.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from search_spaces.domain import Choice, Domain, LogUniform, When
from search_spaces.needs import Needs

SEARCHED = ("cpu", "gpu")
ADAPTED = ("lora", "dora")
NEEDS = {  # of every network
    "interval_weight": Needs(field="interval_bins", other_than=(0,)),
    "backbone_lr": Needs(field="trained_blocks", other_than=(0,)),
    "prefix_bank": Needs(field="trained_blocks", other_than=(0,)),
    "adapters": Needs(field="trained_blocks", other_than=(0,)),
    "adapter_rank": Needs(field="adapters", other_than=("none",)),
}
REASONS = {
    "interval_bins": "+.03 for the team that won, by its own account",
    "mixup_alpha": "few photographs; what it brings is contested",
    "predicted_metadata": "+.04 public for its author; metadata as further inputs were worse",
    "stamped": "a quarter of the photographs carry a stamp; +.01 private for its author",
    "adapters": "few trained numbers for few photographs",
    "weight_decay": "0.05 is published",
    "ema_decay": "a mean of the last weights, against the noise of small batches",
    "flips": "turned copies are cached: each costs a pass over all images, once",
}


def option_domains(scale: str, blocks: tuple[int, ...]) -> dict[str, Domain]:
    """Domains by field; empty where options stay off. blocks: numbers of trained blocks in the space."""
    if scale not in SEARCHED:
        return {}
    domains: dict[str, Domain] = {
        "interval_bins": Choice((0, 7)),
        "interval_weight": NEEDS["interval_weight"].when((0, 7), LogUniform(0.03, 0.3)),
        "mixup_alpha": Choice((0.0, 0.2, 1.0)),
        "predicted_metadata": Choice(("none", "film")),
    }
    if scale == "gpu":  # one more pass over all images
        domains["stamped"] = When("trained_blocks", (0,), Choice((0, 1)))
    if scale == "gpu" and find_spec("peft"):
        domains["adapters"] = NEEDS["adapters"].when(blocks, Choice(("none", *ADAPTED)))
        domains["adapter_rank"] = NEEDS["adapter_rank"].when(("none", *ADAPTED), Choice((4, 8, 16)))
    return domains


def switched_off(domains: Mapping[str, Domain], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a first trial, every option off; drawn: its other fields."""
    off: dict[str, Any] = {}
    for name, one in domains.items():
        active = not isinstance(one, When) or {**drawn, **off}.get(one.field) in one.values
        choice = one.domain if isinstance(one, When) else one
        if active and isinstance(choice, Choice):
            off[name] = choice.options[0]
    return off
