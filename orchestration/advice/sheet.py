"""A contact sheet of the photographs to weigh next, each with the targets that are nearest to it below."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from biomass_models.data.frames import Fit
from biomass_models.data.images import ImageError, shown_photograph
from biomass_models.visible import visible
from biomass_models.whole_files import whole_file
from orchestration.study.derived.advice import NextRecord

ACROSS = 4  # photographs in a row
WIDTH, TALL, SMALL_TALL, LINE, GAP = 320, 200, 66, 18, 6  # px
DARK, LIGHT = (24, 24, 24), (220, 220, 220)


def write_sheet(record: NextRecord, out_png: Path, *, fit: Fit) -> None:
    """PNG, four photographs in a row; fit: what the study's models see of a photograph."""
    picks = record.picks
    across = max(1, min(ACROSS, len(picks)))
    near = max((len(pick.nearest) for pick in picks), default=0)
    tall = TALL + 2 * LINE + (SMALL_TALL if near else 0) + 3 * GAP
    sheet = Image.new("RGB", (across * (WIDTH + GAP) + GAP, -(-len(picks) // across) * tall + GAP), DARK)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for place, pick in enumerate(picks):
        left, top = GAP + place % across * (WIDTH + GAP), GAP + place // across * tall
        _paste(sheet, pick.photograph, (left, top, WIDTH, TALL), fit)
        lines = (
            _short(f"{place + 1}  {visible(Path(pick.photograph).name)}", font),
            f"settles {pick.settles:.1%}, nearest to {pick.covers} of {record.targets}",
        )
        for number, line in enumerate(lines):
            pen.text((left, top + TALL + number * LINE), line, fill=LIGHT, font=font)
        for number, path in enumerate(pick.nearest):
            width = (WIDTH - (near - 1) * GAP) // near
            box = (left + number * (width + GAP), top + TALL + 2 * LINE + GAP, width, SMALL_TALL)
            _paste(sheet, path, box, fit)
    with whole_file(out_png) as unfinished:
        sheet.save(unfinished, "PNG")


def _paste(sheet: Image.Image, path: str, box: tuple[int, int, int, int], fit: Fit) -> None:
    """In the middle of left, top, width, height; a file that is gone by now leaves its place empty."""
    left, top, width, height = box
    try:
        picture = Image.fromarray(shown_photograph(Path(path), width, height, fit=fit))
    except (ImageError, OSError):
        return
    sheet.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))


def _short(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """No wider than a photograph."""
    if font.getlength(text) <= WIDTH:
        return text
    while font.getlength(f"{text}...") > WIDTH:
        text = text[:-1]
    return f"{text}..."
