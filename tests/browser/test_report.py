"""The report in a real browser: every drawing is there, tables sort, text can be read, nothing leaves the page."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from told_study import told_study

from orchestration.report.make import make_report

pytestmark = pytest.mark.slow

HOSTILE = '<script>document.title="taken"</script><img src=x onerror="document.title=1">'
STATUSES = ("complete",) * 9 + ("pruned", "pruned", "failed", "open")
MOST_BYTES = 10_000_000

# Contrast of every visible text with what lies behind it. Numbers in heat maps are black or white on colours that the
# page's own code mixes: test_report_pieces holds those.
CONTRAST = """
const numbers = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => {
  const line = [r, g, b].map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * line[0] + 0.7152 * line[1] + 0.0722 * line[2];
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const [r, g, b, a = 1] = numbers(getComputedStyle(at).backgroundColor);
    if (a === 1) return [r, g, b];
  }
  return [255, 255, 255];
};
const bad = [];
let seen = 0;
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const element = walk.currentNode.parentElement;
  if (!walk.currentNode.textContent.trim() || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName)) continue;
  if (!element.getClientRects().length) continue;
  const drawn = element instanceof SVGElement, style = getComputedStyle(element);
  const colour = numbers(drawn ? style.fill : style.color).slice(0, 3);
  if (drawn && (style.fill === "none" || ["0,0,0", "255,255,255"].includes(String(colour)))) continue;
  const pair = [light(colour), light(behind(element))].sort((a, b) => a - b);
  seen += 1;
  const said = walk.currentNode.textContent.trim().slice(0, 40);
  if ((pair[1] + 0.05) / (pair[0] + 0.05) < 4.5) bad.push([said, String(colour)]);
}
return [seen, bad];
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with all that a report can show, hostile names among it, and photographs."""
    folder = tmp_path_factory.mktemp("report")
    families = ("probe", "baseline", "distilled")
    ledger = told_study(
        folder / "study", statuses=STATUSES, families=families, species=HOSTILE, reason=f"fold 0: {HOSTILE}", looks=True
    )
    other = told_study(folder / "random", scheme="random", families=families, quadrats=ledger.quadrats())
    (folder / "data" / "train").mkdir(parents=True)
    for name in ledger.quadrats()["image_id"]:
        Image.new("RGB", (400, 200), (60, 120, 40)).save(folder / "data" / "train" / f"{name}.jpg")
    page = folder / "report.html"
    page.write_text(make_report(ledger, folder / "data", [other]), encoding="utf-8")
    return page


def _open(browser: webdriver.Chrome, page: Path, theme: str = "light") -> None:
    browser.get("about:blank")  # a new hash alone would not load the page again
    browser.get(f"{page.as_uri()}#theme-{theme}")
    limit = time.monotonic() + 60
    while browser.execute_script("return document.documentElement.dataset.drawn") != "yes":
        assert time.monotonic() < limit, "the page is not drawn after 60 s"
        time.sleep(0.05)


def test_every_drawing_is_there_and_the_console_is_silent(
    browser: webdriver.Chrome, report: Path, console_errors: Callable[[], list[str]]
) -> None:
    _open(browser, report)
    assert console_errors() == []
    marks = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map((plot) => ["
        " plot.closest('figure').querySelector('h3').textContent,"
        " plot.querySelectorAll('svg .role-mark path, svg .role-mark text, svg .role-mark line').length,"
        " plot.querySelector('svg')?.getBoundingClientRect().width ?? 0, plot.clientWidth])"
    )
    assert len(marks) > 25
    for title, drawn, width, room in marks:
        assert drawn > 0, title
        assert 0.5 * room < width <= room + 1, title
    figures = browser.find_elements(By.CSS_SELECTOR, "figure.chart")
    assert all(figure.find_elements(By.CSS_SELECTOR, "h3, .how") for figure in figures)


def test_nothing_leaves_the_page(browser: webdriver.Chrome, report: Path) -> None:
    _open(browser, report)
    asked = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in asked if not name.startswith("data:")] == []
    linked = browser.execute_script(
        "return [...document.querySelectorAll('[src], link[href], a[href]')]"
        ".map((each) => each.getAttribute('src') ?? each.getAttribute('href'))"
    )
    assert linked and all(link.startswith(("data:", "#")) for link in linked)
    assert report.stat().st_size < MOST_BYTES


def test_what_data_says_is_shown_and_not_run(browser: webdriver.Chrome, report: Path) -> None:
    _open(browser, report)
    assert "pasture biomass study" in browser.title
    assert HOSTILE in browser.find_element(By.ID, "search").text
    assert not browser.find_elements(By.CSS_SELECTOR, "img[src='x']")


def test_thumbnails_load_and_attention_lies_beside_them(browser: webdriver.Chrome, report: Path) -> None:
    _open(browser, report)
    widths = browser.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert len(widths) == 2 * 24 and min(widths) > 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(browser: webdriver.Chrome, report: Path, theme: str) -> None:
    _open(browser, report, theme)
    seen, bad = browser.execute_script(CONTRAST)
    assert seen > 500 and bad == []


def test_tables_sort_by_click_and_by_key(browser: webdriver.Chrome, report: Path) -> None:
    _open(browser, report)
    table = browser.find_element(By.CSS_SELECTOR, "#standing table.sortable")

    def column(index: int) -> list[Any]:
        script = (
            "const [table, index] = arguments; return [...table.tBodies[0].rows].map((row) => row.cells[index])"
            ".map((cell) => cell.dataset.sort ?? cell.textContent)"
        )
        return browser.execute_script(script, table, index)

    browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})", table)
    buttons = table.find_elements(By.CSS_SELECTOR, "th button")
    before = column(0)
    buttons[0].click()
    assert column(0) == sorted(before, key=str.lower) and column(0) != before
    buttons[0].click()
    assert column(0) == sorted(before, key=str.lower, reverse=True)
    buttons[3].send_keys(Keys.ENTER)  # the score: best first, what has none comes last
    scores = [float(value) for value in column(3) if value not in ("–", "")]
    assert scores == sorted(scores, reverse=True) and len(scores) < len(before)
    heads = table.find_elements(By.TAG_NAME, "th")
    assert [head.get_attribute("aria-sort") for head in heads].count("descending") == 1


def test_the_theme_follows_the_system_and_the_button(browser: webdriver.Chrome, report: Path) -> None:
    def paper() -> str:
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    def system(scheme: str) -> None:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    try:
        system("light")
        _open(browser, report, "automatic")
        light = paper()
        axis = "return getComputedStyle(document.querySelector('.role-axis-label text')).fill"
        ink = browser.execute_script(axis)
        system("dark")
        WebDriverWait(browser, 10).until(lambda _: paper() != light)  # the page hears of it by an event
        assert browser.execute_script(axis) != ink
        button = browser.find_element(By.ID, "theme")
        button.click()
        assert "light" in button.text and paper() == light
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_phone_shows_the_page_without_scrolling_sideways(browser: webdriver.Chrome, report: Path) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        _open(browser, report)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_an_empty_study_has_a_clear_page(
    browser: webdriver.Chrome, tmp_path: Path, console_errors: Callable[[], list[str]]
) -> None:
    page = tmp_path / "empty.html"
    page.write_text(make_report(told_study(tmp_path / "study", statuses=())), encoding="utf-8")
    _open(browser, page)
    assert console_errors() == []
    assert "Nothing was tried yet" in browser.find_element(By.TAG_NAME, "h1").text
