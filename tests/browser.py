"""A page in a real browser, without a window; the test is skipped where there is none."""

import shutil
from pathlib import Path
from typing import Any

import pytest


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
        options.add_argument(f"--window-size={width},1200")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        # A headless window is not narrower than 500 pixels unless it is told so.
        self._driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 1200, "deviceScaleFactor": 1, "mobile": False},
        )

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        self._driver.quit()

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
        """What the console was told as an error."""
        return [str(entry["message"]) for entry in self._driver.get_log("browser") if entry["level"] == "SEVERE"]
