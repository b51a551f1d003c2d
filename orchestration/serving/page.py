"""The page for the field: a form, and below it what the photographs weigh. Whole without JavaScript, and of itself."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from biomass_models.counted import counted
from biomass_models.data.dataset import UNITS
from biomass_models.features.likeness import UNLIKE
from orchestration.answers.opened import OpenBlend
from orchestration.report.html import Html, join, tag
from orchestration.report.words import GAP, NONE, number
from orchestration.serving.answer import Answer, Answered, Mass
from orchestration.serving.asked import LEVELS, Limits
from orchestration.serving.pictures import Picture, Pictures
from orchestration.serving.uploads import PHOTOGRAPHS

UNIT_NAMES = {"g": "g in a quadrat", "g/m2": "g/m² of dry matter", "kg/ha": "kg/ha of dry matter"}
MASS_NAMES = {"Dry_Green": "green", "Dry_Dead": "dead", "Dry_Clover": "clover", "GDM": "green + clover"}
TOTAL = "Dry_Total"
DASH = "\u2013"  # from, to
BAR_WIDTH, BAR_HEIGHT = 100, 8
_DARK = re.compile(r':root\[data-theme="dark"\] \{(.*?)\}', re.S)


def form_page(blend: OpenBlend, limits: Limits, *, asked: Mapping[str, Sequence[str]] | None = None) -> str:
    """The page to begin with."""
    return _document("Masses of photographs", _head(blend, "How much grows here?"), _form(blend, limits, asked or {}))


def result_page(
    blend: OpenBlend,
    limits: Limits,
    answer: Answer,
    pictures: Mapping[int, Pictures],
    asked: Mapping[str, Sequence[str]],
) -> str:
    """Masses of the photographs that were sent, and the form again."""
    read = [one for one in answer.photographs if one.unreadable is None]
    ends = _scale_ends(read)
    shots = [_shot(one, answer, pictures.get(row), ends, place=row + 1) for row, one in enumerate(answer.photographs)]
    title = f"Masses of {counted(len(read), 'photograph')}" if read else "No photograph could be read"
    return _document(
        title,
        _head(blend, title),
        _summary(answer, read),
        tag("div", *shots, class_="gallery results"),
        *(tag("p", f"Note: {note}", class_="aside") for note in answer.notes),
        tag("h2", "More photographs"),
        _form(blend, limits, asked),
    )


def error_page(text: str, *, token: bool = False, retry_after: int | None = None) -> str:
    """A refusal; token: with a field for one."""
    again = "" if retry_after is None else f" Try again in {counted(retry_after, 'second')}."
    body: list[object] = [tag("p", f"{text[:1].upper()}{text[1:]}.{again}", class_="aside", role="alert")]
    if token:
        field = tag("input", type="password", name="token", autocomplete="current-password", required="")
        label = tag("label", tag("span", "Token"), field)
        body.append(tag("form", label, tag("button", "Open"), method="post", action="/token", class_="ask"))
    else:
        body.append(tag("p", tag("a", "Back to the photographs", href="/")))
    heading = "A token, please" if token else "That did not work"
    return _document(heading, tag("header", tag("h1", heading)), *body)


def _document(title: str, *body: object) -> str:
    head = join(
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'),
        tag("title", title),
        tag("link", rel="stylesheet", href="/page.css"),
        Html('<script src="/page.js" defer></script>'),
    )
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>{tag("main", *body)}</body>\n</html>\n'


def _head(blend: OpenBlend, title: str) -> Html:
    card = blend.card
    facts = (
        f"Predicted by {counted(len(blend.members), 'model')} that learned from "
        f"{counted(card.images, 'photograph')}; nested R2 {number(card.nested_score)}. A photograph shows one quadrat "
        "from above, as in training."
    )
    return tag(
        "header",
        tag("p", f"Pasture biomass, ensemble {blend.name}", class_="kicker"),
        tag("h1", title),
        tag("p", facts, class_="facts"),
    )


def _form(blend: OpenBlend, limits: Limits, asked: Mapping[str, Sequence[str]]) -> Html:
    chosen = next(iter(asked.get("unit", ())), "") or blend.mass_unit.name
    units = [tag("option", UNIT_NAMES[unit], value=unit, selected="" if unit == chosen else None) for unit in UNITS]
    ticked = set(",".join(asked.get("level", ())).split(",")) if asked.get("level") else {f"{one:g}" for one in LEVELS}
    levels = [
        tag(
            "label",
            tag("input", type="checkbox", name="level", value=f"{one:g}", checked="" if f"{one:g}" in ticked else None),
            tag("span", f"{one:.0%} intervals"),
            class_="tick",
        )
        for one in LEVELS
    ]
    joint = tag(
        "label",
        tag("input", type="checkbox", name="joint", value="true", checked="" if asked.get("joint") else None),
        tag("span", "for all masses of a photograph at once (wider)"),
        class_="tick",
    )
    area: object = ""
    if blend.mass_unit.area_m2 is None:  # only then it is anybody's to say
        typed = next(iter(asked.get("area", ())), "") or None
        field = tag("input", name="area", inputmode="decimal", size="8", value=typed, placeholder="m²")
        area = tag("label", tag("span", "Area of a quadrat, for g/m² and kg/ha"), field, class_="field")
    return tag(
        "form",
        tag(
            "div",
            _files("Take photographs", capture="environment"),
            _files("Choose photographs"),
            class_="sources",
        ),
        tag("ul", id="chosen", class_="chosen", aria_live="polite"),
        tag("div", tag("label", tag("span", "Masses in"), tag("select", *units, name="unit"), class_="field"), area),
        tag("fieldset", tag("legend", "How sure"), *levels, joint),
        tag("button", "Predict masses", class_="go"),
        tag("p", "", id="busy", class_="how", role="status"),
        tag(
            "p",
            f"Up to {limits.photographs} at once, {limits.photograph_mb:g} MB each: JPEG, PNG, TIFF, WebP.",
            class_="how",
        ),
        method="post",
        action="/",
        enctype="multipart/form-data",
        id="ask",
        class_="ask",
        data_most=limits.photographs,
        data_bytes=limits.photograph_bytes,
    )


def _files(text: str, capture: str | None = None) -> Html:
    field = tag("input", type="file", name=PHOTOGRAPHS, accept="image/*", multiple="", capture=capture)
    return tag("label", tag("span", text), field, class_="source camera" if capture else "source")


def _summary(answer: Answer, read: Sequence[Answered]) -> Html:
    if not read:
        return Html("")
    totals = [one.mass for photograph in read for one in photograph.masses if one.target == TOTAL]
    mean = sum(totals) / len(totals) if totals else None
    href = f"data:text/csv;charset=utf-8;base64,{base64.b64encode(answer.table).decode()}"
    said = "" if mean is None or len(read) < 2 else tag("p", "Mean total ", tag("b", _mass(mean)), f" {_unit(answer)}.")
    return tag(
        "div",
        said,
        tag("p", tag("a", "Download the table (CSV)", href=href, download="masses.csv", class_="download")),
        class_="answer summary",
    )


def _shot(one: Answered, answer: Answer, drawn: Pictures | None, ends: Mapping[str, float], *, place: int) -> Html:
    who = tag("p", tag("b", one.name), tag("span", f"photograph {place}"), class_="who")
    if one.unreadable is not None:
        why = tag("p", f"No masses: {one.unreadable}.", class_="warned", role="alert")
        return tag("article", who, why, class_="shot")
    unlike = [] if one.unlike_percentile is None else [_likeness(one, drawn)]
    odd = "Another shape than the photographs that were trained on: trust its masses less."
    return tag(
        "article",
        who,
        *([] if drawn is None else [_photograph(drawn, one.name)]),
        _masses(one.masses, answer, ends),
        *([tag("p", odd, class_="warned")] if one.odd_shape else []),
        *unlike,
        *([] if drawn is None or not drawn.maps else [_maps(drawn.maps, one.name)]),
        class_="shot",
    )


def _photograph(drawn: Pictures, name: str) -> Html:
    return tag("div", _image(drawn.photograph, f"{name}, {drawn.photograph.caption}"), class_="pictures")


def _maps(maps: Sequence[Picture], name: str) -> Html:
    figures = [tag("figure", _image(one, f"{name}: {one.caption}"), tag("figcaption", one.caption)) for one in maps]
    title = "Density over the picture" if "density" in maps[0].caption else "Where a model looked"
    return tag("details", tag("summary", title), *figures, class_="map")


def _image(picture: Picture, text: str) -> Html:
    return tag("img", src=picture.uri, alt=text, width=picture.width, height=picture.height)


def _masses(masses: Sequence[Mass], answer: Answer, ends: Mapping[str, float]) -> Html:
    levels = [one.level for one in masses[0].intervals] if masses else []
    head = [tag("th", _unit(answer), scope="col"), tag("th", "mass", scope="col")]
    head += [tag("th", f"{level:.0%}", scope="col") for level in levels]
    rows = []
    for one in masses:
        name = MASS_NAMES.get(one.target, "total")
        cells = [tag("th", name, scope="row"), tag("td", tag("b", _mass(one.mass)))]
        for each in one.intervals:
            known = each.low is not None and each.high is not None
            text = f"{_mass(each.low)}{DASH}{_mass(each.high)}" if known else "not enough dates"
            cells.append(tag("td", text))
        bar = tag("td", _bar(one, ends[one.target]), colspan=len(head))
        rows += [tag("tr", *cells, class_="total" if one.target == TOTAL else None), tag("tr", bar, class_="bars")]
    return tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows))


def _bar(mass: Mass, end: float) -> Html:
    """Interval and mass on the scale that a component has in all photographs."""
    marks = []
    wide = [each for each in mass.intervals if each.low is not None and each.high is not None]
    for each in sorted(wide, key=lambda one: -one.level):
        assert each.low is not None and each.high is not None
        left, right = (BAR_WIDTH * value / end for value in (each.low, each.high))
        marks.append(
            tag("rect", x=f"{left:.2f}", y="2", width=f"{max(right - left, 0.5):.2f}", height="4", class_="interval")
        )
    at = f"{BAR_WIDTH * mass.mass / end:.2f}"
    marks.append(tag("rect", x=at, y="0", width="1.2", height=str(BAR_HEIGHT), class_="mass"))
    return tag(
        "svg",
        *marks,
        viewBox=f"0 0 {BAR_WIDTH + 2} {BAR_HEIGHT}",
        preserveAspectRatio="none",
        class_="bar",
        aria_hidden="true",
    )


def _scale_ends(read: Sequence[Answered]) -> dict[str, float]:
    """Of each component's bars: the largest number of any photograph."""
    ends: dict[str, float] = {}
    for photograph in read:
        for one in photograph.masses:
            highs = [each.high for each in one.intervals if each.high is not None]
            ends[one.target] = max(ends.get(one.target, 0.0), one.mass, *highs)
    return {name: end or 1.0 for name, end in ends.items()}


