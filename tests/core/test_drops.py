"""Dropped rows: written as they come, counted, read back; and `finery show` of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject

from finery import Dataset
from finery.rows.dropped import Drops, read_dropped

ROWS = [
    f"Question number {n}: {'where is my card' if n % 2 else 'how do I pay'}?" for n in range(8)
]
RECIPE = """\
finery: 1
name: t
data:
  rows: {use: data.file, path: rows.jsonl, bad_rows: skip}
  short: {use: data.filter, rows: rows, excludes: {user: card}}
  seen: {use: data.validate, rows: rows, actions: {personal: report}}
"""


def test_lines_are_read_back_in_order(tmp_path: Path) -> None:
    with Drops(tmp_path) as drops:
        for n in range(3):
            drops.add({"prompt": f"p{n}"}, "odd" if n % 2 else "even", f"it is {n}")
    lines = list(read_dropped(Dataset(tmp_path)))
    assert [(line["reason"], line["detail"]) for line in lines] == [
        ("even", "it is 0"), ("odd", "it is 1"), ("even", "it is 2"),
    ]  # fmt: skip
    assert [line["row"] for line in lines] == [{"prompt": f"p{n}"} for n in range(3)]
    assert drops.meta() == {"dropped": {"even": 2, "odd": 1}}
    assert drops.summary(7) == "dropped 3 of 10 rows (even 2, odd 1)"


@pytest.mark.parametrize("value", ["\ud800", {"a": {1, 2}.__iter__()}, 2**80])
def test_rows_that_are_no_json_are_kept_as_text(tmp_path: Path, value: Any) -> None:
    with Drops(tmp_path) as drops:
        drops.add({"value": value}, "bad", "half \ud800")
    (line,) = read_dropped(Dataset(tmp_path))
    assert line["row"].keys() in ({"text"}, {"value"})
    assert line["id"]


def test_show_tells_what_was_dropped_and_why(project: MakeProject) -> None:
    lines = [json.dumps({"prompt": text, "completion": "a@b.de"}) for text in ROWS]
    made = project({"recipe.yaml": RECIPE, "rows.jsonl": "\n".join([*lines, "{"])})
    assert made.run("build").code == 0
    out = made.run("show", "short").out
    assert "dropped        excludes 4" in out
    assert "dropped: excludes 4" in out
    assert out.count("user matches card: 'card'") == 3
    assert "… and 1 more (--dropped)" in out
    assert made.run("show", "short", "--dropped").out.count("user matches card") == 4
    assert "dropped: bad-row 1" in made.run("show", "rows").out
    out = made.run("show", "seen").out
    assert "found: email 8" in out
    assert "row 1 " in out
    (data,) = (json.loads(line) for line in made.run("show", "seen", "--json").out.splitlines())
    assert (len(data["findings"]), data["dropped"]) == (3, [])
