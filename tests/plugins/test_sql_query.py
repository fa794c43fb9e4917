"""`sql.query` on real databases: SQLite files, and a PostgreSQL server that the tests start."""

import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import postgres
import pytest
from conftest import MakeProject, Project
from hypothesis import given
from hypothesis import strategies as st
from needs import need

from finery import DataError, FineryError, UsageError
from finery.testing import TestJob
from finery_sql.query import SqlQuery, is_ordered, parameters, trimmed

pytestmark = pytest.mark.slow

need("sqlalchemy")

PAIR = {"user": "{{ body }}", "assistant": "{{ kind }}"}
QUERY = "SELECT id, body, kind FROM tickets ORDER BY id"
RECIPE = """\
finery: 1
name: t
data:
  tickets:
    use: sql.query
    url: TICKETS
    query: |
      SELECT id, body, kind
      FROM tickets
      ORDER BY id
    columns: {user: "{{ body }}", assistant: "{{ kind }}"}
"""


def fill(path: Path, rows: int = 3) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE tickets (id INTEGER PRIMARY KEY, body TEXT, kind TEXT, raw BLOB)")
        made = [(f"ticket {n}", "even" if n % 2 == 0 else "odd", b"\xff") for n in range(rows)]
        db.executemany("INSERT INTO tickets (body, kind, raw) VALUES (?, ?, ?)", made)
    db.close()


def change(path: Path, command: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(command)
    db.close()


def step(folder: Path, **settings: Any) -> SqlQuery:
    """A step on `folder/t.db`, with its files found."""
    given = {"path": "t.db", "query": QUERY, "columns": PAIR, **settings}
    if given.get("url") or given["path"] is None:
        del given["path"]
    made = msgspec.convert(given, SqlQuery, dec_hook=lambda kind, value: kind([value]))
    for files in (made.path, made.query_file):
        if files is not None:
            files.paths = [folder / files.patterns[0]]
    return made


def rows(folder: Path, **settings: Any) -> list[dict[str, Any]]:
    made = step(folder, **settings)
    made.check()
    return list(made.run(TestJob(seed=None)))


def said(found: list[dict[str, Any]]) -> list[str]:
    return [" ".join(m["content"] for m in row["messages"]) for row in found]


def failure(folder: Path, **settings: Any) -> FineryError:
    with pytest.raises(FineryError) as caught:
        rows(folder, **settings)
    return caught.value


# SQLite


@pytest.mark.quick
def test_rows_of_a_sqlite_file(tmp_path: Path) -> None:
    fill(tmp_path / "t.db")
    found = rows(tmp_path, keep={"number": "id"})
    assert said(found) == ["ticket 0 even", "ticket 1 odd", "ticket 2 even"]
    assert [row["number"] for row in found] == [1, 2, 3]


def test_parameters_and_query_files(tmp_path: Path) -> None:
    fill(tmp_path / "t.db", 9)
    query = "SELECT body, kind FROM tickets\nWHERE kind = :kind AND id > :least ORDER BY id;\n"
    (tmp_path / "q.sql").write_text(query)
    params = {"kind": "odd", "least": 5}
    expected = ["ticket 5 odd", "ticket 7 odd"]
    assert said(rows(tmp_path, query=query, params=params)) == expected
    assert said(rows(tmp_path, query=None, query_file="q.sql", params=params)) == expected


def test_values_of_sqlite(tmp_path: Path) -> None:
    fill(tmp_path / "t.db", 1)
    query = "SELECT body, 1.5 AS kind, NULL AS none, raw, 7 AS n, '{\"a\": 1}' AS json FROM tickets"
    (row,) = rows(tmp_path, query=query, keep=["none", "n", "json"])
    assert (row["none"], row["n"], row["json"]) == (None, 7, '{"a": 1}')
    assert row["messages"][1]["content"] == "1.5"
    assert "'raw' holds bytes" in failure(tmp_path, query=query, keep=["raw"]).what
    columns = {**PAIR, "user": "{{ raw }}"}
    assert "a column holds bytes" in failure(tmp_path, query=query, columns=columns).what
    columns = {**PAIR, "user": "{{ none }}"}
    assert "is empty (null)" in failure(tmp_path, query=query, columns=columns).what


@pytest.mark.parametrize(
    ("query", "what", "fix", "line"),
    [
        ("SELECT 1\nFROM tickts", "no such table: tickts", "did you mean 'tickets'?", ":2"),
        ("SELECT body\nFORM tickets\nWHERE 1", "syntax error", "repair the query", ":2"),
        ("SELECT a.id FROM tickts a\nJOIN tickts b", "no such table: tickts", "tickets", "query"),
        ("DELETE FROM tickets", "would change the database", "write a SELECT", ""),
        ("SELECT 1; SELECT 2", "several statements", "write a single SELECT", ""),
    ],
)
def test_queries_that_fail(tmp_path: Path, query: str, what: str, fix: str, line: str) -> None:
    fill(tmp_path / "t.db")
    before = (tmp_path / "t.db").read_bytes()
    error = failure(tmp_path, query=query)
    assert isinstance(error, DataError)
    assert what in error.what
    assert fix in (error.fix or "")
    assert str(error.where).endswith(line)
    assert (tmp_path / "t.db").read_bytes() == before


def test_changes_that_are_not_in_the_file_yet(tmp_path: Path) -> None:
    fill(tmp_path / "t.db")
    db = sqlite3.connect(tmp_path / "t.db")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("UPDATE tickets SET body = 'other'")
    db.commit()
    error = failure(tmp_path)
    assert "changes that are only in t.db-wal" in error.what
    assert "wal_checkpoint" in (error.fix or "")
    db.close()
    assert said(rows(tmp_path))[0] == "other even"


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"path": None}, "one is missing: url or path"),
        ({"query": None}, "one is missing: query or query_file"),
        ({"params": {"a": 1}}, "the query has no parameter :a"),
        ({"url": "postgresql://me:pw@host/db"}, "url must be the name of an environment variable"),
    ],
)
@pytest.mark.quick
def test_settings_that_do_not_fit(tmp_path: Path, settings: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError) as caught:
        step(tmp_path, **settings).check()
    assert what in caught.value.what
    assert "pw" not in str(caught.value)


