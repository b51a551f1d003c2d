"""The picture of the page for the field in the README: a phone's screen, on drawn pasture.

    biomass demo demo
    python tests/browser/picture_serve.py demo docs/serve.png

Serves the demo's study, sends the first two test photographs in a real Chromium of 390 px, opens the first one's map if
it has one, and writes what the screen shows. Needs Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import argparse
import base64
import io
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/orchestration"), str(ROOT / "tests/browser")]
from conftest import SWITCHES  # noqa: E402
from served import serving  # noqa: E402

WIDTH, SCALE = 390, 1.5  # CSS pixels of a phone's screen, and dots of each
COLOURS = 80  # of the picture, which then is small
PATIENCE = 300  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder of `biomass demo`")
    parser.add_argument("out", type=Path, help="picture to write, .png")
    asked = parser.parse_args()
    photographs = sorted((asked.demo / "data/test").iterdir())[:2]
    with tempfile.TemporaryDirectory() as folder:
        options = ("--data", str(asked.demo / "data"))
        with serving("serve", asked.demo / "study", Path(folder, "tmp"), *options) as (process, addresses):
            shot = screen(addresses["page"], photographs, Path(folder, "browser"))
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
    picture = Image.open(io.BytesIO(shot)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(asked.out, optimize=True)
    print(f"{asked.out}: {picture.width} x {picture.height} px, {asked.out.stat().st_size / 1000:.0f} kB")


def screen(page: str, photographs: list[Path], folder: Path) -> bytes:
    """PNG of the answer's first photograph, masses and map."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert program and driver, "apt-get install chromium chromium-driver"
    options = Options()
    options.binary_location = program
    for switch in (*SWITCHES, f"--user-data-dir={folder}"):
        options.add_argument(switch)
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        size = {"width": WIDTH, "height": 844, "deviceScaleFactor": SCALE, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        still = [{"name": "prefers-reduced-motion", "value": "reduce"}]  # what is clicked does not move
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": still})
        browser.get(page)
        browser.find_elements(By.CSS_SELECTOR, "input[type=file]")[-1].send_keys("\n".join(map(str, photographs)))
        browser.find_element(By.CSS_SELECTOR, ".go").click()
        WebDriverWait(browser, PATIENCE).until(lambda one: one.find_elements(By.TAG_NAME, "article"))
        shot = browser.find_element(By.TAG_NAME, "article")
        for summary in shot.find_elements(By.TAG_NAME, "summary")[:1]:
            summary.click()
        WebDriverWait(browser, PATIENCE).until(lambda _: shot.size["height"] > 0)
        bottom = shot.location["y"] + shot.size["height"]
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": bottom + 12, "scale": 1}
        found = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        return base64.b64decode(found["data"])
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
