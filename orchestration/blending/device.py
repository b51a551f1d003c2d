"""What kind of machine this is, as profiles of predictions name it."""

from __future__ import annotations

from orchestration.study.environment import environment

THREADS = " x "  # between a processor and the threads of a slot


def device_name(device: str = "auto", cpus: int = 1) -> str:
    """The GPU that predictions run on, else the processor with the threads of a slot; loads torch."""
    found = environment(device=device)
    return str(found["gpu"] or f"{found['processor']}{THREADS}{cpus}")


def kind(name: str) -> str:
    """The same without the number of threads."""
    processor, _, _ = name.rpartition(THREADS)
    return processor or name
