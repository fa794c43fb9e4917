"""What is installed, as `importlib.metadata` gives it."""

import importlib.metadata

from finery.util import installed


def test_versions_are_those_of_importlib_metadata() -> None:
    names = {installed.normalise_name(d.name) for d in importlib.metadata.distributions()}
    assert installed.distributions().keys() == names
    for name in names:
        assert installed.version_of(name) == importlib.metadata.version(name)


def test_entry_points_are_those_of_importlib_metadata() -> None:
    for group in ("finery", "console_scripts", "pytest11"):
        expected = {e.name: e.value for e in importlib.metadata.entry_points(group=group)}
        assert {e.name: e.value for e in installed.entry_points(group)} == expected
