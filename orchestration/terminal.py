"""The only way of text to a terminal or a page of text: what a study or a data directory holds cannot steer it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from io import StringIO
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from biomass_models.visible import visible

PAGE_COLUMNS = 80


class PlainConsole(Console):
    """A console that shows control characters escaped and takes no text for markup or emoji codes."""

    def __init__(self, **settings: Any) -> None:
        own: dict[str, Any] = {"markup": False, "emoji": False}
        if "file" in settings:
            own["force_jupyter"] = False  # in a notebook rich would show it there, whatever the file
        super().__init__(**{**own, **settings})

    def on_broken_pipe(self) -> None:
        """A reader may leave early (`| head`): the command goes on and keeps its own exit code."""
        no_more_readers(self.file)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Strings are escaped before they are measured, so that tables keep their columns."""
        return super().render_str(visible(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Text objects are escaped here; control segments are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def text_of(page: RenderableType) -> str:
    """A page as text of 80 columns, without colours."""
    console = PlainConsole(file=StringIO(), width=PAGE_COLUMNS, record=True, color_system=None)
    console.print(page)
    return console.export_text()


def no_more_readers(stream: IO[str]) -> None:
    """Send what is still written to a stream that nobody reads to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
