"""The pieces of a page as HTML. Whatever is not `Html` is text and is escaped: data can hold any character.

A page is sections; a section is paragraphs, tables, figures and galleries. A figure has a title that says what it
shows, one or more panels (Vega-Lite specifications, drawn by the page's script) and a word on how to read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from biomass_models.visible import visible

VOID = ("br", "img", "input", "link", "meta")  # elements without an end


class Html(str):
    """Text that is HTML already and may stand in the page as it is."""

    __slots__ = ()


def as_html(value: object) -> Html:
    """Html as it is, everything else escaped."""
    return value if isinstance(value, Html) else Html(_text(value))


def _text(value: object) -> str:
    return escape(visible(str(value)))


def join(*parts: object) -> Html:
    """Parts one after the other, text escaped."""
    return Html("".join(map(as_html, parts)))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element; `class_` is class, `data_x` is data-x, an attribute that is None is left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>" if name in VOID else f"<{name}{given}>{join(*children)}</{name}>")


def embed_json(value: object) -> Html:
    """JSON that may stand inside a script element: no text of it can end the element or steer what is drawn."""
    text = json.dumps(_drawn(value), separators=(",", ":"), allow_nan=False)
    return Html(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _drawn(value: object) -> object:
    """The same JSON with its texts as they may be shown."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): _drawn(item) for key, item in value.items()}
    return [_drawn(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Cell:
    """A table cell: what is shown, and what a click on the header sorts by."""

    shown: object
    sort: float | str | None = None


@dataclass(frozen=True, kw_only=True)
class Column:
    """A table's column."""

    name: str
    gloss: str = ""  # what the header means, shown when it is pointed at
    numeric: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that sorts when a header is clicked."""

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell | str]]
    how: object = ""  # how to read it
    marked: frozenset[int] = frozenset()  # rows to stand out

    def html(self) -> Html:
        head = [
            tag(
                "th",
                tag("button", column.name, tag("span", class_="arrow", aria_hidden="true"), type="button"),
                scope="col",
                title=column.gloss or None,
                class_="number" if column.numeric else None,
                aria_sort="none",
            )
            for column in self.columns
        ]
        body = [
            tag("tr", *map(self._cell, row, self.columns), class_="marked" if index in self.marked else None)
            for index, row in enumerate(self.rows)
        ]
        table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="sortable")
        how = tag("p", tag("b", "How to read this. "), self.how, class_="how") if self.how else ""
        scroll = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=self.title)
        return tag("figure", tag("h3", self.title), scroll, how, class_="table")

    @staticmethod
    def _cell(cell: Cell | str, column: Column) -> Html:
        cell = cell if isinstance(cell, Cell) else Cell(cell)
        unknown = isinstance(cell.sort, float) and math.isnan(cell.sort)  # no number: it stays last, whatever is sorted
        return tag(
            "td", cell.shown, data_sort=None if unknown else cell.sort, class_="number" if column.numeric else None
        )


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One drawing of a figure."""

    spec: dict[str, Any]  # Vega-Lite; its width follows the page
    caption: object = ""
    least_width: int = 0  # px; narrower screens scroll
    wide: bool = False  # takes a whole row of its figure


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Drawings under one title."""

    title: str
    how: object  # how to read it
    panels: tuple[Panel, ...]
    note: object = ""  # what was left out, or what to be careful about
    across: int = 1  # panels side by side on a wide screen
    legend: Html | None = None  # one for all panels

    def html(self) -> Html:
        drawn = [self._panel(panel) for panel in self.panels]
        return tag(
            "figure",
            tag("h3", self.title),
            self.legend or "",
            tag("div", *drawn, class_=f"panels across-{self.across}"),
            tag("p", tag("b", "How to read this. "), self.how, class_="how"),
            tag("p", self.note, class_="note") if self.note else "",
            class_="chart",
        )

    def _panel(self, panel: Panel) -> Html:
        spec = {**panel.spec, "description": f"{self.title}. {panel.caption}".strip()}
        plot = tag(
            "div",
            tag("script", embed_json(spec), type="application/json"),
            class_="plot",
            style=f"min-width:{panel.least_width}px" if panel.least_width else None,
        )
        caption = tag("h4", panel.caption) if panel.caption else ""
        scroll = tag("div", plot, class_="scroll", tabindex="0" if panel.least_width else None)
        return tag("div", caption, scroll, class_="panel wide" if panel.wide else "panel")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A chapter of the page."""

    anchor: str
    title: str
    short: str  # for the list of sections
    blocks: tuple[Html | Table | Figure, ...]

    def html(self) -> Html:
        blocks = [block if isinstance(block, Html) else block.html() for block in self.blocks]
        return tag("section", tag("h2", self.title), *blocks, id=self.anchor)


def paragraph(*parts: object, class_: str | None = None) -> Html:
    return tag("p", *parts, class_=class_)
