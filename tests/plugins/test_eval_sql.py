"""`eval.sql` on a real SQLite, with models that answer from a table."""

import time
from pathlib import Path
from typing import Any

import pytest
from tables import model, rows

from finery import DataError, Files
from finery.testing import run_step
from finery_eval.database import Database, QueryError, statements
from finery_eval.steps.sql import Sql, normalised

pytestmark = pytest.mark.usefixtures("tables_answer")

SCRIPT = """\
PRAGMA foreign_keys = OFF;
BEGIN TRANSACTION;
CREATE TABLE beans (name TEXT, origin TEXT, price REAL, bags INTEGER); -- semicolons; here
INSERT INTO beans VALUES
  ('Dusk; dark', 'Peru', 9.1, 0), ('Fox', 'Kenya', 10.2, 7), ('Owl', 'Kenya', 12.3, 5);
CREATE VIEW kenyan AS SELECT name FROM beans WHERE origin = 'Kenya';
COMMIT;
/* the end; */
"""
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script that makes a database."""
    path = tmp_path / "beans.sql"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


@pytest.fixture
def database(script: Path) -> Database:
    """The database, with little time for each query."""
    return Database([script], timeout=0.2)


def verdict(script: Path, expected: str, answer: str, **settings: Any) -> dict[str, Any]:
    """What `predictions.jsonl` says of one answer."""
    folder = script.parent
    step = Sql(
        models=[model("m", q=answer)],
        rows=rows(folder, q=expected),
        schema=Files(["*.sql"], [script]),
        **settings,
    )
    (found,) = run_step(step, folder).predictions()
    return dict(found)


def test_scores_and_comparisons(tmp_path: Path, script: Path) -> None:
    asked = {"a": "SELECT name FROM beans WHERE bags = 0", "b": "SELECT SUM(bags) FROM beans"}
    base = model("base", a="There are none.", b="SELECT COUNT(*) FROM beans")
    sft = model("sft", a="select name  from beans where bags=0;", b="SELECT 5 + 7")
    step = Sql(
        models=[base, sft], rows=rows(tmp_path, **asked), schema=Files(["beans.sql"], [script])
    )
    report = run_step(step, tmp_path).report().data()
    assert report["scores"] == {
        "base": {"accuracy": 0.0, "exact": 0.0, "valid": 0.5},
        "sft": {"accuracy": 1.0, "exact": 0.5, "valid": 1.0},
    }
    assert report["details"]["headline"] == step.metric_names()
    assert report["details"]["comparisons"][0]["only_model"] == 2
    queries = next(t for t in report["details"]["tables"] if t["title"] == "Queries")
    assert queries["rows"] == [["base", 0, 1, 1], ["sft", 2, 0, 0]]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("SELECT name FROM kenyan", None),
        ("SELECT name FROM kenyan ORDER BY name DESC", None),
        ("Sure:\n```sql\nSELECT name FROM kenyan;\n```\nIt lists them.", None),
        ("SELECT name, bags FROM beans", "2 columns, expected 1"),
        ("SELECT name FROM beans", "3 rows, expected 2"),
        ("SELECT 'Fox' FROM kenyan", "returns ('Fox',), expected ('Owl',)"),
        ("SELECT nme FROM kenyan", "no such column: nme"),
        ("SELECT name FROM kenyan; SELECT 1", "You can only execute one statement at a time."),
        ("", "not a query"),
    ],
)
def test_what_is_right_and_why_not(script: Path, answer: str, error: str | None) -> None:
    found = verdict(script, "SELECT name FROM beans WHERE origin = 'Kenya'", answer)
    assert found["error"] == error
    assert found["correct"] is (error is None)
    assert found["expected"].startswith("SELECT name")
    assert "```" not in found["prediction"]


@pytest.mark.parametrize(
    ("expected", "ordered", "correct"),
    [
        ("SELECT name FROM kenyan ORDER BY name", "auto", False),
        ("SELECT name FROM kenyan ORDER BY name", "never", True),
        ("SELECT name FROM (SELECT * FROM kenyan ORDER BY name)", "auto", True),
        ("SELECT name FROM (SELECT * FROM kenyan ORDER BY name)", "always", False),
    ],
)
def test_order(script: Path, expected: str, ordered: Any, correct: bool) -> None:
    answer = "SELECT name FROM kenyan ORDER BY name DESC"
    found = verdict(script, expected, answer, ordered=ordered)
    assert found["correct"] is correct
    assert found["values"]["valid"]


def test_fractions_are_compared_to_twelve_digits(script: Path) -> None:
    expected = "SELECT SUM(price) FROM beans"
    assert verdict(script, expected, "SELECT 9.1 + (10.2 + 12.3)")["correct"]
    assert not verdict(script, expected, "SELECT 31.6000001")["correct"]
    assert verdict(script, "SELECT COUNT(*) FROM beans", "SELECT 3.0")["correct"]


@pytest.mark.parametrize(
    "query",
    [
        "ATTACH 'stolen.db' AS s",
        "VACUUM INTO 'stolen.db'",
        "PRAGMA query_only = OFF",
        "SELECT * FROM pragma_database_list",
        "SELECT * FROM sqlite_dbpage",
        "INSERT INTO beans VALUES ('x', 'y', 1, 1)",
        "WITH x AS (SELECT 1) DELETE FROM beans",
        "DROP TABLE beans",
        "CREATE TEMP TABLE t (a)",
        "BEGIN",
        "SELECT load_extension('evil')",
        "SELECT readfile('/etc/passwd')",
        "SELECT random()",
        "SELECT date('now')",
        "SELECT strftime('%Y')",
        "SELECT datetime('2025-01-01', 'localtime')",
        "SELECT CURRENT_DATE",
        "SELECT date(x'6e6f77')",
        "SELECT last_insert_rowid()",
        "SELECT changes()",
        "SELECT sqlite_source_id()",
        "/* why */ EXPLAIN QUERY PLAN SELECT 1",
        "SELECT zeroblob(1000000000)",
        "SELECT '\ud800'",
        "SELECT '\0'",
        "SELECT CAST(x'ff' AS TEXT)",
        "SELECT " + "1 + " * 4000 + "1",
        NUMBERS + "SELECT COUNT(*) FROM n",
        NUMBERS + "SELECT i FROM n",
        NUMBERS + "SELECT zeroblob(90000) AS z FROM n ORDER BY z",
        NUMBERS + "SELECT group_concat(i) FROM n",
        "SELECT COUNT(*) FROM " + ", ".join(f"beans b{i}" for i in range(40)),
    ],
)
def test_harm_is_refused(
    query: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started = time.process_time()
    with pytest.raises(QueryError, match=r"\w"):
        database.query(query)
    assert time.process_time() - started < 5
    assert [p.name for p in tmp_path.iterdir()] == ["beans.sql"]
    assert database.query("SELECT COUNT(*) FROM beans") == [(3,)]


def test_a_slow_function_ends(database: Database) -> None:
    started = time.process_time()
    database.query(
        "SELECT replace(printf('%.*c', 19900, 'a'), printf('%.*c', 9900, 'a') || 'b', '')"
    )
    columns = ", ".join(["instr(a, b)"] * 190)
    texts = "SELECT printf('%.*c', 19900, 'a') AS a, printf('%.*c', 9900, 'a') || 'b' AS b"
    database.query(f"SELECT {columns} FROM ({texts})")
    assert time.process_time() - started < 5


def test_what_a_query_may_do(database: Database) -> None:
    assert database.query("SELECT date('2025-01-31', '+1 day'), strftime('%Y', '2024-02-02')") == [
        ("2025-02-01", "2024")
    ]
    assert database.query("SELECT value FROM json_each('[4]')") == [(4,)]
    named = "WITH k AS (SELECT name FROM beans) SELECT COUNT(*), RANK() OVER (ORDER BY 1) FROM k"
    assert database.query(named) == [(3, 1)]
    assert database.query(NUMBERS.replace("FROM n)", "FROM n LIMIT 3)") + "SELECT MAX(i) FROM n")


def test_expected_queries_that_fail_are_named(tmp_path: Path, script: Path) -> None:
    table = rows(tmp_path, a="SELECT 1", b="SELECT nope FROM beans")
    step = Sql(models=[model("m")], rows=table, schema=Files(["*"], [script]))
    with pytest.raises(DataError, match="some expected queries fail") as caught:
        run_step(step, tmp_path)
    (line,) = caught.value.details
    assert line.startswith(f"row {list(table)[1]['id']}: no such column: nope: SELECT nope")


def test_rows_without_a_query(tmp_path: Path, script: Path) -> None:
    step = Sql(models=[model("m")], rows=rows(tmp_path, a=" "), schema=Files(["*"], [script]))
    with pytest.raises(DataError, match="no expected answer"):
        run_step(step, tmp_path)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("CREATE TABLE t (a);\n-- fill it\nINSERT INTO t\nVALUES (1, 2);", ":3", "2 values"),
        ("CREATE TABLE t (a);\nATTACH 'x.db' AS x;", ":2", "not authorized"),
        ("CREATE TABLE t (a);\nINSERT INTO t VALUES (date('now'));", ":2", "depends on when"),
        ("-- nothing here;", "", "create no table"),
    ],
)
def test_scripts_that_fail(
    tmp_path: Path, text: str, line: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.sql").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=what) as caught:
        Database([tmp_path / "bad.sql"], timeout=1)
    assert caught.value.where == f"bad.sql{line}"
    assert caught.value.fix
    assert [p.name for p in tmp_path.iterdir()] == ["bad.sql"]


def test_statements_are_told_apart() -> None:
    trigger = "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; SELECT ';'; END;"
    found = list(statements(f"-- a;\nSELECT 1; SELECT 2;\n\n{trigger}\n/* ; */ SELECT 3 -- end;\n"))
    assert [line for line, _ in found] == [2, 2, 4, 5]
    assert found[2][1] == trigger
    assert found[1][1] == "SELECT 2;"


def test_spelling_does_not_count_for_exact() -> None:
    one = "SELECT a ,b FROM t -- why\n WHERE c='It''s  X';"
    assert normalised(one) == normalised("select A, b from T where C = 'It''s  X'")
    assert normalised(one) != normalised("select a, b from t where c = 'it''s  x'")
    assert normalised("SELECT 'a' 'b'") != normalised("SELECT 'a''b'")
