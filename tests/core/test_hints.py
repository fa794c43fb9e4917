"""Hints of step types: they load, and what they name exists."""

import pytest

from finery import load_plugins
from finery.fields import Settings
from finery.recipe.hints.values import number_of
from finery.step.hints import hints_of
from finery.step.inspect import field_hints

TYPES = sorted(load_plugins().step_types)


@pytest.mark.parametrize("name", TYPES)
def test_hints_name_settings_that_exist(name: str) -> None:
    cls = load_plugins().step_type(name)
    hints = hints_of(cls)
    for other, setting in hints.settings.items():
        assert _has(cls, setting.split(".")), (other, setting)
        assert not _has(cls, other.split(".")), other
    for other in hints.absent:
        assert not _has(cls, other.split(".")), other


def _has(cls: type[Settings], keys: list[str]) -> bool:
    first, *rest = keys
    if first not in cls.__struct_fields__:
        return False
    kinds = [k for k in _kinds(field_hints(cls)[first]) if issubclass(k, Settings)]
    return not rest or any(_has(kind, rest) for kind in kinds)


def _kinds(hint: object) -> list[type]:
    parts = getattr(hint, "__args__", (hint,))
    return [part for part in parts if isinstance(part, type)]


@pytest.mark.parametrize(("text", "number"), [
    ("10%", "0.1"), ("12,5 %", "0.125"), ("0,0002", "0.0002"), ("2,048", "2048"), ("2 e-4", "2e-4"),
    ("2*10^-4", "2e-4"), ("2k", "2000"), ("“16”", "16"), ("1_000", None),
    ("many", None), ("", None),
    ("nan", None), ("1e999", None), ("k", None),
])  # fmt: skip
def test_numbers_that_people_write(text: str, number: str | None) -> None:
    assert number_of(text) == number
