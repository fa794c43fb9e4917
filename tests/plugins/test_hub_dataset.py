"""`hub.dataset` against a stand-in for the hub: its real protocol, on 127.0.0.1."""

import gzip
import io
import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject, Project
from hub_server import FIRST, SECOND, TOKEN, Caller, Hub, serving
from needs import need

pytestmark = pytest.mark.slow

need("datasets")
pa = pytest.importorskip("pyarrow", reason="needs the package pyarrow")

REPO = "datasets/org/rows"
CARD = b"""---
configs:
- config_name: main
  default: true
  data_files:
  - {split: train, path: main/train-*.parquet}
  - {split: test, path: main/test-*.parquet}
- config_name: extra
  data_files: extra/*.parquet
dataset_info:
- config_name: main
  features:
  - {name: text, dtype: string}
  - name: topic
    dtype:
      class_label:
        names: {'0': billing, '1': shipping}
---
"""
PAIR = {"user": "{{ text }}", "assistant": "{{ topic }}"}


def parquet(columns: dict[str, list[Any]]) -> bytes:
    from pyarrow import parquet as files  # type: ignore[import-untyped]

    out = io.BytesIO()
    files.write_table(pa.table(columns), out, row_group_size=100, compression="none")
    return out.getvalue()


def texts(start: int, count: int) -> dict[str, list[Any]]:
    numbers = range(start, start + count)
    return {"text": [f"text {n} {'x' * 500}" for n in numbers], "topic": [n % 2 for n in numbers]}


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def repository(start: int = 0) -> dict[str, bytes]:
    return {
        "README.md": CARD,
        "main/train-0.parquet": parquet(texts(start, 1000)),
        "main/train-1.parquet": parquet(texts(start + 1000, 1000)),
        "main/test-0.parquet": parquet(texts(start + 9000, 10)),
        "extra/a.parquet": parquet({"instruction": ["say a"], "output": ["a"]}),
    }


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        server.push(REPO, FIRST, repository())
        yield server


@pytest.fixture
def call(hub: Hub, tmp_path: Path) -> Caller:
    step = "finery_hub.dataset:HubDataset"
    return Caller(hub, tmp_path / "hf", step, repo="org/rows", columns=PAIR)


def first_words(made: dict[str, Any]) -> list[str]:
    assert "rows" in made, made
    return [" ".join(r["messages"][0]["content"].split()[:2]) for r in made["rows"]]


@pytest.mark.quick
def test_only_a_branch_or_tag_floats() -> None:
    from finery_hub.dataset import HubDataset

    assert HubDataset(repo="org/rows").floating_name() == "hub:datasets/org/rows@main"
    assert HubDataset(repo="org/rows", revision=FIRST).floating_name() is None


def test_a_split_is_read_whole_and_only_its_files_are_fetched(call: Caller) -> None:
    made = call(FIRST)
    assert first_words(made)[:2] == ["text 0", "text 1"]
    assert len(made["rows"]) == 2000
    assert [r["messages"][1]["content"] for r in made["rows"][:2]] == ["billing", "shipping"]
    assert set(call.hub.sent) >= {"train-0.parquet", "train-1.parquet"}
    assert "test-0.parquet" not in call.hub.sent
    assert list(call.home.rglob("train-1.parquet"))
    told = [e["text"] for e in made["events"] if e.get("event") == "progress"]
    assert "downloading org/rows" in told


def test_streaming_gives_the_same_rows_and_keeps_no_files(call: Caller) -> None:
    streamed = call(FIRST, streaming=True)
    assert not list(call.home.rglob("*.parquet"))
    assert streamed["rows"] == call(FIRST)["rows"]


def test_take_reads_no_more_than_it_needs(call: Caller) -> None:
    made = call(FIRST, take=3)
    assert first_words(made) == ["text 0", "text 1", "text 2"]
    assert "train-1.parquet" not in call.hub.sent
    assert not list(call.home.rglob("*.parquet"))


def test_configurations_and_splits_are_named(call: Caller) -> None:
    assert first_words(call(FIRST, split="test"))[0] == "text 9000"
    (row,) = call(FIRST, config="extra", columns=None)["rows"]
    assert row["messages"][0] == {"role": "user", "content": "say a"}


def test_the_pinned_commit_is_read_after_main_moved(call: Caller) -> None:
    pinned = call()["pin"]
    before = call(pinned, take=5)
    call.hub.push(REPO, SECOND, repository(5000))
    assert call()["pin"] == SECOND
    assert call(pinned, take=5)["rows"] == before["rows"]
    assert first_words(call(SECOND, take=1)) == ["text 5000"]


