"""A headless Chromium, driven through chromedriver; skips without one.

Needs the Debian packages chromium and chromium-driver, or what else has these commands.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Browser:
    """An open browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def open(self, page: Path) -> None:
        """Load a file and wait until its scripts have run. What was logged before is dropped."""
        self.errors()
        self.requests()
        self._driver.get(page.resolve().as_uri())

    def run(self, script: str) -> Any:
        """Run JavaScript in the page; what it returns."""
        return self._driver.execute_script(script)

    def errors(self) -> list[str]:
        """The errors in the page's console, those of its policy included."""
        return errors_of(self._driver)

    def requests(self) -> list[str]:
        """The addresses that were asked for, the page's own among them."""
        entries: list[dict[str, str]] = self._driver.get_log("performance")  # type: ignore[no-untyped-call]
        log = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [e["params"] for e in log if e["method"] == "Network.requestWillBeSent"]
        return [e["request"]["url"] for e in sent]


def errors_of(driver: webdriver.Chrome) -> list[str]:
    """The errors that the console has got since the last call."""
    log: list[dict[str, str]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in log if entry["level"] == "SEVERE"]


@contextmanager
def chromium(width: int = 1200, height: int = 900) -> Iterator[Browser]:
    """A browser with a window of this size in pixels."""
    with driving(width, height) as driver:
        yield Browser(driver)


@contextmanager
def driving(width: int, height: int) -> Iterator[webdriver.Chrome]:
    """The driver of a browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("chromium and chromedriver aren't installed (apt install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(driver, log_output=subprocess.DEVNULL)
    opened = webdriver.Chrome(options=options, service=service)
    try:
        yield opened
    finally:
        opened.quit()
