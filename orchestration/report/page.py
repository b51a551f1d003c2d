"""The page: title, answers, sections, style and script in one file that needs no network.

Its content security policy forbids every request: what the page does not carry, it cannot load.
"""

from __future__ import annotations

import time
from functools import cache
from importlib.resources import files

import vl_convert

from orchestration.report.charts import CONFIG
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Html, Section, embed_json, join, tag
from orchestration.report.sections.answers import answers, facts_line, headline, run_line
from orchestration.report.words import moment

# Vega compiles its expressions into functions, hence 'unsafe-eval'; nothing may come from elsewhere
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"


def page(context: ReportContext, sections: tuple[Section, ...]) -> str:
    """The whole document."""
    title = f"{context.study.name}: pasture biomass study"
    links = [tag("a", section.short, href=f"#{section.anchor}") for section in sections]
    theme = tag("button", "Theme: automatic", id="theme", type="button", aria_label="Change the colour theme")
    body = join(
        tag("a", "Skip to the answers", href="#answers", class_="skip"),
        tag("nav", tag("div", *links), theme, aria_label="Sections"),
        tag(
            "main",
            tag(
                "header",
                tag("p", f"Study {context.study.name}", class_="kicker"),
                tag("h1", headline(context)),
                *([] if context.exam is None else [tag("p", tag("strong", context.exam), class_="facts")]),
                tag("p", facts_line(context), class_="facts"),
                tag("p", run_line(context), class_="facts"),
                *(tag("p", f"Note: {notice}", class_="aside") for notice in context.notices),
                answers(context),
                id="answers",
            ),
            tag("noscript", tag("p", "The drawings need JavaScript; words and tables do not.", class_="aside")),
            *(section.html() for section in sections),
            tag("footer", tag("p", f"Made from the study's files by biomass report at {moment(time.time())}.")),
        ),
    )
    head = join(
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Html('<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'),
        tag("title", title),
        tag("style", Html(_asset("page.css"))),
    )
    scripts = join(
        tag("script", embed_json(CONFIG), type="application/json", id="chart-config"),
        tag("script", Html(_inside_script(_vega()))),
        tag("script", Html(_inside_script(_asset("page.js")))),
    )
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>{body}{scripts}</body>\n</html>\n'


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed, 0.9 MB of JavaScript."""
    return vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub forgets that the snippet is optional


def _asset(name: str) -> str:
    return files("orchestration.report").joinpath(name).read_text(encoding="utf-8")


def _inside_script(code: str) -> str:
    """JavaScript without the one sequence that would end its element."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
