"""What the commands share: options with their help, the two consoles, JSON, and settings made from what was typed."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from biomass_models.errors import UserError
from orchestration.commands.fields import typer_option
from orchestration.study.record import Part
from orchestration.terminal import PlainConsole, no_more_readers
from orchestration.verbosity import is_quiet, is_verbose
from orchestration.workers.resources import Resources

INTERRUPTED = 130  # by Ctrl-C
DEFAULT_CACHE = Resources().cache

FILE_SUFFIXES = (".csv", ".txt", ".json", ".html", ".png", ".jpg", ".jpeg", ".zip", ".parquet", ".npy", ".tsv", ".md")


out_console, err_console = PlainConsole(), PlainConsole(stderr=True)


def existing_data(context: typer.Context, value: Path | None) -> Path | None:
    """A data directory that is there; an error otherwise, before anything heavy loads."""
    if value is None or context.resilient_parsing:
        return value
    from orchestration.search.presets.asked import require_data

    return require_data(value)


def out_file(path: Path, suffix: str) -> Path:
    """A file to write; UserError for a name with another suffix."""
    if path.suffix.lower() != suffix:
        raise UserError(f"--out is a {suffix} file, got {path}; name it {path.with_suffix(suffix)}")
    return path


def out_folder(path: Path) -> Path:
    """A folder to write; UserError for the name of a file."""
    if path.suffix.lower() in FILE_SUFFIXES:
        raise UserError(f"--out is a folder here, got {path}; name it {path.with_suffix('')}")
    return path


DATA = "Data directory: train.csv or quadrats.csv, photographs, and test.csv to predict."

Study = Annotated[str, typer.Argument(metavar="STUDY", help="Study folder, or a URI such as s3://bucket/study.")]
Directory = Annotated[
    Path,
    typer.Argument(metavar="DIR", help=DATA, callback=existing_data),
]
DataOption = Annotated[Path, typer.Option("--data", help=DATA, callback=existing_data)]
OptionalData = Annotated[
    Path | None,
    typer.Option("--data", help=DATA, callback=existing_data),
]
Json = Annotated[
    bool, typer.Option("--json", help="For programs: one JSON document (docs/commands.md) and nothing else on stdout.")
]
Cache = Annotated[Path, typer_option("cache", show_default=True)]
CachedFeatures = Annotated[
    bool, typer.Option("--cached-features", help="Take features from --cache; by default they are computed afresh.")
]
Address = Annotated[str | None, typer_option("address")]
Inline = Annotated[bool, typer_option("inline")]
Weights = Annotated[str | None, typer_option("weights", show_default="those of the search", rich_help_panel=None)]
Trial = Annotated[str, typer.Argument(metavar="TRIAL", help="Trial id, or how it begins; the leaderboard lists them.")]


def print_line(text: str) -> None:
    """Print a line of the result on standard output, exactly as it is."""
    out_console.print(text, highlight=False, soft_wrap=True)


def print_remark(text: str) -> None:
    """Print on standard error what is going on, unless the command is quiet."""
    if not is_quiet():
        err_console.print(text, highlight=False, soft_wrap=True)


def print_detail(text: str) -> None:
    """Print on standard error, if the command is verbose."""
    if is_verbose():
        err_console.print(text, highlight=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """One JSON document on standard output: dataclasses and named tuples as objects, no NaN (null), ASCII only."""
    try:
        sys.stdout.write(json.dumps(plain(document), indent=1, allow_nan=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        no_more_readers(sys.stdout)


def plain(value: Any) -> Any:
    """What JSON can hold of a value: numbers of Python, strings, lists and dicts; null for what is not finite."""
    if isinstance(value, Part):
        return plain(value.to_json())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def reachable(resources: Resources) -> Resources:
    """The same with the cache that this machine can use. A cluster that does not answer is an error at once."""
    from orchestration.search.presets.asked import usable_resources

    return usable_resources(resources, print_remark)


def local_cache(cache: Path) -> Path:
    """The folder in which this machine keeps features, with a note where it is not the typed one."""
    from orchestration.search.presets.asked import local_cache as cache_here

    return cache_here(cache, print_remark)


def typed_weights(weights: str | None) -> Any:
    """Where backbone weights come from; None, the source of a study's search, where nothing was typed."""
    from orchestration.search.presets.asked import weights_source

    return None if weights is None else weights_source(weights)
