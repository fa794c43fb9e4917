"""docs.files: real files of each kind, how they are split, and what is left out."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject
from hypothesis import given
from hypothesis import strategies as st
from pdf_files import encrypted, pdf, with_outline

from finery import DataError, Files
from finery.rows.dropped import read_dropped
from finery.testing import TestJob
from finery_docs.chunks import Limits, chunks
from finery_docs.document import Document
from finery_docs.files import DocsFiles
from finery_docs.html import read_html
from finery_docs.plain import read_markdown, read_text

GUIDE = """---
title: Left out
---
<!-- a comment -->
# Guide

Words before the first section.

## Install

Run this:

```sh
pip install x

pip check
```

| a | b |
| - | - |
| 1 | 2 |

## Use `x`

### Quickly

Do it. Then do it again.

[ref]: https://example.org
"""


def folder(root: Path, files: dict[str, str | bytes]) -> Files:
    """Files as a running step sees them, in the order of a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    paths = [root / name for name in sorted(files)]
    return Files(["."], paths, sorted(files))


def load(root: Path, files: dict[str, str | bytes], **settings: Any) -> Any:
    settings = {"shortest": 1, **settings}
    return DocsFiles(path=folder(root, files), **settings).run(TestJob(root / "job"))


def failure(root: Path, files: dict[str, str | bytes], **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(root, files, **settings)
    return str(caught.value)


def reasons(made: Any) -> list[tuple[str, str]]:
    return [(line["row"]["source"], line["reason"]) for line in read_dropped(made)]


def split(document: Document, size: int, overlap: int = 0, shortest: int = 1) -> list[str]:
    found = chunks(document, Limits(size, overlap, shortest))
    return [document.text[c.start : c.end] for c in found]


# Markdown


def test_a_small_file_is_one_chunk(tmp_path: Path) -> None:
    (row,) = load(tmp_path, {"a/guide.md": GUIDE})
    assert list(row) == ["id", "text", "source", "heading", "line"]
    assert row["text"].startswith("# Guide\n\nWords")
    assert row["text"].endswith("[ref]: https://example.org")
    assert (row["source"], row["heading"], row["line"]) == ("a/guide.md", "Guide", 5)


def test_sections_are_chunks_with_their_headings_and_lines(tmp_path: Path) -> None:
    rows = list(load(tmp_path, {"guide.md": GUIDE}, chunk=100))
    assert [(r["heading"], r["line"]) for r in rows] == [
        ("Guide", 5),
        ("Guide > Install", 9),
        ("Guide > Use x > Quickly", 23),
    ]
    assert rows[1]["text"].endswith("| 1 | 2 |")
    assert all(r["text"] in GUIDE for r in rows)


def test_code_and_tables_are_whole_where_they_fit() -> None:
    document = read_markdown(GUIDE.encode())
    assert "```sh\npip install x\n\npip check\n```" in "\0".join(split(document, 60))
    assert "| a | b |\n| - | - |\n| 1 | 2 |" in split(document, 60)


def test_what_is_too_long_is_split_at_lines_sentences_and_words() -> None:
    code = "```\n" + "".join(f"    line {i}\n" for i in range(30)) + "```"
    assert all(re.match(r"    line|```", c) for c in split(read_markdown(code.encode()), 60))
    prose = "This is one. " * 20 + "And e.g. this is " + "a longer one " * 9 + "at the end."
    made = split(read_markdown(prose.encode()), 60)
    assert made[:2] == ["This is one. " * 3 + "This is one."] * 2
    assert all(len(c) <= 60 for c in made)
    assert " ".join(made) == prose
    assert split(read_text(b"word " * 3 + b"x" * 25), 10) == [
        "word word",
        "word",
        *["x" * 10] * 2,
        "x" * 5,
    ]


# the splitting itself


words = st.text("ab.!?\"' ", min_size=1, max_size=12)
lines = st.one_of(
    words,
    st.sampled_from(["", "", "# H", "## I", "```", "    code", "| a | b |", "|-|-|", "- x", "> q"]),
)  # fmt: skip
texts = st.lists(lines, max_size=40).map("\n".join)


@given(texts, st.integers(5, 80), st.sampled_from([read_text, read_markdown]), st.data())
def test_chunks_cover_the_text_and_fit(text: str, size: int, read: Any, data: Any) -> None:
    document = read(text.encode())
    overlap = data.draw(st.integers(0, size // 2))
    found = chunks(document, Limits(size, overlap, data.draw(st.integers(1, size // 2))))
    assert all(0 < c.end - c.start <= size for c in found)
    assert [c.start for c in found] == sorted(c.start for c in found)
    at = 0
    for chunk in found:
        assert not document.text[at : chunk.start].strip() or "<!--" in document.text
        assert overlap or chunk.start >= at
        assert at - chunk.start <= overlap
        at = chunk.end
    assert not document.text[at:].strip()


@given(texts, st.integers(10, 80))
def test_no_word_is_cut_that_fits(text: str, size: int) -> None:
    document = read_text(text.encode())
    whole = {w for w in document.text.split() if len(w) <= size}
    parts = [w for c in split(document, size) for w in c.split()]
    assert not whole - set(parts)


def test_ids_outlive_text_above_and_tell_copies_apart(tmp_path: Path) -> None:
    text = "# A\n\nSame words.\n\n# A\n\nSame words.\n"
    one = list(load(tmp_path / "a", {"x.md": text}, chunk=50, shortest=2))
    two = list(load(tmp_path / "b", {"x.md": f"# New\n\n{'More. ' * 7}\n\n{text}"}, chunk=50))
    assert [r["id"] for r in one] == [r["id"] for r in two[-len(one) :]]
    three = load(tmp_path / "c", {"x.txt": "Same words.\n\n" * 3}, chunk=50, shortest=1)
    rows = list(load(tmp_path / "d", {"x.txt": ("Same words. " * 4 + "\n\n") * 3}, chunk=50))
    assert len({r["id"] for r in rows}) == len(rows) == 3
    assert len(three) == 1


# HTML


PAGE = """<!doctype html><html><head><title>No</title><style>p {}</style></head><body>
<nav>Menu</nav>
<main>
<h1>Title <a class="headerlink" href="#">¶</a></h1>
<p>First   <b>bold</b>
and <code>code()</code>, <button>click</button> it<!-- no -->.</p>
loose words
<ul><li>one<ul><li>inner</li></ul></li><li>two</li></ul>
<h2>Code &amp; more</h2>
<pre>a
  b &lt; c</pre>
<table><caption>Sizes</caption><tr><th>n</th><th>x|y</th></tr><tr><td>1</td><td>2</td></tr></table>
<a href="x"><p>linked paragraph</p></a>
<script>alert(1)</script>
</main><footer>Imprint</footer></body></html>"""


def test_html_gives_its_main_part_as_markdown() -> None:
    document = read_html(PAGE.encode())
    assert document.text.split("\n\n") == [
        "# Title",
        "First bold and `code()`, it.",
        "loose words",
        "- one\n  - inner\n- two",
        "## Code & more",
        "```\na\n  b < c\n```",
        "Sizes",
        "| n | x\\|y |\n| --- | --- |\n| 1 | 2 |",
        "linked paragraph",
    ]
    found = chunks(document, Limits(130))
    assert [(c.headings, document.place(c.start)) for c in found] == [
        (("Title",), {"line": 4}),
        (("Title", "Code & more"), {"line": 9}),
    ]


def test_deeply_nested_html_is_a_bad_file(tmp_path: Path) -> None:
    text = failure(tmp_path, {"x.html": "<div>" * 5000 + "x"})
    assert "x.html: error: its elements are nested too deeply" in text


# PDF


def test_pdf_pages_and_outline(tmp_path: Path) -> None:
    pages = [
        "Manual\nWelcome to it, and to all.",
        "Install\nPut it in (there).\nUse\nTurn it on.",
        "",
    ]
    outline = [("Manual", 0, 0), ("Install", 1, 1), ("Use", 1, 1)]
    made = load(tmp_path, {"m.pdf": with_outline(pdf(pages), outline)}, chunk=60)
    assert [(r["text"], r["heading"], r["page"]) for r in made] == [
        ("Manual\nWelcome to it, and to all.", "Manual", 1),
        ("Install\nPut it in (there).\n\nUse\nTurn it on.", "Manual", 2),
    ]
    (line,) = read_dropped(made)
    assert line["row"] == {"source": "m.pdf", "page": 3}
    assert line["reason"] == "page-without-text"


def test_pdfs_that_give_no_text_are_named(tmp_path: Path) -> None:
    text = failure(
        tmp_path,
        {
            "a.pdf": encrypted(pdf(["secret"]), "user"),
            "b.pdf": pdf(["", ""]),
            "c.pdf": pdf(["words"])[:-300],
            "d.pdf": b"not a PDF at all",
            "e.md": "fine",
        },
    )
    assert text.splitlines()[0] == "a.pdf: error: it is encrypted and needs a password"
    assert "4 files can't be read:" in text
    assert "fix: the first: " in text
    assert "b.pdf: no text on any of its 2 pages: it may be scanned" in text
    assert "d.pdf: the PDF can't be read" in text
    assert "bad_files: skip" in text


# what is left out


def test_bad_files_are_skipped_and_named(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "a.md": b"caf\xe9",
        "b.txt": "words".encode("utf-16"),
        "c.txt": "NUL \0 here",
        "d.md": "",
        "e.png": b"\x89PNG",
        "f.md.gz": gzip.compress(b"packed words"),
        "g.md.gz": gzip.compress(b"packed words")[:-4],
        "h.html": "<script>only code</script>",
        "i.md": b"\xef\xbb\xbfwith a mark\r\n\r\nand Windows lines",
    }
    assert "a.md: error: line 1: a byte (0xe9) isn't UTF-8" in failure(tmp_path / "e", files)
    made = load(tmp_path / "s", files, bad_files="skip")
    assert [r["text"] for r in made] == ["packed words", "with a mark\n\nand Windows lines"]
    assert reasons(made) == [
        ("a.md", "encoding"), ("b.txt", "encoding"), ("c.txt", "binary"), ("d.md", "empty"),
        ("e.png", "not-a-document"), ("g.md.gz", "damaged"), ("h.html", "empty"),
    ]  # fmt: skip
    assert made.meta["files"] == 2
    assert made.meta["dropped"]["encoding"] == 2


# what other steps make of chunks


def test_places_of_rows_are_traced(tmp_path: Path) -> None:
    files = folder(tmp_path, {"a.md": GUIDE, "b.pdf": pdf(["page words"])})
    step = DocsFiles(path=files, chunk=100, shortest=1)
    rows = list(step.run(TestJob(tmp_path / "job")))
    ids = {rows[1]["id"], rows[-1]["id"]}
    assert list(step.trace_rows(ids, TestJob(tmp_path / "trace"))) == [
        (rows[1]["id"], "a.md:9"),
        (rows[-1]["id"], "b.pdf (page 1)"),
    ]


def test_a_folder_is_built_through_the_command(project: MakeProject) -> None:
    recipe = "finery: 1\nname: t\ndata:\n  d: {use: docs.files, path: docs, shortest: 1}\n"
    made = project({"recipe.yaml": recipe, "docs/b.md": "# B\n\nWords.", "docs/sub/a.txt": "Text."})
    assert made.ran() == ["d"]
    first = made.rows("d")
    assert [(r["source"], r["text"]) for r in first] == [
        ("docs/b.md", "# B\n\nWords."), ("docs/sub/a.txt", "Text."),
    ]  # fmt: skip
    made.write({"docs/a.md": "New."})
    assert made.ran() == ["d"]
    assert made.rows("d")[1:] == first
    assert made.ran() == []
    (made.folder / "docs" / "bad.md").write_bytes(b"\xff\xfe")
    ran = made.run("build", "--json")
    assert ran.code == 2
    failed = [e for e in map(json.loads, ran.out.splitlines()) if e["event"] == "step_failed"]
    assert "UTF-16" in json.dumps(failed)


def test_a_block_of_many_comments_before_a_text_is_read_at_once() -> None:
    document = read_markdown(("<!-- a -->" * 60 + "x\n\n<!-- b --> <!-- c -->\n").encode())
    assert [document.text[b.start : b.end][-1] for b in document.blocks] == ["x"]
    between = read_markdown(b"<!-- a --> text <!-- b -->")
    assert len(between.blocks) == 1


def test_markup_that_takes_long_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finery_docs.files.SECONDS", 0.2)
    monkeypatch.setattr("finery_docs.files.PACE", 10**9)
    files: dict[str, str | bytes] = {
        "slow.html": "<!--" * 50_000,
        "fine.md": "Enough words to make a chunk of. " * 5,
    }
    assert "slow.html" in failure(tmp_path / "a", files)
    made = load(tmp_path / "b", files, bad_files="skip")
    assert ("slow.html", "too-slow") in reasons(made)
