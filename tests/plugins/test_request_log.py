"""The log of requests: what is in it, and that no request waits for it or fails because of it."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from finery_data.checks.personal import masked
from finery_serve import request_log
from finery_serve.logged import answer_in
from finery_serve.request_log import RequestLog


def body(text: str, **more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], **more}).encode()


def answer(text: str) -> Any:
    return lambda: {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}


def lines(*paths: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def test_a_line_has_the_request_and_its_answer_masked(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log.jsonl", masked)
    private = {"user": "Ann", "metadata": {"customer": "7"}, "temperature": 0}
    text = "I am ann@firma.de,\nIBAN DE89 3704 0044 0532 0130 00 – 5 µ 😀"
    log.add(body(text, **private), 200, time.time(), answer("Write to ann@firma.de"))
    log.close()
    (line,) = lines(tmp_path / "log.jsonl")
    masked_text = "I am [email],\nIBAN [iban] – 5 µ 😀"
    assert line["request"] == {
        "messages": [{"role": "user", "content": masked_text}],
        "temperature": 0,
    }
    assert line["response"]["choices"][0]["message"]["content"] == "Write to [email]"
    assert line["status"] == 200
    assert (tmp_path / "log.jsonl").stat().st_mode & 0o077 == 0


def test_half_a_line_spoils_no_other(tmp_path: Path) -> None:
    """As a power cut leaves it."""
    file = tmp_path / "log.jsonl"
    file.write_bytes(b'{"finery": 1, "half')
    log = RequestLog(file, masked)
    log.add(body("after"), 200, time.time(), None)
    log.close()
    half, whole = file.read_bytes().splitlines()
    assert half == b'{"finery": 1, "half'
    assert json.loads(whole)["request"]["messages"][0]["content"] == "after"


def test_half_of_a_surrogate_pair_and_what_is_no_json_leave_readable_lines(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log.jsonl", masked)
    log.add(rb'{"messages": [{"role": "user", "content": "a\ud83d"}]}', 400, 0.0, None, "bad")
    log.add(b"\xff{", 400, 0.0, None, "no JSON")
    log.add(b"[" * 100_000, 400, 0.0, None, "nested")
    log.close()
    first, second, third = lines(tmp_path / "log.jsonl")
    assert first["request"]["messages"][0]["content"] == "a?"
    assert [second["error"], third["error"]] == ["no JSON", "nested"]
    assert "request" not in second


def test_requests_that_would_wait_too_long_are_dropped_counted_and_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "MOST_WAITING", 5_000)
    free = threading.Event()

    def slow(text: str) -> str:
        free.wait(60)
        return text

    log = RequestLog(tmp_path / "log.jsonl", slow)
    for number in range(50):
        log.add(body(f"question {number}"), 200, time.time(), None)  # would hang if it waited
    assert log.dropped == 46
    free.set()
    while len(lines(tmp_path / "log.jsonl")) < 4:
        time.sleep(0.01)
    log.add(body("later"), 200, time.time(), None)
    log.close()
    written = lines(tmp_path / "log.jsonl")
    assert sum(line.get("dropped", 0) for line in written) == 46
    assert len([line for line in written if "request" in line]) == 5
    assert "requests that aren't in the log: 46" in capfd.readouterr().err


def test_a_full_disk_is_said_once_and_what_is_lost_is_counted(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log = RequestLog(Path("/dev/full"), masked)
    for _ in range(20):
        log.add(body("question"), 200, time.time(), None)
    log.close()
    said = capfd.readouterr().err
    assert log.dropped == 20
    assert said.count("the request log can't be written: No space left on device") == 1
    assert "requests that aren't in the log: 20" in said


def test_after_a_failure_the_log_goes_on_and_has_the_number(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "logs/log.jsonl"
    path.parent.mkdir()
    log = RequestLog(path, masked)
    path.unlink()
    path.parent.rmdir()
    log.add(body("lost"), 200, time.time(), None)
    while not log.dropped:
        time.sleep(0.01)
    path.parent.mkdir()
    log.add(body("kept"), 200, time.time(), None)
    log.close()
    assert [line.get("dropped") for line in lines(path)] == [1, None]
    assert "the request log is written again" in capfd.readouterr().err


def test_an_answer_that_cant_be_read_is_counted(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log.jsonl", masked)
    log.add(body("one"), 200, time.time(), lambda: answer_in(b'{"choices": [{"mess'))
    log.add(body("two"), 200, time.time(), answer("a"))
    log.close()
    assert log.dropped == 1
    assert [line.get("dropped") for line in lines(tmp_path / "log.jsonl")] == [1, None]


def test_a_file_that_cant_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        RequestLog(tmp_path / "missing/log.jsonl", masked)


@pytest.fixture
def two_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RequestLog]:
    """The logs of two servers in one file of at most 2,000 bytes."""
    monkeypatch.setattr(request_log, "MOST_BYTES", 2_000)
    monkeypatch.setattr(request_log, "MOST_FILES", 500)
    path = tmp_path / "log.jsonl"
    return [RequestLog(path, masked) for _ in range(2)]


def test_files_rotate_and_two_servers_may_write_to_one(
    tmp_path: Path, two_logs: list[RequestLog]
) -> None:
    for number in range(200):
        two_logs[number % 2].add(body(f"question {number}"), 200, time.time(), answer("a" * 50))
    for log in two_logs:
        log.close()
    written = lines(*tmp_path.glob("log*.jsonl"))
    asked = [line["request"]["messages"][0]["content"] for line in written]
    assert sorted(asked) == sorted(f"question {number}" for number in range(200))
    assert [log.dropped for log in two_logs] == [0, 0]
    longest = max(
        len(line) for path in tmp_path.iterdir() for line in path.read_bytes().split(b"\n")
    )
    # A server that waited for the other one's rotation adds a line to the full file.
    assert (tmp_path / "log.000001.jsonl").stat().st_size < 2_000 + 2 * (longest + 1)
    assert len(list(tmp_path.glob("log.*.jsonl"))) > 10


def test_old_files_are_removed_and_others_stay(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "MOST_BYTES", 1)
    monkeypatch.setattr(request_log, "MOST_FILES", 3)
    (tmp_path / "log.old.jsonl").write_text("mine")
    log = RequestLog(tmp_path / "log.jsonl", masked)
    for number in range(10):
        log.add(body(f"question {number}"), 200, time.time(), None)
    log.close()
    names = sorted(os.listdir(tmp_path))
    assert names == [*(f"log.00000{n}.jsonl" for n in (8, 9)), "log.000010.jsonl", "log.old.jsonl"]
    assert "log.000007.jsonl is removed: 3 are kept" in capfd.readouterr().err


def test_a_stream_is_put_together(tmp_path: Path) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": "Grö"},
        {"content": "ße\n"},
        {"tool_calls": [call]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
    ]
    events = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    sent = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    (choice,) = answer_in(sent + b"data: [DONE]\n\n")["choices"]
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert choice == {
        "index": 0,
        "finish_reason": "tool_calls",
        "message": {
            "role": "assistant", "content": "Größe\n", "reasoning_content": "hm",
            "tool_calls": [call],
        },
    }  # fmt: skip
    assert answer_in(sent)["error"] == "the answer broke off"
