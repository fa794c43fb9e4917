"""The review's server over HTTP: who may ask, what is answered, what survives a kill."""

import json
import os
import pty
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from conftest import MakeProject, Project, until
from reviewing import Review, built_in, chat, decisions, files_of, reviewing

from finery_review.serving import server as server_module

pytestmark = pytest.mark.slow

ROWS = [chat(f"question {n}", f"answer {n}", label="xy"[n % 2]) for n in range(8)]
PATHS = [
    "/", "/main.js", "/style.css", "/api/review", "/api/list", "/api/row?row=0",
    "/api/summaries?rows=0", "/api/changes?generation=0&lines=0",
]  # fmt: skip
WISH = {"row": 0, "id": ROWS[0]["id"], "do": "accept", "seen": ""}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Review]:
    """A review for tests that decide nothing."""
    with reviewing(built_in(tmp_path_factory.mktemp("asked"), files_of(ROWS))) as found:
        yield found


@pytest.fixture
def made(built: MakeProject) -> Project:
    return built(files_of(ROWS))


@pytest.fixture
def review(made: Project) -> Iterator[Review]:
    with reviewing(made, "rows", "--reviewer", "Ann") as found:
        yield found


# -- who may ask ----------------------------------------------------------------------------------


@pytest.mark.quick
def test_every_address_needs_the_token(asked: Review) -> None:
    wrong = f"finery-review-{asked.port}={'x' * len(asked.token)}"
    for path in [*PATHS, "/nothing", "/api/decide"]:
        for cookie in (None, wrong, f"other={asked.token}", f"finery-review-{asked.port}="):
            assert asked.ask(path, cookie=cookie).status == 403, path
    assert asked.ask("/?token=wrong", cookie=None).status == 403
    assert asked.ask(f"/style.css?token={asked.token}", cookie=None).status == 403
    assert asked.ask(f"/api/review?token={asked.token}", cookie=None).status == 403
    assert [asked.ask(path).status for path in PATHS] == [200] * len(PATHS)


@pytest.mark.parametrize(
    "cookies",
    [
        'session={"a": 1, "b": [2, 3]}; {own}',
        "{name}=of-another-app; {own}",
    ],
)
def test_cookies_of_other_local_apps_lock_nobody_out(asked: Review, cookies: str) -> None:
    name = asked.cookie.partition("=")[0]
    cookie = cookies.replace("{own}", asked.cookie).replace("{name}", name)
    assert asked.ask("/api/review", cookie=cookie).status == 200


def test_the_printed_address_gives_a_cookie_that_no_other_site_can_use(asked: Review) -> None:
    answer = asked.ask(f"/?token={asked.token}", cookie=None, sec_fetch_site="cross-site")
    assert answer.status == 200
    name, *attributes = answer.headers["set-cookie"].split("; ")
    assert name == asked.cookie
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} == set(attributes)
    assert "set-cookie" not in asked.ask("/").headers
    assert len(asked.token) >= 43


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1",
     "localhost.evil.example:{port}", "0.0.0.0:{port}", "[::1]:{port}", "", None],
)  # fmt: skip
def test_other_hosts_are_refused(asked: Review, host: str | None) -> None:
    given = host.format(port=asked.port) if host is not None else None
    answer = asked.ask("/api/review", host=given)
    assert answer.status in (400, 403)
    assert b"total" not in answer.body
    assert asked.ask(f"/?token={asked.token}", host=given).status in (400, 403)


def test_two_hosts_in_one_request_are_refused(asked: Review) -> None:
    with socket.create_connection(("127.0.0.1", asked.port)) as raw:
        lines = f"GET /api/review HTTP/1.1\r\nHost: {asked.host}\r\nHost: evil.example\r\n"
        raw.sendall(f"{lines}Cookie: {asked.cookie}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split()[1] in (b"400", b"403")


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1", "https://127.0.0.1:{port}",
     "http://localhost.evil.example:{port}", "", None],
)  # fmt: skip
def test_decisions_of_other_origins_are_refused(asked: Review, origin: str | None) -> None:
    given = origin.format(port=asked.port) if origin is not None else None
    body = json.dumps(WISH).encode()
    assert asked.ask("/api/decide", method="POST", body=body, origin=given).status == 403
    assert asked.get("/api/review")["counts"] == {"undecided": len(ROWS)}
    if origin:
        assert asked.ask("/api/review", origin=given).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_other_pages_of_this_machine_load_is_refused(asked: Review, site: str) -> None:
    for path in PATHS:
        assert asked.ask(path, sec_fetch_site=site).status == 403
    assert asked.ask("/api/review", sec_fetch_site="same-origin").status == 200


