"""Tool-calling conversations survive every step and every kind of file."""

import copy
import json
from typing import Any

from conftest import MakeProject, Project
from needs import need

TOOL = {
    "type": "function",
    "function": {
        "name": "track_parcel",
        "description": "Where a parcel is.",
        "parameters": {
            "type": "object",
            "properties": {"number": {"type": "string"}, "when": {"type": ["string", "null"]}},
            "required": ["number"],
        },
    },
}
PLACES = "Hamburg Bremen Kassel Dresden Leipzig Rostock Potsdam Erfurt Mainz Worms Speyer Trier"


def arguments(number: int) -> Any:
    """Of every other row as an object, of the others as its JSON."""
    made = {"number": f"P{number}", "when": None, "route": {"via": ["a", 1, 2.5, True]}}
    return made if number % 2 else json.dumps(made)


def conversation(number: int) -> dict[str, Any]:
    place = PLACES.split()[number % 12]
    call: dict[str, Any] = {"id": f"call_{number}", "type": "function"}
    call["function"] = {"name": "track_parcel", "arguments": arguments(number)}
    answer = {"role": "tool", "tool_call_id": f"call_{number}", "content": f'{{"at": "{place}"}}'}
    return {
        "messages": [
            {"role": "system", "content": "You track parcels."},
            {
                "role": "user",
                "content": f"Is parcel {number} of my aunt in {place}{'x' * number}?",
            },
            {"role": "assistant", "content": "", "tool_calls": [call]},
            answer,
            {"role": "assistant", "content": f"It is in {place}."},
        ],
        "tools": [TOOL],
        "label": "parcel" if number % 3 else "letter",
    }


ROWS = [conversation(number) for number in range(40)]
RECIPE = """\
finery: 1
name: t
data:
  rows: {use: data.file, path: rows.jsonl}
  filtered: {use: data.filter, rows: rows, where: "label is defined"}
  mapped: {use: data.map, rows: filtered, columns: {length: "{{ user | length }}"}}
  valid: {use: data.validate, rows: mapped}
  unique: {use: data.dedup, rows: valid}
  cleaned: {use: data.decontaminate, rows: unique, against: other}
  other: {use: data.file, path: other.jsonl}
  sampled: {use: data.sample, rows: cleaned, n: 40}
  mixed: {use: data.mix, rows: [sampled, other], weights: [40, 1]}
  split: {use: data.split, rows: mixed, test: 0.2}
  gz: {use: data.file, path: again.jsonl.gz}
  table: {use: data.file, path: rows.parquet}
  comma: {use: data.file, path: rows.csv}
"""


def content(row: dict[str, Any]) -> dict[str, Any]:
    """What a conversation says, without what steps add to it."""
    return {name: row[name] for name in ("messages", "tools", "label")}


def by_user(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["messages"][1]["content"]: content(row) for row in rows}


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_again(project: Project) -> None:
    """What a step made, as a file for another; and the same rows as tables."""
    import csv
    import gzip

    need("pyarrow")
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    again = lines(project.rows("rows")).encode()
    (project.folder / "again.jsonl.gz").write_bytes(gzip.compress(again))
    # A table has one type a column: text, where the rows differ.
    texts = [{name: json.dumps(row[name]) for name in ("messages", "tools")} for row in ROWS]
    labelled = [{**t, "label": row["label"]} for t, row in zip(texts, ROWS, strict=True)]
    with (project.folder / "rows.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, ["messages", "tools", "label"])
        writer.writeheader()
        writer.writerows(labelled)
    parquet.write_table(pa.Table.from_pylist(labelled), project.folder / "rows.parquet")


def call_of(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = row["messages"][2]["tool_calls"][0]["function"]
    return found


def test_tool_calls_survive_every_step(project: MakeProject) -> None:
    other = [{"prompt": "What is a courier?", "completion": "Someone who brings things."}]
    made = project({"rows.jsonl": lines(ROWS), "other.jsonl": lines(other), "recipe.yaml": RECIPE})
    made.ran("--step", "rows")
    write_again(made)
    made.ran()
    expected = by_user(copy.deepcopy(ROWS))
    steps = ("rows", "filtered", "mapped", "valid", "unique", "cleaned", "sampled")
    for step in (*steps, "gz", "comma", "table"):
        assert by_user(made.rows(step)) == expected, step
    parts = [row for part in ("train", "validation", "test") for row in made.rows(f"split/{part}")]
    for rows in (made.rows("mixed"), parts):
        assert by_user([row for row in rows if "messages" in row]) == expected


def test_tool_calls_of_different_arguments_survive_a_parquet_file(project: MakeProject) -> None:
    made = project({"rows.jsonl": lines(ROWS), "recipe.yaml": RECIPE})
    need("pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    plain = copy.deepcopy(ROWS)
    for number, row in enumerate(plain):
        call_of(row)["arguments"] = {"number": f"P{number}"} if number % 2 else {"when": "now"}
    parquet.write_table(pa.Table.from_pylist(plain), made.folder / "rows.parquet")
    made.ran("--step", "table")
    assert by_user(made.rows("table")) == by_user(plain)


def test_sharegpt_calls_become_those_of_the_api(project: MakeProject) -> None:
    called = {"name": "track_parcel", "arguments": {"number": "P1"}}
    turns = [
        {"from": "human", "value": "where is P1"},
        {"from": "function_call", "value": json.dumps(called)},
        {"from": "observation", "value": "Kassel"},
        {"from": "gpt", "value": "In Kassel."},
    ]
    made = project({"rows.jsonl": lines([{"conversations": turns, "tools": json.dumps([TOOL])}])})
    made.write({"recipe.yaml": RECIPE})
    made.ran("--step", "rows")
    (row,) = made.rows("rows")
    assert row["tools"] == [TOOL]
    assert call_of({"messages": [{}, *row["messages"]]}) == {
        "name": "track_parcel", "arguments": '{"number":"P1"}',
    }  # fmt: skip


# Training