def _likeness(one: Answered, drawn: Pictures | None) -> Html:
    assert one.unlike_percentile is not None
    share = f"{one.unlike_percentile:.0f} of 100 training photographs are nearer to those of other dates"
    if one.unlike:
        said = tag("p", tag("b", "Unlike the training photographs: "), f"more than {UNLIKE:.0f} of 100 of them are ",
                   "nearer to those of other dates. Trust its masses less.", class_="warned")  # fmt: skip
    else:
        said = tag("p", f"Like the training photographs ({share}).", class_="about")
    nearest = drawn.neighbours if drawn is not None and drawn.neighbours else ((one.nearest or NONE, None),)
    near = [
        tag("li", *([] if picture is None else [_image(picture, f"training photograph {name}")]), tag("span", name))
        for name, picture in nearest
    ]
    shown = tag("ul", *near, class_="near with-pictures" if any(picture for _, picture in nearest) else "near")
    return tag("div", said, tag("p", "Nearest training photographs:", class_="about"), shown, class_="likeness")


def _mass(value: float | None) -> str:
    return NONE if value is None else number(value, 1 if abs(value) < 100 else 0)


def _unit(answer: Answer) -> str:
    return answer.unit.replace("m2", "m²").replace(" ", GAP)


@cache
def style() -> str:
    """The report's, its dark colours wherever the system asks for them, and the form's own."""
    report = files("orchestration.report").joinpath("page.css").read_text(encoding="utf-8")
    dark = _DARK.search(report)
    assert dark is not None
    own = files("orchestration.serving").joinpath("page.css").read_text(encoding="utf-8")
    return f"{report}\n@media (prefers-color-scheme: dark) {{ :root {{{dark[1]}}} }}\n{own}"


@cache
def script() -> str:
    return files("orchestration.serving").joinpath("page.js").read_text(encoding="utf-8")
