"""Expected errors: one block, a code, and a way over process boundaries."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery.cli.console import print_error
from finery.errors import (
    DataError,
    FineryError,
    PluginError,
    RecipeError,
    RequirementError,
    StepError,
    UsageError,
)
from finery.recipe.validate import RecipeErrors
from finery.util.text import did_you_mean, suggest_nearest

CODES = {
    FineryError: 1, StepError: 1, RequirementError: 1, UsageError: 2, RecipeError: 2, DataError: 2,
    PluginError: 2,
}  # fmt: skip


@pytest.mark.parametrize("cls", CODES)
def test_who_is_to_blame_decides_the_code(cls: type[FineryError]) -> None:
    assert cls("no").exit_code == CODES[cls]
    assert type(FineryError.from_dict(cls("no").to_dict())) is cls


@given(
    what=st.text(min_size=1),
    where=st.none() | st.text(),
    fix=st.none() | st.text(),
    details=st.lists(st.text(), max_size=3),
)
def test_an_error_crosses_processes_whole(
    what: str, where: str | None, fix: str | None, details: list[str]
) -> None:
    error = DataError(what, where=where, fix=fix, details=details)
    assert FineryError.from_dict(error.to_dict()).to_dict() == error.to_dict()


def test_an_error_is_one_block() -> None:
    error = UsageError("no such step", where="a.yaml:3:1", fix="write b", details=["3 | a"])
    assert str(error) == "a.yaml:3:1: error: no such step\n  3 | a\n  fix: write b"
    assert str(UsageError("no")) == "error: no"


def test_long_code_is_folded_with_the_caret_below_its_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    code = f"12 | a: {{path: {'very/' * 8}file.jsonl}}"
    error = UsageError("no file", details=["before " * 6, code, f"   | {' ' * 50}^", "after"])
    print_error(error)  # not on a terminal
    assert capsys.readouterr().err == f"{error}\n"
    monkeypatch.setattr("finery.cli.console.is_terminal", lambda stream: True)
    print_error(error)
    _, before, *folded, after = capsys.readouterr().err.splitlines()
    assert (before, after) == (f"  {'before ' * 6}", "  after")
    first, second, third, caret = folded
    assert first == "  12 | a: {path: very/very/ver"
    assert f"{first}{second[7:]}{third[7:]}" == f"  {code}"
    assert third[caret.index("^") :] == "file.jsonl}"


def test_the_nearest_name_is_suggested_else_all() -> None:
    assert did_you_mean("epoch", ["rows", "epochs"]) == "did you mean 'epochs'?"
    assert did_you_mean("zebra", ["rows", "epochs"]) == "one of: epochs, rows"
    assert did_you_mean("zebra", []) is None
    assert did_you_mean("epochs", ["rows", "epochs"]) == "one of: rows"
    assert did_you_mean("epochs", ["epochs"]) is None
    assert suggest_nearest("epoch", ["rows", "epochs"]) == "did you mean 'epochs'?"
    assert suggest_nearest("didgeridoo", ["rows", "epochs"]) is None


def test_a_fix_installs_an_extra_from_where_finery_came(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "pip install 'finery[docs,sql]', or name a file"
    origins = {
        None: text,
        '{"url": "file:///a%20b", "dir_info": {}}': "pip install '/a b[docs,sql]', or name a file",
        '{"url": "file:///c", "dir_info": {"editable": true}}':
            "pip install -e '/c[docs,sql]', or name a file",
        '{"url": "https://x/finery.whl", "archive_info": {}}': text,
    }  # fmt: skip
    for origin, expected in origins.items():
        found = SimpleNamespace(read_text=lambda _, origin=origin: origin)
        monkeypatch.setattr("importlib.metadata.distribution", lambda _, found=found: found)
        assert UsageError("x", fix=text).fix == expected


def test_several_mistakes_reach_another_process_as_one_error() -> None:
    several = RecipeErrors([RecipeError("first", where="a:1:1"), RecipeError("second")])
    error = FineryError.from_dict(several.to_dict())
    assert (error.what, error.where) == ("first", "a:1:1")
    assert "second" in error.details[0]
