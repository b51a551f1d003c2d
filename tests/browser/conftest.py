"""A real Chromium without a screen, for pages that people look at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
    "--force-device-scale-factor=1",
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Debian's Chromium and ChromeDriver; without them the test is skipped, unless BIOMASS_BROWSER=required (CI)."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        text = "these tests need Debian's chromium and chromium-driver: apt-get install chromium chromium-driver"
        if os.environ.get("BIOMASS_BROWSER") == "required":
            pytest.fail(text)
        pytest.skip(text)
    options = Options()
    options.binary_location = program
    for switch in SWITCHES:
        options.add_argument(switch)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    chrome.set_page_load_timeout(60)
    yield chrome
    chrome.quit()


@pytest.fixture
def console_errors(browser: webdriver.Chrome) -> Callable[[], list[str]]:
    """What the browser's console says in severe tone since it was last asked."""
    browser.get_log("browser")
    return lambda: [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
