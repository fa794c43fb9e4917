"""A running `finery review`, asked over HTTP as its page does, or in a browser."""

import json
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from chromium import driving, errors_of
from conftest import Project
from loopback import Answer, send
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from finery.rows import Row, with_id

STEPS = '''
import json
import re
from finery import Dataset, Files, Job, Step, hookimpl, setting

class Raw(Step, seeded=False):
    """Rows as they are in a file."""

    path: Files = setting(help="The file.")

    def run(self, job: Job) -> Dataset:
        with self.path.paths[0].open("rb") as lines:
            made = Dataset.write(job.out, (json.loads(line) for line in lines))
        beside = self.path.paths[0].with_name("generated.jsonl")
        if beside.exists():
            (job.out / beside.name).write_bytes(beside.read_bytes())
        return made

@hookimpl
def finery_steps():
    return {"steps.raw": Raw}
'''
RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  rows: {use: steps.raw, path: rows.jsonl}
  reviewed: {use: review.apply, rows: rows, reviews: reviews/rows.jsonl}
"""


def chat(user: str, answer: str = "an answer", **more: Any) -> Row:
    """A row with two turns."""
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return with_id({"messages": turns, **more})


def pair(number: int) -> Row:
    """A preference."""
    made = {"prompt": f"question {number}", "chosen": f"good {number}", "rejected": f"bad {number}"}
    return with_id(made)


def files_of(rows: list[Row], recipe: str = RECIPE) -> dict[str, str]:
    """The files of a project with these rows."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return {"recipe.yaml": recipe, "steps.py": STEPS, "rows.jsonl": lines}


def built_in(folder: Path, files: Mapping[str, str]) -> Project:
    """A project in a folder, built: for several tests that only look."""
    (folder / ".git").mkdir()
    made = Project(folder)
    made.write(files)
    made.ran()
    return made


def decisions(project: Project, name: str = "rows") -> list[dict[str, Any]]:
    """The lines of a file of decisions."""
    path = project.folder / f"reviews/{name}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


class Review:
    """A running `finery review`."""

    def __init__(self, project: Project, *args: str) -> None:
        self.process = project.start("review", *args)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), self.process.communicate()
        parts = urlsplit(self.address)
        self.host, self.port = str(parts.netloc), int(parts.port or 0)
        self.token = parse_qs(parts.query)["token"][0]

    @property
    def cookie(self) -> str:
        """What the page's requests carry."""
        return f"finery-review-{self.port}={self.token}"

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str | None
    ) -> Answer:
        """A request as the page makes it, but for `headers` (`content_type`), None: without it."""
        given: dict[str, str | None] = {"host": self.host, "cookie": self.cookie}
        if method == "POST":
            given |= {"origin": f"http://{self.host}", "content-type": "application/json"}
        if body is not None:
            given |= {"content-length": str(len(body))}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return send(self.port, method, path, given, body)

    def get(self, path: str, **query: Any) -> Any:
        """What an address answers, which must be well."""
        answer = self.ask(f"{path}?{urlencode(query)}")
        assert answer.status == 200, answer
        return answer.json()

    def decide(self, row: int, do: str, seen: str | None = None, **more: Any) -> Answer:
        """Decide on a row, having seen what is decided now unless `seen` says otherwise."""
        state = self.get("/api/row", row=row)
        wish = {"row": row, "id": state["id"], "do": do, "seen": state["seen"], **more}
        if seen is not None:
            wish["seen"] = seen
        return self.ask("/api/decide", method="POST", body=json.dumps(wish).encode())

    def end(self) -> tuple[int, str, str]:
        """Press Ctrl-C; the exit code and what was printed since the address."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


@contextmanager
def reviewing(project: Project, *args: str) -> Iterator[Review]:
    """A review that ends with the block."""
    made = Review(project, *(args or ("rows",)))
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
        made.process.communicate()


class Window:
    """A browser window with the page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        """Load the page, and wait until it shows a row, the table, or that there is nothing."""
        self.driver.get(address)
        self.until(lambda: self.title() or self.all(".spacer .line"))

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        for key in keys:
            webdriver.ActionChains(self.driver).send_keys(key).perform()

    def paste(self, text: str) -> None:
        """Insert a text wherever the focus is, at once."""
        self.driver.execute_cdp_cmd("Input.insertText", {"text": text})

    def chord(self, held: str, key: str) -> None:
        """Press a key while another is held."""
        chain = webdriver.ActionChains(self.driver)
        chain.key_down(held).send_keys(key).key_up(held).perform()

    def all(self, selector: str) -> list[WebElement]:
        """The elements that fit."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The text of the first element that fits, hidden or not; empty where there is none."""
        script = "return document.querySelector(arguments[0])?.textContent ?? ''"
        return str(self.driver.execute_script(script, selector))

    def run(self, script: str, *args: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *args)

    def title(self) -> str:
        """The title of what is shown: `Row 3`."""
        return self.text("#row-title")

    def at(self, title: str, status: str | None = None) -> None:
        """Wait until a row is shown, with a status."""
        self.until(lambda: self.title() == title)
        if status is not None:
            self.until(lambda: self.text(".head .status") == status)

    def until(self, true: Any) -> None:
        """Wait until something is true; tells what the page says where it never is."""
        try:
            WebDriverWait(self.driver, 120, poll_frequency=0.05).until(lambda _: true())
        except Exception as error:
            said = [self.text(s) for s in ("#row-title", ".head .status", "#alert", "#live")]
            raise AssertionError(f"waited too long; the page says {said}") from error

    def choose(self, status: str) -> None:
        """Show the rows with a status, as a person with a keyboard does."""
        self.press("f", status[:3], Keys.ENTER)

    def errors(self) -> list[str]:
        """The errors of the console since the last call, but of a server that ended."""
        return [message for message in errors_of(self.driver) if not _ENDED.search(message)]


_ENDED = re.compile(r"net::ERR_(CONNECTION_|SOCKET_NOT_CONNECTED|EMPTY_RESPONSE)")


@contextmanager
def window(width: int = 1280, height: int = 900) -> Iterator[Window]:
    """A headless Chromium; skips where there is none."""
    with driving(width, height) as driver:
        yield Window(driver)


__all__ = ["Path", "Review", "Window", "chat", "pair", "reviewing", "window"]
