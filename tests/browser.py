"""A page in a real browser, without a window; the test is skipped where there is none."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

WIDTHS = (400, 1300, 1900)
# What is written beyond its own cell or box stands on what is beside it.
OVERPRINTED = """
const found = [];
for (const box of document.querySelectorAll("h1, h2, h3, th, td, .facts li, figcaption")) {
  const words = document.createRange();
  words.selectNodeContents(box);
  const [inner, outer] = [words.getBoundingClientRect(), box.getBoundingClientRect()];
  if (inner.width && (inner.right > outer.right + 1 || inner.left < outer.left - 1 || inner.bottom > outer.bottom + 1))
    found.push(box.tagName + " " + box.textContent.trim());
}
return found
"""
BROKEN_PICTURES = "return [...document.images].filter(image => !image.complete || !image.naturalWidth).length"


class Browser:
    """Headless Chromium of a width in pixels."""

    def __init__(self, width: int) -> None:
        webdriver = pytest.importorskip("selenium.webdriver")
        browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        driver = shutil.which("chromedriver")
        if browser is None or driver is None:
            pytest.skip("there is no Chromium with its driver here")
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for each in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
            options.add_argument(each)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self.resize(width)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        self._driver.quit()

    def resize(self, width: int) -> None:
        """Sets the width of its window in pixels."""
        # A headless window is not narrower than 500 pixels unless it is told so.
        size = {"width": width, "height": 1200, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def open(self, page: Path | str) -> None:
        """Opens a file or an address."""
        self._driver.get(page.resolve().as_uri() if isinstance(page, Path) else page)

    def choose(self, field: str, *files: Path) -> None:
        """Chooses files in a field for uploads, named by its CSS selector."""
        self._driver.find_element("css selector", field).send_keys("\n".join(map(str, files)))

    def run(self, script: str) -> Any:
        """What a script returns."""
        return self._driver.execute_script(script)

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(self.run("return document.documentElement.scrollWidth - window.innerWidth"))

    def errors(self) -> list[str]:
        """What the console was told as an error since the last time."""
        return [str(entry["message"]) for entry in self._driver.get_log("browser") if entry["level"] == "SEVERE"]

    def check(self, page: Path) -> None:
        """Opens a report at every width: nothing overflows, overprints, is missing or fails, and sliders work."""
        self.errors()
        for width in WIDTHS:
            self.resize(width)
            self.open(page)
            assert self.overflow() <= 0, f"{width}: {self.overflow()} pixels too wide"
            assert self.run(OVERPRINTED) == [], width
            assert self.run(BROKEN_PICTURES) == 0
            self._slide()
            assert self.errors() == [], width
        self.open("about:blank")  # what plays on takes time from the tests that follow

    def _slide(self) -> None:
        """Moves every slider of the page to the middle and to the end."""
        for player in range(self.run("return document.querySelectorAll('.player').length")):
            find = f"const player = document.querySelectorAll('.player')[{player}]; "
            words = json.loads(self.run(f"{find}return player.dataset.words || 'null'"))
            for value in (500, 1000):
                share = value / 1000
                told = words[int(share * (len(words) - 1) + 0.5)] if words else f"u = {share:.2f}"
                self.run(
                    f"{find}const slider = player.querySelector('input'); slider.value = {value}; "
                    "slider.dispatchEvent(new Event('input'))"
                )
                assert self.run(f"{find}return player.querySelector('output').textContent") == told
            last = f"{find}return [...player.querySelectorAll('.screen')].map(s => s.style.backgroundPositionX)"
            assert set(self.run(last)) <= {"100%", "0"}
            self.run(f"{find}player.querySelector('button').click()")
            assert self.run(f"{find}return player.querySelector('button').textContent") == "Pause"


_shared: list[Browser] = []


def check_page(page: Path) -> None:
    """Holds a report against `Browser.check`, in the browser that all tests of a process share; see `conftest`."""
    if not _shared:
        _shared.append(Browser(WIDTHS[0]))
    _shared[0].check(page)


def close_shared() -> None:
    """Ends the shared browser, if there is one."""
    while _shared:
        _shared.pop().__exit__()
