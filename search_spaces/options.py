"""Ranges of what a network may do beside its published setting (training/config.NetworkOptions).

Each is off in the first trials. What brought some teams much brought others nothing: a search decides. The scales
smoke and demo leave them off, so that their trials stay few and comparable.
"""

from __future__ import annotations

from typing import Any

from search_spaces.domain import Choice, Domain, LogUniform, When

SEARCHED = ("cpu", "gpu")


def option_domains(scale: str) -> dict[str, Domain]:
    """Domains by field; empty where options stay off."""
    if scale not in SEARCHED:
        return {}
    domains: dict[str, Domain] = {
        "interval_bins": Choice((0, 7)),
        "interval_weight": When("interval_bins", (7,), LogUniform(0.03, 0.3)),
        "mixup_alpha": Choice((0.0, 0.2, 1.0)),
        "predicted_metadata": Choice(("none", "film")),
    }
    if scale == "gpu":  # one more pass over all images
        domains["stamped"] = When("trained_blocks", (0,), Choice((0, 1)))
    return domains


def switched_off(scale: str) -> dict[str, Any]:
    """The fields of a first trial, every option off."""
    return {name: one.options[0] for name, one in option_domains(scale).items() if isinstance(one, Choice)}