def test_memory_stays_flat(tmp_path: Path) -> None:
    fill(tmp_path / "t.db", 50_000)
    made = step(tmp_path)
    tracemalloc.start()
    assert sum(1 for _ in made.records({})) == 50_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


# A query's text


@pytest.mark.quick
def test_what_a_query_says() -> None:
    assert parameters("SELECT :a, b::date, '10:30', :a, \\:c WHERE x = :b_2") == ["a", "b_2"]
    assert trimmed(" SELECT 1 ;\n; ") == "SELECT 1"


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT 1 FROM t ORDER BY id", True),
        ("SELECT 1 FROM (SELECT 1 ORDER BY (a)) t", False),
        ("SELECT 'order by' FROM t -- order by\n /* order by */", False),
        pytest.param("SELECT 1" + "(" * 50_000 + ")" * 50_000 + " order by 1", True, id="deep"),
    ],
)
@pytest.mark.quick
def test_order(query: str, ordered: bool) -> None:
    assert is_ordered(query) is ordered


@given(st.text(alphabet="()'\"-/*;ab \n", max_size=60))
def test_any_text_has_an_answer(text: str) -> None:
    assert is_ordered(text) in (True, False)
    assert trimmed(trimmed(text)) == trimmed(text)


# Pins, by the command


@pytest.fixture
def made(project: MakeProject) -> Project:
    found = project({"recipe.yaml": RECIPE})
    fill(found.folder / "t.db")
    found.env["TICKETS"] = f"sqlite:///{found.folder}/t.db"
    return found


@pytest.mark.quick
def test_the_result_is_pinned_and_refreshed_when_asked(made: Project) -> None:
    assert "isn't pinned in recipe.lock yet" in made.run("plan").out
    assert made.ran() == ["tickets"]
    lock = (made.folder / "recipe.lock").read_text()
    assert "sql:TICKETS/" in lock
    assert ": 3 rows, " in lock
    assert "pinned: 3 rows" in made.run("plan").out
    change(made.folder / "t.db", "UPDATE tickets SET body = 'new' WHERE id = 1")
    assert made.ran() == []
    assert said(made.rows("tickets"))[0] == "ticket 0 even"
    assert made.ran("--update-lock") == ["tickets"]
    assert said(made.rows("tickets"))[0] == "new even"
    assert made.ran("--update-lock") == []


