"""Mistakes that beginners make: each has exit code 2, and exactly the message of the table."""

from pathlib import Path

import pytest
from mistakes import Mistake, checked, place, read, tables

MISTAKES = [mistake for table in tables() for mistake in read(table)]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.title)
def test_a_mistake_gets_its_message(mistake: Mistake, tmp_path: Path) -> None:
    place(mistake, tmp_path)
    assert checked(tmp_path) == (2, mistake.message), "python tests/mistakes.py writes them anew"


def test_every_message_has_a_place_and_a_fix() -> None:
    assert len(MISTAKES) >= 100
    assert len({mistake.title for mistake in MISTAKES}) == len(MISTAKES)
    for mistake in MISTAKES:
        assert mistake.message.startswith(("recipe.yaml:", "data/")), mistake.title
        assert "\n  fix: " in mistake.message, mistake.title
        assert "Traceback" not in mistake.message


def test_the_recipe_without_a_mistake_passes(tmp_path: Path) -> None:
    place(Mistake("none", ("-seed: 7", "+seed: 7"), ""), tmp_path)
    assert checked(tmp_path)[0] == 0
