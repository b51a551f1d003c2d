"""What the commands share: options with their help, the two consoles, and settings made from what was typed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

INTERRUPTED = 130
DEFAULT_CACHE = Path("~/.cache/biomass")

out_console, err_console = Console(), Console(stderr=True)

Study = Annotated[str, typer.Argument(help="Study folder, or a URI such as s3://bucket/study.")]
Directory = Annotated[Path, typer.Argument(help="Data directory: train.csv, test.csv and photographs.")]
DataOption = Annotated[Path, typer.Option("--data", help="Data directory: train.csv, test.csv and photographs.")]
Cache = Annotated[Path, typer.Option("--cache", help="Feature cache, on this node's own disk.", envvar="BIOMASS_CACHE")]
CacheGb = Annotated[
    float | None, typer.Option(min=0.001, help="Most GB in the cache; what was not used longest goes first.")
]
Address = Annotated[str | None, typer.Option(help="Ray cluster to attach to (or RAY_ADDRESS); without it, embedded.")]
Weights = Annotated[
    str, typer.Option(help="Backbone weights: auto (package, $BIOMASS_WEIGHTS, hub), random (tests), or a folder.")
]
Families = Annotated[
    list[str] | None, typer.Option("--family", help="Family, or FAMILY=SHARE of the trials; repeat. Default: all.")
]
Backbones = Annotated[list[str] | None, typer.Option("--backbone", help="timm backbone; repeat for several.")]
Scale = Annotated[str, typer.Option(help="Ranges: auto, smoke, demo, cpu, gpu.")]
CpusPerFold = Annotated[float, typer.Option(min=0.1, help="CPUs of a slot.")]
GpusPerFold = Annotated[float | None, typer.Option(min=0.0, help="GPUs of a slot; default 1 if any.")]
MostSlots = Annotated[int | None, typer.Option("--slots", min=1, help="Use at most so many slots.")]


def tell(text: str) -> None:
    """A line of the result, on standard output, exactly as it is."""
    out_console.print(text, markup=False, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A remark on what is going on, on standard error."""
    err_console.print(text, markup=False, highlight=False, soft_wrap=True)


def stopped() -> NoReturn:
    """After Ctrl-C: say that nothing is lost, and leave."""
    say("Stopped. Every finished fold is kept; the same command goes on from here.")
    raise typer.Exit(INTERRUPTED)


def resources_of(cache: Path, address: str | None, **more: Any) -> Any:
    """Where folds run and what they may use: a search.Resources."""
    from orchestration.search import Resources

    return Resources(cache_dir=cache, address=address, **more)


def weights_source(weights: str) -> Any:
    """Where backbone weights come from: a weights.WeightsSource."""
    from biomass_models.weights import WeightsSource

    return WeightsSource(kind=weights) if weights in ("auto", "random") else WeightsSource("folder", Path(weights))


def families_of(asked: list[str] | None) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Families and their shares of the trials; all families where none was named, no shares where none was given.

    Raises ValueError for a family that does not exist or a share that is no number.
    """
    from search_spaces.spaces import SPACES, known_family

    asked = asked or sorted(SPACES)
    pairs = {name: share for name, _, share in (text.partition("=") for text in asked)}
    try:
        shares = tuple(float(share or 1) for share in pairs.values())
        if "" in pairs or not all(map(math.isfinite, shares)):
            raise ValueError
    except ValueError:
        raise ValueError(f"a family is given as NAME or NAME=SHARE, such as probe=2, got {asked}") from None
    return tuple(map(known_family, pairs)), shares if any(pairs.values()) else ()
