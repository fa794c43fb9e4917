"""Expected errors: one block, a code, and a way over process boundaries."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery.errors import (
    DataError,
    FineryError,
    PluginError,
    RecipeError,
    RequirementError,
    StepError,
    UsageError,
)
from finery.util.text import did_you_mean, nearest, nearest_meant

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


def test_an_error_class_of_a_plugin_becomes_a_step_error() -> None:
    data: dict[str, Any] = {
        "error": "TheirError",
        "what": "no",
        "where": None,
        "fix": None,
        "details": [],
    }
    assert type(FineryError.from_dict(data)) is StepError


def test_an_error_is_one_block() -> None:
    error = UsageError("no such step", where="a.yaml:3:1", fix="write b", details=["3 | a"])
    assert str(error) == "a.yaml:3:1: error: no such step\n  3 | a\n  fix: write b"
    assert str(UsageError("no")) == "error: no"


def test_the_nearest_name_is_suggested_else_all() -> None:
    assert did_you_mean("epoch", ["rows", "epochs"]) == "did you mean 'epochs'?"
    assert did_you_mean("zebra", ["rows", "epochs"]) == "one of: epochs, rows"
    assert did_you_mean("zebra", []) is None
    assert did_you_mean("epochs", ["rows", "epochs"]) == "one of: rows"
    assert did_you_mean("epochs", ["epochs"]) is None
    assert nearest_meant("epoch", ["rows", "epochs"]) == "did you mean 'epochs'?"
    assert nearest_meant("didgeridoo", ["rows", "epochs"]) is None


@given(names=st.lists(st.text(min_size=1), min_size=1), data=st.data())
def test_a_right_name_is_its_own_nearest(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    assert nearest(name, names) == name
