"""Mistakes that beginners make: each has exit code 2, a place and a fix."""

from pathlib import Path

import pytest
from mistakes import Mistake, checked, essence, place, read, tables

MISTAKES = [mistake for table in tables() for mistake in read(table)]
THREE = """\
recipe.yaml:13:44: error: unknown setting 'train' of data.split
  13 |   split: {use: data.split, rows: messages, train: 80, validation: 10, test: 10}
     |                                            ^
  fix: remove it: train gets the rows that validation and test leave

recipe.yaml:13:67: error: 'validation' can't be 10
  13 |   split: {use: data.split, rows: messages, train: 80, validation: 10, test: 10}
     |                                                                   ^
  fix: write validation: 0.1 for 10 %

recipe.yaml:13:77: error: 'test' can't be 10
  13 |   split: {use: data.split, rows: messages, train: 80, validation: 10, test: 10}
     |                                                                             ^
  fix: write test: 0.1 for 10 %

3 mistakes"""


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.title)
def test_a_mistake_gets_its_errors(mistake: Mistake, tmp_path: Path) -> None:
    place(mistake, tmp_path)
    code, message = checked(tmp_path)
    assert (code, essence(message)) == (2, mistake.errors), "python tests/mistakes.py writes them"
    assert "Traceback" not in message


def test_errors_are_shown_with_their_lines_and_counted(tmp_path: Path) -> None:
    place(next(mistake for mistake in MISTAKES if mistake.title == "80/10/10"), tmp_path)
    assert checked(tmp_path) == (2, THREE)


def test_every_error_has_a_place_and_a_fix() -> None:
    assert len({mistake.title for mistake in MISTAKES}) == len(MISTAKES) >= 100
    for mistake in MISTAKES:
        for error in mistake.errors:
            where, _, fix = error.partition(": ")
            assert where[0].isdigit() or where.startswith("data/"), mistake.title
            assert fix, mistake.title


def test_the_recipe_without_a_mistake_passes(tmp_path: Path) -> None:
    place(Mistake("none", ("-seed: 7", "+seed: 7"), []), tmp_path)
    assert checked(tmp_path)[0] == 0
