"""What kind of machine this is, as profiles of predictions name it."""

from __future__ import annotations

from orchestration.study.environment import environment


def device_name(device: str = "auto", cpus: int = 1) -> str:
    """The GPU that predictions run on, else the processor with the threads of a slot; loads torch."""
    found = environment(device=device)
    return str(found["gpu"] or f"{found['processor']} x {cpus}")