def test_rows_that_are_gone_are_asked_for_again_and_must_be_the_same(made: Project) -> None:
    made.ran()
    for path in (made.folder / ".finery").iterdir():
        if path.name == "pinned":
            next(path.iterdir()).write_text("damaged")
    made.edit("recipe.yaml", "{{ kind }}", "{{ kind | upper }}")
    assert made.ran() == ["tickets"]
    change(made.folder / "t.db", "DELETE FROM tickets WHERE id = 1")
    next((made.folder / ".finery" / "pinned").iterdir()).unlink()
    made.edit("recipe.yaml", "| upper", "| lower")
    ran = made.run("build")
    assert ran.code == 2
    assert "gives other rows now (2 rows" in ran.err
    assert "finery build --update-lock" in ran.err
    assert made.ran("--update-lock") == ["tickets"]
    assert len(made.rows("tickets")) == 2


def test_a_sqlite_file_by_path_is_hashed_as_any_file(made: Project) -> None:
    made.edit("recipe.yaml", "url: TICKETS", "path: t.db")
    assert made.ran() == ["tickets"]
    assert not (made.folder / "recipe.lock").exists()
    assert made.ran() == []
    change(made.folder / "t.db", "UPDATE tickets SET body = 'new' WHERE id = 1")
    assert "file path t.db changed" in made.run("plan").out
    assert made.ran() == ["tickets"]


def test_changes_outside_the_file_stop_a_build_with_cached_rows(made: Project) -> None:
    change(made.folder / "t.db", "PRAGMA journal_mode = WAL")
    made.edit("recipe.yaml", "url: TICKETS", "path: t.db")
    assert made.ran() == ["tickets"]
    assert made.ran() == []
    db = sqlite3.connect(made.folder / "t.db")
    db.execute("UPDATE tickets SET body = 'other'")
    db.commit()
    ran = made.run("build")
    assert ran.code == 2
    assert "changes that are only in t.db-wal" in ran.err
    db.close()
    assert made.ran() == ["tickets"]
    assert said(made.rows("tickets"))[0] == "other even"


def test_a_query_file_is_part_of_the_key(made: Project) -> None:
    text = (made.folder / "recipe.yaml").read_text()
    query = text[text.index("    query: |") : text.index("    columns")]
    made.edit("recipe.yaml", query, "    query_file: q.sql\n")
    made.write({"q.sql": "SELECT body, kind FROM tickets;\n"})
    assert "has no ORDER BY" in made.run("check").out
    assert made.ran() == ["tickets"]
    made.write({"q.sql": "SELECT body, kind FROM tickets\nORDER BY id DESC"})
    assert "ORDER BY" not in made.run("check").out
    assert made.ran() == ["tickets"]
    assert said(made.rows("tickets"))[0] == "ticket 2 even"
    made.write({"q.sql": "SELECT body\nFROM tickts ORDER BY 1"})
    assert "q.sql:2: error: no such table" in made.run("build").err


def test_a_url_in_the_recipe_is_refused_and_not_shown(made: Project) -> None:
    made.edit("recipe.yaml", "url: TICKETS", "url: postgresql://me:pa55word@db.host/x")
    for command in ("check", "build", "plan"):
        ran = made.run(command)
        assert ran.code == 2
        assert "url must be the name of an environment variable" in ran.err
        assert "pa55word" not in ran.out + ran.err
    made.edit("recipe.yaml", "url: postgresql://me:pa55word@db.host/x", "url: TICKETS")
    ran = made.run("check", "--set", "data.tickets.url=postgresql://me:pa55word@db.host/x")
    assert ran.code == 2
    assert "pa55word" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("url", "what", "fix"),
    [
        ("nothing-like-a-url", "must be the URL of a database", "write it as postgresql://"),
        (
            "postgresq://u:pa55word@h/d",
            "doesn't know the database 'postgresq'",
            "mean 'postgresql'?",
        ),
        ("sqlite://", "the URL doesn't name an SQLite file", "sqlite:///path"),
        ("postgresql://u:pa55word@127.0.0.1:9/d", "can't be reached", "check that it is running"),
    ],
)
def test_urls_that_lead_nowhere(made: Project, url: str, what: str, fix: str) -> None:
    pytest.importorskip("psycopg", reason="needs the package psycopg")
    made.env["TICKETS"] = url
    ran = made.run("build")
    assert what in ran.err
    assert fix in ran.err
    assert "pa55word" not in ran.out + ran.err
    assert ran.code in (1, 2)