def test_nothing_but_json_is_taken_and_nothing_but_post_decides(asked: Review) -> None:
    body = json.dumps(WISH).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        answer = asked.ask("/api/decide", method="POST", body=body, content_type=kind)
        assert answer.status == 415
    assert asked.ask("/api/decide").status == 405
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert asked.ask("/api/decide", method=method, body=body).status in (403, 405)


def test_every_answer_says_that_nothing_foreign_may_run(asked: Review) -> None:
    for path in [*PATHS, "/nothing"]:
        for cookie in (asked.cookie, None):
            headers = asked.ask(path, cookie=cookie).headers
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
            assert "unsafe" not in policy
            assert "*" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert "access-control-allow-origin" not in headers


def test_no_file_but_the_page_is_served(asked: Review) -> None:
    for path in ("/../recipe.yaml", "/..%2frecipe.yaml", "/%2e%2e/%2e%2e/etc/passwd", 
                 "/page/main.js", "//etc/passwd", "/server.py"):  # fmt: skip
        assert asked.ask(path).status == 404


def test_the_page_holds_no_foreign_address_and_inserts_no_html() -> None:
    folder = Path(server_module.__file__).parents[1] / "page"
    for path in folder.iterdir():
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                    "DOMParser", "createContextualFragment", "href=\"javascript"):  # fmt: skip
            assert way not in text, (path, way)
        assert not re.search(r"<(script|style)>|\son\w+=", text), path


def test_only_this_machine_is_listened_to(asked: Review) -> None:
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", asked.port), timeout=5)


# -- what is answered -----------------------------------------------------------------------------


@pytest.mark.quick
def test_rows_come_with_what_is_known_about_them(built: MakeProject) -> None:
    files = files_of(ROWS)
    checks = [{"name": "schema", "passed": True}]
    lines = [{"id": ROWS[0]["id"], "checks": checks, "judge": {"score": 4}}, {"no": "id"}, [1]]
    files["generated.jsonl"] = "".join(json.dumps(x) + "\n" for x in lines) + "not json\n"
    files["recipe.yaml"] += (
        "  valid: {use: data.validate, rows: rows, min_characters: {user: 99}, "
        "actions: {length: report}}\n"
        "  mapped: {use: data.map, rows: valid, user: '{{ user }}?'}\n"
    )
    made = built(files)
    with reviewing(made, "mapped") as review:
        found = review.get("/api/row", row=0)
        assert found["generated"] == [{"checks": checks, "judge": {"score": 4}}]
        assert found["findings"][0]["check"] == "length"
        assert review.get("/api/row", row=1)["generated"] == []
        assert found["content"]["messages"][0]["content"] == "question 0?"


def test_a_conflict_is_told_and_nothing_is_written(made: Project, review: Review) -> None:
    assert review.decide(0, "accept", seen="").status == 200
    answer = review.decide(0, "reject", seen="")
    assert answer.status == 409
    assert answer.json()["now"]["do"] == "accept"
    assert "accept by Ann" in answer.json()["what"]
    assert len(decisions(made)) == 1
    assert review.decide(0, "reject").status == 200


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"row": 99}, "there is no row 99"),
        ({"do": "delete"}, "Invalid enum value"),
        ({"do": "swap"}, "no `chosen`"),
        ({"do": "edit"}, "nothing has changed"),
        ({"do": "edit", "columns": {"id": "x"}}, "can't change a row's id"),
        ({"do": "edit", "columns": {"label": "\ud800"}}, "can't be read"),
    ],
)
def test_a_decision_that_can_not_be_is_refused(
    made: Project, review: Review, change: dict[str, Any], says: str
) -> None:
    body = json.dumps({**WISH, **change}).encode()
    answer = review.ask("/api/decide", method="POST", body=body)
    assert answer.status == 422, answer
    assert says in answer.json()["what"]
    assert answer.json()["fix"]
    assert not (made.folder / "reviews/rows.jsonl").exists()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_decision_is_refused(review: Review, body: bytes) -> None:
    assert review.ask("/api/decide", method="POST", body=body).status == 422


def test_a_body_without_end_is_cut(review: Review) -> None:
    body = b" " * (server_module.MOST_BYTES + 2)
    with suppress(BrokenPipeError, ConnectionResetError):  # it may hang up in the middle
        assert review.ask("/api/decide", method="POST", body=body).status == 413
    assert review.decide(0, "accept").status == 200


