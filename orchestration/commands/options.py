"""What the commands share: options with their help, the two consoles, JSON, and settings made from what was typed."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from biomass_models.errors import UserError
from orchestration.commands.fields import typer_option
from orchestration.study.record import Part
from orchestration.terminal import PlainConsole, no_more_readers
from orchestration.verbosity import is_quiet, is_verbose
from orchestration.workers.resources import Resources

TABLES = ("train.csv", "quadrats.csv", "test.csv")  # one of them makes a folder a data directory
INTERRUPTED = 130  # by Ctrl-C
DEFAULT_CACHE = Resources().cache

FILE_SUFFIXES = (".csv", ".txt", ".json", ".html", ".png", ".jpg", ".jpeg", ".zip", ".parquet", ".npy", ".tsv", ".md")


out_console, err_console = PlainConsole(), PlainConsole(stderr=True)


def existing_data(context: typer.Context, value: Path | None) -> Path | None:
    """A data directory that is there; an error otherwise, before anything heavy loads."""
    if value is None or context.resilient_parsing or any((value / name).exists() for name in TABLES):
        return value
    from orchestration.study.storage import nearest_folder

    hint = nearest_folder(value, "train.csv")
    if value.is_dir() and not hint:
        return value  # its problems are listed with all others
    got = "without them" if value.is_dir() else "a file" if value.exists() else "no such folder"
    hint = hint or "; check the path"
    raise UserError(
        f"a data directory is a folder with train.csv (or quadrats.csv, test.csv) and photographs; {value} is "
        f"{got}{hint}"
    )


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


def study_apart(study: str, data: Path) -> None:
    """A study and the data that it learns from are folders apart; UserError where one lies in the other."""
    if "://" in study:
        return
    own, photographs = Path(study).expanduser().resolve(), data.expanduser().resolve()
    if own.is_relative_to(photographs) or photographs.is_relative_to(own):
        where = "is" if own == photographs else "lies in" if own.is_relative_to(photographs) else "holds"
        raise UserError(
            f"a study is a folder apart from its data, {study} {where} the data directory {data}; name another, "
            f"such as {photographs.with_name(f'{photographs.name}-study')}"
        )


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
    from orchestration.workers.address import is_cluster, require_answer

    require_answer(resources.address)
    if is_cluster(resources.address):  # each node looks for itself
        return resources
    return replace(resources, cache=local_cache(resources.cache))


def local_cache(cache: Path) -> Path:
    """The folder in which this machine keeps features, with a note where it is not the typed one."""
    from biomass_models.features.cache_folder import usable_cache

    folder, why = usable_cache(cache)
    if why:
        print_remark(f"note: {why}")
    return folder


def weights_source(weights: str) -> Any:
    """Where backbone weights come from: a weights.WeightsSource."""
    from biomass_models.backbones.weights import WeightsSource

    return WeightsSource(kind=weights) if weights in ("auto", "random") else WeightsSource("folder", Path(weights))


def typed_weights(weights: str | None) -> Any:
    """The same where it was typed; None stands for the source of a study's search."""
    return None if weights is None else weights_source(weights)


def families_of(
    typed: list[str] | None, of_study: Callable[[], Collection[str]] = tuple
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Families and their shares of the trials; without a name this project's, without a share no shares.

    of_study: families that may be named although they are not known here. Raises UserError for a family that does not
    exist or a share that is no number.
    """
    from biomass_models.families import registry

    typed = typed or sorted(registry.BUILT_IN)
    pairs = {name: share for name, _, share in (text.partition("=") for text in typed)}
    try:
        shares = tuple(float(share or 1) for share in pairs.values())
        if "" in pairs or not all(map(math.isfinite, shares)):
            raise ValueError
    except ValueError:
        raise UserError(f"a family is given as NAME or NAME=SHARE, such as probe=2, got {typed}") from None
    strange = [name for name in pairs if name not in registry.names()]
    known = of_study() if strange else ()
    for name in strange:
        if name not in known:
            registry.known(name)
    return tuple(pairs), shares if any(pairs.values()) else ()