def test_json_lines_say_what_is_written(call: Caller) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "2026-01-02", "topic": "007"},
        {"text": "2026-01-03", "topic": "a", "x": {}},
    ]
    call.hub.push("datasets/org/lines", FIRST, {"data/a.jsonl.gz": gzip.compress(lines(*rows))})
    made = call(FIRST, repo="org/lines")
    assert [m["content"] for m in made["rows"][0]["messages"]] == ["2026-01-02", "007"]
    assert made["rows"] == call(FIRST, repo="org/lines", streaming=True)["rows"]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_bad_row_has_its_file_and_line(call: Caller, streaming: bool) -> None:
    content = lines({"text": "a", "topic": "b"}) + b'{"text": \n' + lines({"text": "c"})
    call.hub.push("datasets/org/lines", FIRST, {"a.jsonl": content})
    error = call(FIRST, repo="org/lines", streaming=streaming)
    assert error["error"] == "DataError"
    assert error["where"] == "org/lines/a.jsonl:2"
    assert "org/lines/a.jsonl:3: columns.assistant: 'topic' is undefined" in error["details"]
    made = call(FIRST, repo="org/lines", streaming=streaming, bad_rows="skip")
    assert len(made["rows"]) == 1
    assert "dropped.jsonl" in made["files"]


def test_tool_calls_survive(call: Caller) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"day": "2026-01-02"}}}]
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "y"},
    ]
    call.hub.push(
        "datasets/org/tools", FIRST, {"a.jsonl": lines({"messages": turns, "tools": [tool]})}
    )
    call.hub.push(
        "datasets/org/tools2",
        FIRST,
        {"a.parquet": parquet({"messages": [turns], "tools": [[tool]]})},
    )
    for repo in ("org/tools", "org/tools2"):
        (row,) = call(FIRST, repo=repo, columns=None)["rows"]
        assert (row["messages"], row["tools"]) == (turns, [tool])


def test_values_of_parquet_files(call: Caller) -> None:
    content = parquet(
        {
            "text": ["a"],
            "topic": [Decimal("12.50")],
            "at": [datetime(2026, 1, 2, 3, 4)],
            "raw": [b"\xff"],
            "nested": [{"a": None, "b": [1]}],
        }
    )
    call.hub.push("datasets/org/types", FIRST, {"a.parquet": content})
    (row,) = call(FIRST, repo="org/types", keep=["at", "nested"])["rows"]
    assert row["messages"][1]["content"] == "12.50"
    assert (row["at"], row["nested"]) == ("2026-01-02T03:04:00", {"b": [1]})
    assert "'raw' holds bytes" in call(FIRST, repo="org/types", keep=["raw"])["what"]


@pytest.mark.parametrize(
    ("settings", "what", "fix"),
    [
        ({"repo": "org/row"}, "no data set 'org/row'", "did you mean 'org/rows'?"),
        ({"config": "mian"}, "no configuration 'mian'", "did you mean 'main'?"),
        ({"split": "trian"}, "no split 'trian'", "did you mean 'train'?"),
        ({"split": "train[:5]"}, "no split 'train[:5]'", "did you mean 'train'?"),
    ],
)
def test_names_that_there_are_not(
    call: Caller, settings: dict[str, Any], what: str, fix: str
) -> None:
    error = call(FIRST, **settings)
    assert error["error"] == "DataError"
    assert what in error["what"]
    assert error["fix"].startswith(fix)


def test_a_gated_data_set_needs_a_token(call: Caller) -> None:
    call.hub.gated.add(REPO)
    error = call(FIRST)
    assert error["what"].startswith("org/rows is gated")
    assert f"{call.hub.url}/datasets/org/rows" in error["fix"]
    for streaming in (True, False):
        made = call(FIRST, secrets={"HF_TOKEN": TOKEN}, streaming=streaming)
        assert len(made["rows"]) == 2000
    assert set(call.hub.tokens_at_storage) == {None}
    call.home.mkdir(exist_ok=True)
    (call.home / "token").write_text(TOKEN)  # what `hf auth login` leaves
    assert len(call(FIRST)["rows"]) == 2000


def test_offline_says_so_and_serves_no_other_commit(call: Caller) -> None:
    call(FIRST)
    call.env["HF_HUB_OFFLINE"] = "1"
    for error in (call(FIRST), call(SECOND)):
        assert error["error"] == "StepError"
        assert "can't be reached" in error["what"]


def test_a_script_is_never_run(call: Caller) -> None:
    script = b"raise SystemExit('ran')"
    call.hub.push("datasets/org/code", FIRST, {"code.py": script, "a.jsonl": b"{}\n"})
    error = call(FIRST, repo="org/code")
    assert "finery never runs a data set's code" in error["what"]


RECIPE = """\
finery: 1
name: t
data:
  rows:
    use: hub.dataset
    repo: org/rows
    split: test
    columns: {user: "{{ text }}", assistant: "{{ topic }}"}
"""


@pytest.fixture
def made(hub: Hub, project: MakeProject, tmp_path: Path) -> Project:
    found = project({"recipe.yaml": RECIPE})
    found.env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    return found


def test_a_build_pins_and_the_key_changes_with_the_pin(made: Project, hub: Hub) -> None:
    assert "isn't pinned in recipe.lock yet" in made.run("plan").out
    assert made.ran() == ["rows"]
    lock = (made.folder / "recipe.lock").read_text()
    assert f"hub:datasets/org/rows@main: '{FIRST}'" in lock
    hub.push(REPO, SECOND, repository(5000))
    assert made.ran() == []
    made.edit("recipe.lock", FIRST, SECOND)
    assert "pinned: " in made.run("plan").out
    assert made.ran() == ["rows"]
    assert made.rows("rows")[0]["messages"][0]["content"].startswith("text 14000")
