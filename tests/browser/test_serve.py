"""`biomass serve` as a person uses it: a process of its own, a real browser on a phone's screen, Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import served
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from test_report import CONTRAST
from test_serving import world  # noqa: F401  a blend of a probe and a family with maps

ROOT = Path(__file__).parents[2]
PATIENCE = 60  # seconds, on a busy machine
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
STILL = [{"name": "prefers-reduced-motion", "value": "reduce"}]  # what is clicked does not move
PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 25, 31)"}
pytestmark = pytest.mark.long


serving = partial(served.serving, "serve")


@pytest.fixture
def phone(browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": STILL})
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def send(browser: webdriver.Chrome, *files: Path) -> None:
    browser.find_elements(By.CSS_SELECTOR, "input[type=file]")[-1].send_keys("\n".join(map(str, files)))
    browser.find_element(By.CSS_SELECTOR, ".go").click()
    WebDriverWait(browser, PATIENCE).until(lambda page: page.find_elements(By.CSS_SELECTOR, "article"))


@pytest.mark.parametrize("scripted", [True, False])
def test_photographs_masses_maps_and_table(
    world: tuple[Any, Path],  # noqa: F811
    tiny_pasture: Path,
    phone: webdriver.Chrome,
    console_errors: Callable[[], list[str]],
    tmp_path: Path,
    scripted: bool,
) -> None:
    """With JavaScript and without it; with a text called .jpg among the photographs."""
    first, second, *_ = sorted((tiny_pasture / "test").iterdir())
    (tmp_path / "note.jpg").write_text("no photograph")
    (tmp_path / "loads").mkdir()
    with serving(world[1] / "study", tmp_path / "tmp", "--data", str(tiny_pasture)) as (process, addresses):
        phone.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripted})
        phone.get(addresses["page"])
        send(phone, first, second, tmp_path / "note.jpg")
        shots = phone.find_elements(By.TAG_NAME, "article")
        assert [shot.find_element(By.TAG_NAME, "b").text for shot in shots] == [first.name, second.name, "note.jpg"]
        assert "another file note.jpg" in shots[2].text and "No masses" in shots[2].text
        shots[0].find_element(By.TAG_NAME, "summary").click()
        (green, *_), pictures = (shots[0].find_elements(By.CSS_SELECTOR, css) for css in ("figure img", "img"))
        WebDriverWait(phone, PATIENCE).until(lambda _: green.is_displayed() and green.size["width"] > 250)
        sizes = [int(picture.get_property("naturalWidth") or 0) for picture in pictures]
        assert len(sizes) == 1 + 3 + 3 and min(sizes) > 50  # photograph, neighbours, maps
        width = phone.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]["width"]
        assert width <= PHONE["width"], "nothing is wider than the screen"
        loads = {"behavior": "allow", "downloadPath": str(tmp_path / "loads")}
        phone.execute_cdp_cmd("Browser.setDownloadBehavior", loads)
        link = phone.find_element(By.CSS_SELECTOR, "a[download]")
        link.click()
        table = tmp_path / "loads/masses.csv"
        WebDriverWait(phone, PATIENCE).until(lambda _: table.exists())
        found = pd.read_csv(table)
        assert found["photograph"].tolist() == [first.name, second.name, "note.jpg"]
        for row, shot in enumerate(shots[:2]):
            assert f"{found['Dry_Total_g'][row]:.1f}" in shot.find_element(By.CSS_SELECTOR, ".total").text
        assert console_errors() == []
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["log"]  # nothing of a request stays


def test_the_page_follows_the_systems_colours(
    world: tuple[Any, Path],  # noqa: F811
    tiny_pasture: Path,
    phone: webdriver.Chrome,
    tmp_path: Path,
) -> None:
    """Form and answer, on a phone: every text can be read, and nothing is wider than the screen."""
    (tmp_path / "note.jpg").write_text("no photograph")

    def system(scheme: str) -> None:
        features = [*STILL, {"name": "prefers-color-scheme", "value": scheme}]
        phone.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def require_readable(scheme: str, texts: int) -> None:
        paper = "return getComputedStyle(document.body).backgroundColor"
        assert phone.execute_script(paper) == PAPER[scheme]
        seen, bad = phone.execute_script(CONTRAST)
        assert seen >= texts and bad == []
        assert phone.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]

    with serving(world[1] / "study", tmp_path / "tmp") as (_, addresses):
        system("dark")
        phone.get(addresses["page"])
        require_readable("dark", 10)
        send(phone, *sorted((tiny_pasture / "test").iterdir())[:2], tmp_path / "note.jpg")
        for summary in phone.find_elements(By.CSS_SELECTOR, "article summary"):
            summary.click()
        for scheme in ("dark", "light"):
            system(scheme)
            require_readable(scheme, 30)


def test_a_token_opens_the_page(world: tuple[Any, Path], phone: webdriver.Chrome, tmp_path: Path) -> None:  # noqa: F811
    with serving(world[1] / "study", tmp_path / "tmp", "--host", "0.0.0.0") as (process, addresses):
        port = addresses["predict"].rsplit(":", 1)[1].split("/")[0]
        phone.delete_all_cookies()
        phone.get(f"http://127.0.0.1:{port}/")
        field = phone.find_element(By.NAME, "token")
        field.send_keys(addresses["token"])
        field.submit()
        WebDriverWait(phone, PATIENCE).until(lambda page: page.find_elements(By.ID, "ask"))
        assert "token=" not in phone.current_url
        assert "warning: with --host 0.0.0.0" in (tmp_path / "tmp/log").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
