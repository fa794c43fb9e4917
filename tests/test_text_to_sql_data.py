"""The questions of the recipe text-to-sql: the rules of its guide for every query."""

import json
import random
import re
import sqlite3
from functools import cache
from pathlib import Path

from finery.testing import dataset, run_step
from finery_data.steps.copies import Decontaminate

DATA = Path(__file__).parents[1] / "recipes" / "text-to-sql" / "data"


@cache
def rows(name: str) -> list[dict[str, str]]:
    """The rows of a file: question and SQL."""
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def database(seed: int | None) -> sqlite3.Connection:
    """The recipe's database; with a seed, its tables are filled in another order."""
    script = (DATA / "schema.sql").read_text("utf-8")
    if seed is not None:
        shuffle = random.Random(seed)

        def shuffled(match: re.Match[str]) -> str:
            lines = match[2].rstrip(";").split(",\n")
            shuffle.shuffle(lines)
            return match[1] + ",\n".join(lines) + ";"

        # Without a primary key, SQLite returns the rows in the order in which they were inserted.
        script = script.replace("id INTEGER PRIMARY KEY", "id INTEGER")
        script = re.sub(r"(INSERT INTO \w+ VALUES\n)(.*?;)$", shuffled, script, flags=re.S | re.M)
    connection = sqlite3.connect(":memory:")
    connection.executescript(script)
    return connection


def result(connection: sqlite3.Connection, sql: str) -> list[tuple[object, ...]]:
    """Its rows, fractions to 11 digits, and sorted unless the query sorts them."""
    cells = [
        tuple(float(f"{cell:.11g}") if isinstance(cell, float) else cell for cell in row)
        for row in connection.execute(sql)
    ]
    return cells if "ORDER BY" in sql else sorted(cells, key=repr)


def test_every_query_has_a_result_that_depends_on_no_tie() -> None:
    plain = database(None)
    others = [database(seed) for seed in range(3)]
    assert result(others[0], "SELECT COUNT(*) FROM orders") == [(64,)]
    for row in [*rows("questions.jsonl"), *rows("test.jsonl")]:
        expected = result(plain, row["sql"])
        assert expected not in ([], [(None,)], [(0,)]), row
        assert all(result(other, row["sql"]) == expected for other in others), row


def test_no_question_nearly_repeats_a_test_question(tmp_path: Path) -> None:
    prompts = {
        name: [
            {"messages": [{"role": "user", "content": row["question"]}]}
            for row in rows(f"{name}.jsonl")
        ]
        for name in ("questions", "test")
    }
    step = Decontaminate(
        rows=[dataset(tmp_path / "questions", prompts["questions"])],
        against=[dataset(tmp_path / "test", prompts["test"])],
    )
    assert run_step(step, tmp_path / "out").meta["rows"] == len(prompts["questions"])