# PostgreSQL


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    pytest.importorskip("psycopg", reason="needs the package psycopg")
    if why := postgres.missing():
        pytest.skip(why)
    with postgres.serving() as found:
        execute(found, CREATE)
        yield found


CREATE = """
CREATE TABLE tickets (
  id int PRIMARY KEY, body text, kind text, price numeric(10, 2), day date, at timestamptz,
  local timestamp, span interval, raw bytea, facts jsonb, tags text[], mark uuid, ok boolean,
  ratio float8, net inet);
INSERT INTO tickets VALUES (
  1, 'ticket 1', 'odd', 12.50, '2026-01-02', '2026-01-02 03:04:05+09', '2026-01-02 03:04:05',
  '1 day 2 hours', '\\xff', '{"a": [1, null]}', '{x,y}', '00000000-0000-0000-0000-000000000001',
  true, 0.25, '10.0.0.1');
INSERT INTO tickets (id, body, kind)
  SELECT n, 'ticket ' || n, 'even' FROM generate_series(2, 5000) n;
"""


def execute(server: postgres.Server, command: str) -> None:
    import psycopg

    with psycopg.connect(server.url()) as db:
        db.execute(command.encode())


@pytest.fixture
def kept(server: postgres.Server, project: MakeProject) -> Project:
    found = project({"recipe.yaml": RECIPE})
    found.env["TICKETS"] = server.url()
    return found


@pytest.mark.quick
def test_rows_of_postgresql(kept: Project) -> None:
    assert kept.ran() == ["tickets"]
    assert said(kept.rows("tickets"))[:2] == ["ticket 1 odd", "ticket 2 even"]
    assert len(kept.rows("tickets")) == 5000
    for path in [*(kept.folder / ".finery").rglob("*"), kept.folder / "recipe.lock"]:
        if path.is_file():
            assert postgres.PASSWORD.encode() not in path.read_bytes(), path


def test_values_of_postgresql(kept: Project) -> None:
    names = "price, day, at, local, span, raw, facts, tags, mark, ok, ratio, net"
    kept.edit("recipe.yaml", "id, body, kind", f"id, body, kind, {names}, to_char(at, 'HH24') h")
    kept.edit("recipe.yaml", "ORDER", "WHERE id = :id ORDER")
    kept.edit("recipe.yaml", "    columns", "    params: {id: 1}\n    columns")
    wanted = names.replace("raw, ", "")
    kept.write({"recipe.yaml": (kept.folder / "recipe.yaml").read_text()
                + f"    keep: [{wanted}, h]\n"})  # fmt: skip
    kept.ran()
    (row,) = kept.rows("tickets")
    assert {name: row[name] for name in [*wanted.split(", "), "h"]} == {
        "price": "12.50", "day": "2026-01-02", "at": "2026-01-01T18:04:05+00:00",
        "local": "2026-01-02T03:04:05", "span": "1 day, 2:00:00", "facts": {"a": [1, None]},
        "tags": ["x", "y"], "mark": "00000000-0000-0000-0000-000000000001", "ok": True,
        "ratio": 0.25, "net": "10.0.0.1", "h": "18",
    }  # fmt: skip


def test_postgresql_is_only_read(kept: Project, server: postgres.Server) -> None:
    execute(server, "CREATE OR REPLACE FUNCTION grow() RETURNS int LANGUAGE sql AS "
            "'INSERT INTO tickets (id, body) VALUES (-1, 1) RETURNING id'")  # fmt: skip
    kept.edit("recipe.yaml", "SELECT id,", "SELECT grow() AS id,")
    ran = kept.run("build")
    assert ran.code == 2
    assert "the query would change the database" in ran.err
