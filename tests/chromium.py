"""A headless Chromium, driven through chromedriver's WebDriver protocol; skips without one.

Needs the Debian packages chromium and chromium-driver, or what else has these commands.
"""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Browser:
    """An open browser."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, page: Path) -> None:
        """Load a file and wait until its scripts have run. What was logged before is dropped."""
        self.errors()
        self.requests()
        self._post("url", url=page.resolve().as_uri())

    def run(self, script: str) -> Any:
        """Run JavaScript in the page; what it returns."""
        return self._post("execute/sync", script=script, args=[])

    def errors(self) -> list[str]:
        """What the page's console has of errors, those of its policy included."""
        return [entry["message"] for entry in self._post("se/log", type="browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for, the page's own among them."""
        log = [
            json.loads(e["message"])["message"] for e in self._post("se/log", type="performance")
        ]
        sent = [e["params"] for e in log if e["method"] == "Network.requestWillBeSent"]
        return [e["request"]["url"] for e in sent]

    def _post(self, command: str, **body: Any) -> Any:
        return _post(f"{self._session}/{command}", body)


@contextmanager
def chromium(width: int = 1200, height: int = 900) -> Iterator[Browser]:
    """A browser with a window of this size in pixels."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("chromium and chromedriver aren't installed (apt install chromium-driver)")
    port = _free_port()
    server = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)
    try:
        yield Browser(_session(f"http://127.0.0.1:{port}/session", browser, (width, height)))
    finally:
        # Ends its browser, too.
        _post(f"http://127.0.0.1:{port}/shutdown", None)
        server.wait(10)


def _session(url: str, browser: str, size: tuple[int, int]) -> str:
    """Start a session, once the driver listens; its address."""
    options = {
        "binary": browser,
        "args": ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 f"--window-size={size[0]},{size[1]}"],
    }  # fmt: skip
    logs = {"browser": "SEVERE", "performance": "ALL"}
    capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": logs}
    deadline = time.monotonic() + 20
    while True:
        try:
            made = _post(url, {"capabilities": {"alwaysMatch": capabilities}})
            return f"{url}/{made['sessionId']}"
        except (ConnectionError, urllib.error.URLError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _post(url: str, body: Any) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"{}").get("value")


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
