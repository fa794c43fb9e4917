"""Contracts without what `finery plugins --check` finds of all installed plugins at once."""

from pathlib import Path

import pytest

ONCE = ("test_it_is_described", "test_loading_it_imports_nothing_heavy")
"""tests/cli/test_plugins_command.py has them, in one process instead of one for each class."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect them, except for the plugins of the documentation, which aren't installed."""
    here = Path(__file__).parent
    again = [
        item
        for item in items
        if item.path.parent == here and item.path.stem != "test_documented" and item.name in ONCE
    ]
    config.hook.pytest_deselected(items=again)
    items[:] = [item for item in items if item not in again]
