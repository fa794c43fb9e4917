"""`finery show DATASET`: the summary in the terminal, and the page."""

import json
import re
from typing import Any

import pytest
from conftest import MakeProject, Project

RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  rows: {use: data.file, path: rows.jsonl, format: completion}
  split: {use: data.split, rows: rows, validation: 0.2, test: 0.2, decontaminate: false}
  short: {use: data.filter, rows: split.train, max_characters: {user: 14}}
  lines: {use: steps.source, path: rows.jsonl}
export:
  page: {use: data.report, rows: [split.train, split.test], title: Tickets}
  pack: {use: steps.pack, code: "(job.out / 'a.txt').write_text('a')"}
"""
ROWS = "".join(
    json.dumps({"prompt": f"question {n}" + " more" * (n % 4), "completion": f"c{n % 3}"}) + "\n"
    for n in range(60)
)
FILES = {"recipe.yaml": RECIPE, "rows.jsonl": ROWS}


@pytest.fixture
def data(built: Any) -> Project:
    made: Project = built(FILES)
    return made


def test_the_terminal_has_lengths_classes_and_drops(data: Project) -> None:
    out = data.run("show", "rows", "-n0").out
    assert re.search(r"prompt +10 to 26 characters, median \d+", out)
    assert re.search(r"answer +2 to 2 characters, median 2", out)
    assert "3 classes: c0 20, c1 20, c2 20" in out
    out = data.run("show", "short", "-n0").out
    dropped = json.loads(data.run("show", "short", "--json", "--dropped").out)["dropped"]
    assert f"too-long {len(dropped)}" in out
    assert dropped[0]["id"] in out, "the id can be copied for --row"


def test_a_document_is_shown_by_its_columns(project: MakeProject) -> None:
    code = "rows = [{'text': 'a chunk of text', 'source': 'docs/a.md'}]"
    made = project({"recipe.yaml": f"""\
finery: 1
name: t
plugins: [./steps.py]
data:
  docs: {{use: steps.script, code: "{code}"}}
"""})  # fmt: skip
    assert made.run("build").code == 0
    out = made.run("show", "docs").out
    assert re.search(r"text +a chunk of text", out)
    assert re.search(r"source +docs/a.md", out)
    assert re.search(r"text +15 to 15 characters", out)


def test_all_outputs_are_on_one_page(data: Project) -> None:
    out = data.run("show", "split", "--html", "-n0").out
    assert out.splitlines()[-1] == "page: build/t/split-report.html"
    assert out.count("page: ") == 1
    page = (data.folder / "build/t/split-report.html").read_text()
    for name in ("train", "validation", "test"):
        assert re.search(rf"<th[^>]*>{name}</th>", page)
    assert data.run("show", "split.test", "--html", "one.html").code == 0
    assert "<h1>t: split.test</h1>" in (data.folder / "one.html").read_text()
    made = [json.loads(x) for x in data.run("show", "split", "--json", "--html").out.splitlines()]
    (page,) = {m["html"] for m in made}
    assert page.endswith("build/t/split-report.html")
    assert data.run("build").code == 0
    assert (data.folder / "build/t/split-report.html").exists(), "a build leaves the page"


def test_a_page_that_a_step_made_is_copied(data: Project) -> None:
    assert "finery show page --html" in data.run("show", "page").out
    out = data.run("show", "page", "--html").out
    assert out.splitlines()[-1] == "page: build/t/page.html"
    copy = (data.folder / "build/t/page.html").read_text()
    assert "<h1>Tickets</h1>" in copy
    assert copy == (data.folder / "build/t/page/report.html").read_text()


@pytest.mark.parametrize(("args", "says"), [
    (["split", "--html", "rows.jsonl/page.html"], "can't write rows.jsonl/page.html"),
    (["split", "--html", "recipe.yaml"], "recipe.yaml is not a page"),
    (["split", "--tokenizer", "none"], "--tokenizer needs --html"),
])  # fmt: skip
def test_a_page_that_cannot_be_made_is_an_error_with_a_fix(
    data: Project, args: list[str], says: str
) -> None:
    code, _, err = data.run("show", *args)
    assert code == 2
    assert says in err
    assert "Traceback" not in err


def test_a_step_that_is_not_built_says_what_stopped_it(project: MakeProject) -> None:
    t = project({
        "recipe.yaml": "finery: 1\nname: t\ndata:\n  rows: {use: data.file, path: rows.jsonl}\n"
        "  few: {use: data.sample, rows: rows, n: 1}\n",
        # Beyond the first rows, which are examined before a build.
        "rows.jsonl": '{"prompt": "a", "completion": "b"}\n' * 1_100 + '{"prompt": ""}\n',
    })  # fmt: skip
    assert "failed" not in t.run("show", "few").err
    assert t.run("build").code != 0
    for step in ("few", "rows"):
        shown = t.run("show", step)
        assert shown.code == 2
        assert "rows failed in the last build: rows.jsonl:1101: " in shown.err
