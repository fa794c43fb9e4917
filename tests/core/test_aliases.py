"""Aliases of step types: their files can be read, and what they name exists."""

import re
from pathlib import Path
from typing import get_origin

import pytest

from finery.advanced import load_plugins
from finery.errors import PluginError
from finery.fields import Settings
from finery.recipe.hints import _read_aliases, aliases_of
from finery.recipe.messages import number_of
from finery.step.inspect import field_hints
from finery.step.step import Step

TYPES = [load_plugins().step_type(name) for name in sorted(load_plugins().step_types)]
PACKAGES = sorted({cls.__module__.partition(".")[0] for cls in TYPES})


@pytest.mark.parametrize("package", PACKAGES)
def test_aliases_name_classes_and_settings_that_exist(package: str) -> None:
    for name, aliases in _read_aliases(package).items():
        heirs = [cls for cls in TYPES if name in (base.__name__ for base in cls.__mro__)]
        assert heirs, name
        groups = [*aliases.settings.items(), *aliases.absent.items()]
        others = [other for _, names in groups for other in names]
        assert len(set(others)) == len(others), name
        for setting, names in aliases.settings.items():
            assert any(_has(cls, setting.split(".")) for cls in heirs), (name, setting)
            assert not all(_has(cls, o.split(".")) for cls in heirs for o in names), names
        for values in aliases.values.values():
            assert all(re.compile(pattern) for patterns in values.values() for pattern in patterns)


def _has(cls: type[Settings], keys: list[str]) -> bool:
    first, *rest = keys
    if first not in cls.__struct_fields__:
        return False
    hint = field_hints(cls)[first]
    if rest and get_origin(hint) is dict:  # `args`, whose keys are TRL's
        return len(rest) == 1
    parts = getattr(hint, "__args__", (hint,))
    kinds = [part for part in parts if isinstance(part, type) and issubclass(part, Settings)]
    return not rest or any(_has(kind, rest) for kind in kinds)


def test_a_broken_file_of_a_plugin_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_aliases").mkdir()
    (tmp_path / "shop_aliases/__init__.py").write_text(
        "from finery import Job, Dataset, Step\nclass Odd(Step):\n    '''Odd.'''\n"
        "    def run(self, job: Job) -> Dataset: ...\n"
    )
    (tmp_path / "shop_aliases/aliases.yaml").write_text("Odd: {setings: {a: [b]}}\n")
    monkeypatch.syspath_prepend(tmp_path)
    odd: type[Step] = __import__("shop_aliases").Odd
    with pytest.raises(PluginError, match="setings"):
        aliases_of(odd)


@pytest.mark.parametrize(("text", "number"), [
    ("10%", "0.1"), ("12,5 %", "0.125"), ("0,0002", "0.0002"), ("2,048", "2048"), ("1_000", None),
    ("many", None), ("", None), ("nan", None), ("1e999", None),
])  # fmt: skip
def test_numbers_that_people_write(text: str, number: str | None) -> None:
    assert number_of(text) == number
