"""The page of a bundle reads citations and finds quotes as the evaluation does."""

import json
import shutil
import subprocess
from importlib.resources import files
from typing import Any

import pytest

from finery_retrieve.citations import citations, is_verbatim

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
ANSWERS = (
    'The limit is 50 MB. "Files up to 50 MB are read" [2]',
    "Both [1, 3], [1][3], [1-3], [5 – 6], [3-1], [1-900], [2024] [1].",
    '"Files are read". [1] "Files are read" ([1]), ([2])',
    "„Dateien bis 50 MB“ [1], « fichiers de 50 Mo » [1], »Dateien bis 50 MB« [1]",
    "‘Files aren’t read’ [1], “Files are read.” [1]",
    'Choose "Export" [1], `rows[0]`, ```[2]```, "are built by `--keep-going`" [1]',
    '"Files are read" [1][2] ([3]) [4, 5], [6] "Files are read" ([1]) ([2]) "OK" [3] `x` [4]',
    '"Files are read" [1]\n[2] [1].',
    'A 5" disk: "Files are read" [1], He said "yes" and "Files are read" [1]',
)
PLACES = (
    ("200 euros a year", "It costs 1200 euros a year."),
    ("200 euros a year", "It costs 1,200 euros a year."),
    ("200 euros a year", "It costs 200 euros\na year."),
    ("it costs 200", "it costs 200.50 euros"),
    ("it costs 200", "it costs 2000, but then it costs 200."),
    ("… Files are read...", "Files are read here."),
    ("Files are read", "Files are reading"),
    ("的上限是五十兆字节的", "文件的上限是五十兆字节的文件大小"),
    ("𠀀的上限是五十兆字", "𠀀𠀀的上限是五十兆字节"),
    ("किताब की कीमत पचास क", "किताब की कीमत पचास कि"),
)


def in_page(expression: str, values: Any) -> Any:
    """What the page's own functions make of values."""
    page = (files("finery_retrieve") / "serve/page.html").read_text("utf-8")
    script = page[page.index("// As finery_retrieve.citations") : page.index("class Answer {")]
    code = (
        f"{script}\nconst values = {json.dumps(values)};console.log(JSON.stringify({expression}))"
    )
    run = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_citations_are_read_alike() -> None:
    read = in_page("values.map((v) => [...citations(v)])", ANSWERS)
    for answer, of in zip(ANSWERS, read, strict=True):
        flat = [(label, each["quote"] or None) for each in of for label in each["labels"]]
        assert flat == [tuple(citation) for citation in citations(answer)], answer
        assert all(answer[each["begin"] : each["end"]][0] == "[" for each in of)


def test_quotes_are_found_alike() -> None:
    places = in_page("values.map(([quote, text]) => position(text, quote) !== null)", PLACES)
    assert places == [is_verbatim(quote, text) for quote, text in PLACES]
    assert set(places) == {True, False}
