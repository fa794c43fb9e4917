"""Rows of two builds: which were added, removed and changed."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from finery.rows import Row, with_id
from finery.testing import dataset
from finery.views.terminal import print_part
from finery_data.view.difference import difference_of, difference_parts


def qa(number: int, answer: str = "yes", **more: Any) -> Row:
    return {"prompt": f"question {number}", "completion": answer, **more}


@pytest.mark.parametrize(("before", "after", "counts"), [
    ([qa(1), qa(2)], [qa(2), qa(3)], (1, 1, 0)),
    ([qa(1), qa(2)], [qa(1), qa(2, "no")], (0, 0, 1)),  # the same prompt
    ([qa(1, id="a")], [qa(9, "no", id="a")], (0, 0, 1)),  # the user's own id
    ([qa(1)], [qa(7, parents=[str(with_id(qa(1))["id"])])], (0, 0, 1)),  # made from it
    ([qa(1), qa(1)], [qa(1)], (0, 1, 0)),  # one copy less
    ([qa(1), qa(1, "a"), qa(1, "b")], [qa(1, "c"), qa(1, "d")], (0, 1, 2)),  # one prompt, often
])  # fmt: skip
def test_rows_are_matched(
    tmp_path: Path, before: Sequence[Row], after: Sequence[Row], counts: tuple[int, int, int]
) -> None:
    found = difference_of(dataset(tmp_path / "a", before), dataset(tmp_path / "b", after))
    assert tuple(len(found[kind]) for kind in ("added", "removed", "changed")) == counts
    assert not found["reordered"]


def test_another_order_is_no_change_of_rows(tmp_path: Path) -> None:
    rows = [qa(1), qa(2)]
    found = difference_of(dataset(tmp_path / "a", rows), dataset(tmp_path / "b", rows[::-1]))
    assert (found["added"], found["removed"], found["changed"]) == ([], [], [])
    assert found["reordered"]


def test_a_row_is_shown_by_its_last_prompt_and_answer(tmp_path: Path) -> None:
    chat = [("system", "Label it."), ("user", "Where is it?"), ("assistant", "order")]
    row = {"messages": [{"role": role, "content": text} for role, text in chat]}
    data = difference_of(dataset(tmp_path / "a", []), dataset(tmp_path / "b", [row]))
    console = Console(file=io.StringIO(), width=80, color_system=None)
    for part in difference_parts(data, 3):
        print_part(console, part)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "Where is it? → order" in shown
    assert "Label it." not in shown
