"""Digests of files: comments and layout never change them, any other edit does."""

import ast
import io
import string
import tokenize
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finery.builder.code import parse
from finery.builder.code.imports import Parsed

SOURCES = [
    path.read_text("utf-8")
    for path in sorted(Path(parse.__file__).parents[2].joinpath("rows").rglob("*.py"))
]


def parsed(folder: Path, source: str) -> Parsed:
    path = folder / "file.py"
    path.write_text(source, encoding="utf-8")
    return parse.parse_file(path, path.read_bytes())


def digests(folder: Path, source: str) -> tuple[str, dict[str, str]]:
    held = parsed(folder, source)
    return held.digest, held.definitions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parse")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_comments_and_layout_never_change_a_digest(folder: Path, data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(SOURCES))
    lines = source.splitlines()
    ends = {t.end[0] for t in _tokens(source) if t.type == tokenize.NEWLINE}
    at = data.draw(st.sampled_from(sorted(ends)))
    added = data.draw(st.sampled_from(["  # a comment", "   ", "\n\n# text: x = 1\n", "\n"]))
    lines[at - 1] += added
    assert digests(folder, "\n".join(lines) + "\n") == digests(folder, source)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_other_edit_of_a_token_changes_the_digest(folder: Path, data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(SOURCES))
    kinds = {tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP}
    token = data.draw(st.sampled_from([t for t in _tokens(source) if t.type in kinds]))
    other = data.draw(st.sampled_from(["zz", "7", "'zz'", "+", "not", f"{token.string}z"]))
    lines = source.splitlines(keepends=True)
    row, start, end = token.start[0] - 1, token.start[1], token.end[1]
    if token.start[0] != token.end[0]:
        return
    lines[row] = f"{lines[row][:start]}{other}{lines[row][end:]}"
    edited = "".join(lines)
    same = _is_same_tree(source, edited)
    assert (digests(folder, edited) == digests(folder, source)) == same


def _is_same_tree(source: str, edited: str) -> bool:
    try:
        return ast.dump(ast.parse(source)) == ast.dump(ast.parse(edited))
    except SyntaxError:
        return False


@given(st.text(st.sampled_from(string.printable + "éß\u2028\0"), max_size=200))
@settings(max_examples=150, deadline=None)
def test_no_text_is_too_odd(folder: Path, text: str) -> None:
    (folder / "file.py").write_bytes(text.encode())
    assert parse.parse_file(folder / "file.py", (folder / "file.py").read_bytes()).digest


def _tokens(source: str) -> list[tokenize.TokenInfo]:
    return [*tokenize.generate_tokens(io.StringIO(source).readline)]


def test_definitions_have_digests_of_their_own(folder: Path) -> None:
    source = (
        "import os\nX = 1\nclass C:\n    y = 2\n    def f(self): return 1\n    def g(self): pass\n"
    )
    before = parsed(folder, source).definitions
    edited = parsed(folder, source.replace("return 1", "return 2")).definitions
    assert {*before} == {"", "X", "C"}
    assert {name for name in before if before[name] != edited[name]} == {"C"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("class C:\n def f(s): 1\n x = 1\n", "class C:\n x = 1\n def f(s): 1\n"),
        ("class C:\n def f(s): 1\n def f(s): 2\n", "class C:\n def f(s): 2\n def f(s): 1\n"),
        ("class C(A, B): pass\n", "class C(B, A): pass\n"),
        ("class C(metaclass=A): pass\n", "class C(metaclass=B): pass\n"),
        ("@a\nclass C: pass\n", "@b\nclass C: pass\n"),
        ("f([1], 2)\n", "f([1, 2])\n"),
        ("f('a\\nstr b')\n", "f('a', 'b')\n"),
        ("f()\ndef g(): pass\nf(1)\n", "f()\nf(1)\ndef g(): pass\n"),
        ("A = 1\nf(A)\nA = 2\n", "A = 1\nA = 2\nf(A)\n"),
    ],
)
def test_the_order_and_the_shape_count(folder: Path, one: str, other: str) -> None:
    assert parsed(folder, one).digest != parsed(folder, other).digest