def test_two_processes_hear_each_other(made: Project, review: Review) -> None:
    with reviewing(made, "rows", "--reviewer", "Bob") as other:
        assert review.decide(3, "reject", reason="no").status == 200
        news = other.get("/api/changes", generation=0, lines=0)
        assert [(s["row"], s["status"], s["decision"]["by"]) for s in news["rows"]] == [
            (3, "rejected", "Ann")
        ]
        assert other.decide(3, "accept", seen="").status == 409
        again = other.get("/api/changes", generation=news["generation"], lines=news["lines"])
        assert again["rows"] == []


def test_a_file_that_git_replaced_is_read_anew(made: Project, review: Review) -> None:
    review.decide(0, "accept")
    path = made.folder / "reviews/rows.jsonl"
    path.with_suffix(".new").write_bytes(path.read_bytes().replace(b"accept", b"reject"))
    path.with_suffix(".new").replace(path)
    news = review.get("/api/changes", generation=0, lines=1)
    assert news["again"]
    assert review.get("/api/row", row=0)["status"] == "rejected"
    path.write_bytes(b"<<<<<<< HEAD\n" + path.read_bytes())
    answer = review.ask("/api/row?row=0")
    assert (answer.status, answer.json()["where"]) == (422, "reviews/rows.jsonl:1")


def test_a_row_that_changed_is_stale(made: Project) -> None:
    with reviewing(made) as review:
        review.decide(2, "reject", reason="wrong")
        review.end()
    made.edit("rows.jsonl", ROWS[2]["id"], chat("question 2", "better")["id"])
    made.edit("rows.jsonl", "answer 2", "better")
    made.ran()
    with reviewing(made) as review:
        state = review.get("/api/row", row=2)
        assert (state["status"], state["decision"]) == ("stale", None)
        assert state["before"]["reason"] == "wrong"
        assert review.get("/api/list", status="undecided")["rows"] == list(range(8))
        assert review.decide(2, "accept").status == 200
        assert review.get("/api/row", row=2)["status"] == "accepted"
        _, out, _ = review.end()
    assert "1 decision is on a row that no longer exists" in out


def test_a_browser_is_opened_without_the_token_among_its_arguments(made: Project) -> None:
    script = made.folder / "browser"
    script.write_text('#!/bin/sh\necho "$1" > asked.new && mv asked.new asked\n')
    script.chmod(0o755)
    made.env["BROWSER"] = str(script)
    screen, terminal = pty.openpty()
    process = made.start("review", "rows", stdout=terminal)
    try:
        until((made.folder / "asked").exists)
        address = (made.folder / "asked").read_text().strip()
        page = Path(address.removeprefix("file://"))
        assert "token" not in address
        assert "/?token=" in page.read_text()
        assert page.stat().st_mode & 0o077 == 0
        served = page.read_text().partition("url=")[2].partition('"')[0]
        assert urlopen(served, timeout=30).status == 200
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)
        os.close(terminal)
        os.close(screen)
    assert process.returncode == 0
    assert not page.exists()


# -- what survives --------------------------------------------------------------------------------


def test_a_kill_in_the_middle_of_decisions_loses_none_that_was_acknowledged(
    built: MakeProject,
) -> None:
    rows = [chat(f"q {n}", "x" * 20_000) for n in range(40)]
    made = built(files_of(rows))
    acknowledged: list[int] = []
    with reviewing(made) as review:

        def decide() -> None:
            try:
                for number in range(40):
                    body = {"row": number, "id": rows[number]["id"], "do": "edit", "seen": ""}
                    turns = chat(f"q {number}", "y" * 20_000)["messages"]
                    text = json.dumps({**body, "columns": {"messages": turns}}).encode()
                    if review.ask("/api/decide", method="POST", body=text).status == 200:
                        acknowledged.append(number)
            except (OSError, HTTPException):
                return

        thread = threading.Thread(target=decide)
        thread.start()
        while len(acknowledged) < 12:
            time.sleep(0.001)
        os.kill(review.process.pid, signal.SIGKILL)
        thread.join(120)
    found = made.run("review", "rows", "--status", "--json").out
    assert json.loads(found)["edited"] >= len(acknowledged) >= 12
    kept = [json.loads(x)["id"] for x in _whole_lines(made)]
    assert {rows[n]["id"] for n in acknowledged} <= set(kept)
    assert len(kept) == len(set(kept))
    with reviewing(made) as again:
        assert again.decide(39, "accept").status == 200


def _whole_lines(project: Project) -> list[bytes]:
    content = (project.folder / "reviews/rows.jsonl").read_bytes()
    return content.split(b"\n")[:-1]
