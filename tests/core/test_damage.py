"""A damaged, locked or read-only store: what is left of it is saved, and work goes on."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import FINERY, TWO_STEPS, MakeProject, Project, until
from needs import may_lack
from store_clones import ends, finish, start

from finery.errors import UsageError
from finery.inference.records import SqliteRecords
from finery.store import connection, repairs
from finery.store.connection import Database

ANSWERS = {
    random.Random(n).randbytes(32): msgspec.msgpack.encode(
        [{"text": f"answer {n} " * (n % 7 * 100), "finish_reason": "stop"}]
    )
    for n in range(300)
}
"""Records, some of them longer than a page."""
PAGE = 4096


@pytest.fixture(name="built")
def _built(built: MakeProject) -> Project:
    """A built project."""
    return built({"recipe.yaml": TWO_STEPS, "rows.txt": "one\ntwo\n"})


def database(t: Project) -> Path:
    return t.folder / ".finery/finery.db"


def answers(t: Project) -> dict[bytes, bytes]:
    """The records in the store."""
    return SqliteRecords(database(t)).get(list(ANSWERS))


def set_aside(t: Project) -> list[str]:
    """What was renamed in the store."""
    return sorted(p.name for p in (t.folder / ".finery").rglob("*.damaged-*"))


def as_text(path: Path) -> None:
    path.write_text("not a database\n" * 1000)


def emptied(path: Path) -> None:
    path.write_bytes(b"")
    os.utime(path, (1, 1))


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 77)


def without_its_end(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 77)


def without_first_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(random.Random(2).randbytes(PAGE))


def with_random_pages(path: Path) -> None:
    chance = random.Random(3)
    with path.open("r+b") as file:
        for number in range(1, path.stat().st_size // PAGE):
            if chance.random() < 0.9:  # so that some page of each table is among them
                file.seek(number * PAGE)
                file.write(chance.randbytes(PAGE))


def with_a_random_page(path: Path) -> None:
    """One page of the answers, and a table is missing, which a build notices."""
    db = sqlite3.connect(path)
    db.execute("DROP TABLE files")
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    pages, value = path.read_bytes(), ANSWERS[min(ANSWERS)]
    with path.open("r+b") as file:
        file.seek(pages.rindex(value[:20]) // PAGE * PAGE)
        file.write(random.Random(4).randbytes(PAGE))


def with_text_that_is_none(path: Path) -> None:
    """In a column that no build reads."""
    db = sqlite3.connect(path)
    db.execute("UPDATE results SET run = CAST(x'ff' AS TEXT)")
    db.execute("DROP TABLE files")
    db.commit()
    db.close()


def with_a_table_that_has_no_name(path: Path) -> None:
    """SQLite's message quotes it, and can't be decoded."""
    names = path.read_bytes()
    assert b"tableresultsresults" in names
    path.write_bytes(names.replace(b"tableresultsresults", b"table\x8besults\x8besults"))


def with_a_format_of_the_future(path: Path) -> None:
    """In the header, so that SQLite reads nothing."""
    with path.open("r+b") as file:
        file.seek(47)
        file.write(b"\x05")


def with_another_schema(path: Path) -> None:
    db = sqlite3.connect(path)
    db.executescript(
        "DROP TABLE results; CREATE TABLE results (number); DROP TABLE facts; DROP TABLE files"
    )
    db.close()


@pytest.mark.parametrize(
    ("damage", "saved"),
    [
        (as_text, 0), (emptied, 0), (truncated, 0), (without_its_end, 250),
        (without_first_page, 0), (with_random_pages, 0), (with_another_schema, 300),
        (with_a_random_page, 250), (with_text_that_is_none, 300),
        (with_a_table_that_has_no_name, 0), (with_a_format_of_the_future, 0),
    ],
)  # fmt: skip
def test_a_damaged_database_is_replaced_by_one_with_what_could_be_read(
    built: Project, damage: Callable[[Path], None], saved: int
) -> None:
    records = Database(database(built))
    records.write(("INSERT INTO records VALUES (?, ?)", ANSWERS.items()))
    records.close()
    damage(database(built))
    code, _, err = built.run("build")
    assert code == 0, err
    assert damage is not with_text_that_is_none or "2 finished steps were recovered" in err
    assert "Traceback" not in err
    assert "was damaged" in err
    assert err.splitlines()[0].isprintable()
    assert "finery.db.damaged-" in err
    assert any(name.startswith("finery.db.damaged-") for name in set_aside(built))
    kept = answers(built)
    assert len(kept) >= saved
    assert all(ANSWERS[key] == value for key, value in kept.items())
    assert [r["prompt"] for r in built.rows("b")] == ["one", "two"]
    assert built.run("build").err.count("damaged") == 0


def test_a_step_runs_again_if_the_names_of_its_outputs_are_damaged(project: MakeProject) -> None:
    halves = "  halves: {use: steps.halve, rows: a}\n  c: {use: steps.copy, rows: halves.second}\n"
    t = project({"recipe.yaml": TWO_STEPS + halves, "rows.txt": "one\ntwo\n"})
    t.ran()
    db = sqlite3.connect(database(t))
    db.execute("UPDATE results SET outputs = CAST(replace(outputs, 'second', 'secoMd') AS BLOB)")
    db.commit()
    db.close()
    assert t.ran("--set", "data.b.tag=2") == ["b", "halves"]


def test_a_step_runs_again_if_the_name_of_a_file_is_damaged(built: Project) -> None:
    db = sqlite3.connect(database(built))
    db.execute("UPDATE results SET outputs = CAST(replace(outputs, '.jsonl', '.jsonm') AS BLOB)")
    db.commit()
    db.close()
    assert "its result was lost with a damaged database" in built.run("explain", "a").out
    assert built.ran("--set", "data.b.tag=2") == ["a", "b"]
    assert set_aside(built)


def test_what_sqlite_can_read_is_saved_from_a_damaged_database(built: Project) -> None:
    records = Database(database(built))
    records.write(("INSERT INTO records VALUES (?, ?)", ANSWERS.items()))
    records.close()
    with database(built).open("r+b") as file:  # of records, which were written last
        file.seek(-10 * PAGE, os.SEEK_END)
        file.write(random.Random(1).randbytes(10 * PAGE))
    assert 0 < len(answers(built)) < len(ANSWERS)
    assert set_aside(built)
    assert built.ran() == []


def test_what_others_write_while_a_database_is_replaced_is_kept(
    built: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, key = database(built), min(ANSWERS)

    def write() -> None:
        Database(path).write(("INSERT INTO records VALUES (?, ?)", [(key, ANSWERS[key])]))

    def salvage(*args: Any) -> Any:
        saved = salvaged(*args)
        writer.start()
        writer.join(0.5)  # it waits, and must not write into what is renamed
        return saved

    salvaged, writer = repairs.salvage, threading.Thread(target=write)
    monkeypatch.setattr(repairs, "salvage", salvage)
    other = Database(path)
    Database(path).damaged("a test")
    writer.join()
    Database(path).write(("INSERT INTO facts VALUES (?, ?)", [("new", b"")]))
    for each in (Database(path), other):  # which has the old one open
        assert each.rows("SELECT key FROM records") == [(key,)]
        assert each.rows("SELECT 1 FROM facts WHERE name = 'new'") == [(1,)]


@pytest.mark.forks
def test_a_kill_while_a_database_is_replaced_loses_nothing(built: Project) -> None:
    path, saved, opened = database(built), built.folder / "saved", built.folder / "opened"
    log = path.with_name("finery.db-wal")
    writer = Database(path)
    writer.write(("INSERT INTO records VALUES (?, ?)", ANSWERS.items()))
    assert log.stat().st_size  # they aren't in the database yet
    shutil.copytree(path.parent, saved, symlinks=True)
    writer.close()
    for after in range(24):
        shutil.rmtree(path.parent)
        shutil.copytree(saved, path.parent, symlinks=True)

        def replace(after: int = after) -> dict[str, str]:
            until(opened.exists)
            ends("kill", after)
            Database(path).damaged("a test")
            return {"answer": "not killed"}

        process = start(replace)  # before this process has connections
        other = Database(path)
        opened.touch()
        is_over = finish(process)
        other.write(("INSERT INTO facts VALUES (?, ?)", [("dollars of a", b"1")]))
        new = Database(path)
        assert dict(new.rows("SELECT * FROM records")) == ANSWERS, after
        assert new.rows("SELECT count(*) FROM results") == [(2,)]
        assert new.rows("SELECT 1 FROM facts WHERE name = 'dollars of a'")
        opened.unlink()
        other.close()
        new.close()
    assert is_over
    assert built.ran() == []


def test_a_process_that_waits_for_one_that_is_killed_continues(built: Project) -> None:
    path, row, is_open = database(built), min(ANSWERS.items()), threading.Event()

    def write() -> None:
        db = Database(path)
        is_open.set()
        db.write(("INSERT INTO records VALUES (?, ?)", [row]))

    replacing, writer = sqlite3.connect(path, isolation_level=None), threading.Thread(target=write)
    replacing.execute("BEGIN IMMEDIATE")
    writer.start()
    is_open.wait()
    writer.join(0.3)  # it waits for the lock
    new = connection.connect(path.with_name("finery.db.new"))
    repairs.salvage(path, new)
    new.close()
    path.rename(path.with_name("finery.db.damaged-20260101-000000"))
    replacing.close()
    writer.join()
    assert Database(path).rows("SELECT * FROM records") == [row]
    assert Database(path).rows("SELECT count(*) FROM results") == [(2,)]


def test_a_process_waits_while_another_one_replaces_the_database(
    built: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, moved, answer = database(built), list[Path](), min(ANSWERS.items())

    def write() -> None:
        Database(path).write(("INSERT INTO records VALUES (?, ?)", [answer]))

    def rename(old: Path, new: Path) -> Path:
        renamed = move(old, new)
        moved.append(old)
        if old == path:  # where it was, there is nothing now
            writer.start()
            writer.join(0.5)
        return renamed

    move, writer = Path.rename, threading.Thread(target=write)
    monkeypatch.setattr(Path, "rename", rename)
    Database(path).damaged("a test")
    writer.join()
    assert path in moved
    assert Database(path).rows("SELECT * FROM records") == [answer]
    assert Database(path).rows("SELECT count(*) FROM results") == [(2,)]


def test_a_database_that_another_process_is_writing_is_not_replaced(built: Project) -> None:
    path = database(built)
    command = [sys.executable, "-c", HOLDER, str(path), "IMMEDIATE"]
    holder = subprocess.Popen(command, stdin=-1, stdout=-1, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(UsageError, match=f"is locked by process {holder.pid}"):
        Database(path).damaged("a test")
    holder.communicate("")
    assert not set_aside(built)
    assert built.ran() == []


def test_a_database_that_shrinks_while_it_is_opened_is_not_damaged(
    built: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, looks = database(built), list[Path]()
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    other.execute("INSERT INTO facts VALUES ('large', zeroblob(1000000))")
    other.execute("DELETE FROM facts WHERE name = 'large'")
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def shrink_before(file: Path) -> bool:
        if file.name == "finery.db-wal":
            looks.append(file)
            other.execute("VACUUM")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return exists(file)

    exists = Path.exists
    monkeypatch.setattr(Path, "exists", shrink_before)
    Database(path).close()
    assert looks
    assert not set_aside(built)


def test_two_processes_that_replace_tables_of_an_earlier_version_keep_each_others_results(
    built: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, versions = database(built), list[int]()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={connection.VERSION - 1}")
    db.close()

    def version_before_another_process(db: sqlite3.Connection, path: Path) -> int:
        number = version(db, path)
        versions.append(number)
        if len(versions) == 1:
            Database(path).write(("INSERT INTO facts VALUES (?, ?)", [("of the other", b"")]))
        return number

    version = connection._version
    monkeypatch.setattr(connection, "_version", version_before_another_process)
    new = Database(path)
    assert versions[0] < connection.VERSION
    assert new.rows("SELECT name FROM facts") == [("of the other",)]


def copied_rows(path: Path, **runs: str) -> list[str]:
    """Keys of copies of a result, and a missing table, which a build notices.

    runs: those of the copies with these names, `_0` to `_7`.
    """
    keys = [f"00{number:062}" for number in range(8)]
    db = sqlite3.connect(path)
    for number, key in enumerate(keys):
        for table in ("parts", "results"):
            values = [*db.execute(f"SELECT * FROM {table}").fetchone()[1:]]
            if table == "results":
                values[-1] = runs.get(f"_{number}", "")
            db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))}, ?)",
                       [key, *values])  # fmt: skip
    db.execute("DROP TABLE files")
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return keys


def test_a_row_that_only_its_key_leads_to_is_saved(built: Project) -> None:
    """An entry of its page leads nowhere, so reading rows in order ends before it."""
    keys = copied_rows(database(built))
    content = database(built).read_bytes()
    parts = content.index(keys[0].encode() + b"[[")
    with database(built).open("r+b") as file:
        file.seek(parts // PAGE * PAGE + 8)
        file.write(b"\xff\xff")
    assert built.ran() == []
    saved = [key for (key,) in sqlite3.connect(database(built)).execute("SELECT key FROM parts")]
    assert {*keys[4:]} <= {*saved}


def test_rows_between_rows_with_wrong_keys_that_cannot_be_read_are_saved(built: Project) -> None:
    """Wrong keys mislead a search for others."""
    long = msgspec.msgpack.encode([{"text": "w" * 9000}])
    records = Database(database(built))
    records.write(("INSERT INTO records VALUES (?, ?)", [*ANSWERS.items(), (b"\x80" * 32, long)]))
    records.close()
    keys = copied_rows(database(built), _2="x" * 9000, _6="y" * 9000)
    content = database(built).read_bytes()
    starts = {b"x": keys[2].encode() + b"{", b"y": keys[6].encode() + b"{", b"w": b"\x80" * 32}
    with database(built).open("r+b") as file:
        for text, start in starts.items():
            file.seek(content.index(text * (PAGE - 4)) // PAGE * PAGE)  # the rest of the row
            file.write(b"\x7f\xff\xff\xff")
            file.seek(content.index(start))
            file.write(b"\xff" * 32)
    assert built.ran() == []
    assert answers(built) == ANSWERS
    db = sqlite3.connect(database(built))
    saved = {key for (key,) in db.execute("SELECT key FROM results")}
    assert {*keys} - saved == {keys[2], keys[6]}


def test_results_of_a_build_outlive_a_database_that_is_removed_meanwhile(
    project: MakeProject,
) -> None:
    code = "for path in Path(job.out).parents[1].glob('finery.db*'): path.unlink()\n"
    more = f"  c: {{use: steps.script, rows: b, code: {code!r}}}\n"
    last = "  d: {use: steps.copy, rows: c, tag: 1}\n"
    t = project({"recipe.yaml": TWO_STEPS + more + last, "rows.txt": "one\n"})
    assert t.ran("--step", "a") == ["a"]  # which the next build has only looked up
    assert t.ran() == ["b", "c", "d"]
    assert t.ran("--set", "data.d.tag=2") == ["d"]


@pytest.mark.parametrize("command", [["plan"], ["show", "b"], ["explain", "b"], ["check"]])
def test_every_command_replaces_a_damaged_database(built: Project, command: list[str]) -> None:
    without_first_page(database(built))
    code, _, err = built.run(*command)
    assert code == (2 if command[0] == "show" else 0), err  # what it shows is lost
    assert "was damaged" in err or command == ["check"]


HOLDER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN " + sys.argv[2]); print(flush=True); sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("exclusively", [False, True])
def test_a_locked_database_is_called_locked_by_its_process(
    built: Project, exclusively: bool
) -> None:
    if exclusively:
        db = sqlite3.connect(database(built))
        db.execute("PRAGMA journal_mode=DELETE")
        db.close()
    mode = "EXCLUSIVE" if exclusively else "IMMEDIATE"
    command = [sys.executable, "-c", HOLDER, str(database(built)), mode]
    holder = subprocess.Popen(command, stdin=-1, stdout=-1, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()
    built.edit("rows.txt", "two", "three")
    code, _, err = built.run("build", timeout=120)
    holder.communicate("")
    assert code != 0
    assert f"is locked by process {holder.pid}" in err
    assert "Traceback" not in err
    assert built.ran() == ["a", "b"]


def unprivileged(t: Project, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user who may only write where permissions allow it."""
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if not os.geteuid() else []
    if drop and shutil.which("setpriv") is None:
        pytest.skip(may_lack("root may write everywhere"))
    return subprocess.run(
        [*drop, FINERY, *command], cwd=t.folder, env=t.environment(), capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip


def read_only(t: Project, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user who may not write to anything in the project."""
    subprocess.run(["chmod", "-R", "a-w", t.folder], check=True)
    try:
        return unprivileged(t, *command)
    finally:
        subprocess.run(["chmod", "-R", "u+w", t.folder / ".finery"], check=True)
        subprocess.run(["chmod", "u+w", t.folder], check=True)


@pytest.mark.parametrize(
    "command", [["show"], ["show", "b"], ["plan"], ["explain", "b"], ["check"]]
)
@pytest.mark.parametrize("with_log", [False, True])
def test_a_read_only_store_can_be_looked_at(
    built: Project, command: list[str], with_log: bool
) -> None:
    reader = None
    if with_log:
        reader = sqlite3.connect(database(built))  # keeps the log from being merged
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM results").fetchall()
        built.edit("recipe.yaml", "tag: 1", "tag: 4")
        built.ran()
    ran = read_only(built, *command)
    assert ran.returncode == 0, ran.stderr
    if command == ["show", "b"]:
        assert "two" in ran.stdout
    if command == ["plan"]:
        assert "run" not in ran.stdout.split()
    if reader is not None:
        reader.close()


@pytest.mark.parametrize("there", [True, False])
def test_a_build_with_a_read_only_store_says_so(built: Project, there: bool) -> None:
    built.edit("rows.txt", "two", "three")
    if not there:
        shutil.rmtree(built.folder / ".finery")
        (built.folder / ".finery").mkdir()
    ran = read_only(built, "build")
    assert ran.returncode == 2
    assert "can't be written" in ran.stderr
    assert "fix:" in ran.stderr


def test_a_log_of_the_database_that_cannot_be_written_is_named(built: Project) -> None:
    reader = sqlite3.connect(database(built))  # keeps the log from being merged
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM results").fetchall()
    built.edit("rows.txt", "two", "three")
    built.ran()
    log = Path(f"{database(built)}-wal")
    log.chmod(0o444)
    built.edit("rows.txt", "three", "four")
    ran = unprivileged(built, "build")
    reader.close()
    assert ran.returncode == 1
    assert f"no permission to write {log}\n  fix: change its owner" in ran.stderr


# -- things in the place of others ----------------------------------------------------------------


def blob_of(t: Project, step: str) -> Path:
    return (t.folder / f"build/t/{step}/rows-00000.jsonl").resolve()


def by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "mine").write_text("x")


def by_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


def by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


REPLACED: dict[str, Callable[[Project], None]] = {
    "an object by a folder": lambda t: by_folder(blob_of(t, "b")),
    "an object's folder by a file": lambda t: by_file(blob_of(t, "b").parent),
    "views by a file": lambda t: by_file(t.folder / ".finery/views"),
    "a view by a file": lambda t: by_file((t.folder / "build/t/b").resolve()),
    "work by a file": lambda t: by_file(t.folder / ".finery/work"),
    "locks by a folder": lambda t: by_folder(t.folder / ".finery/locks"),
    "the database by a folder": lambda t: by_folder(database(t)),
    "the database by a pipe": lambda t: by_pipe(database(t)),
    "a lock by a pipe": lambda t: by_pipe(t.folder / ".finery/locks"),
}


@pytest.mark.parametrize("case", REPLACED)
def test_what_was_replaced_is_put_right_and_nothing_is_removed(built: Project, case: str) -> None:
    REPLACED[case](built)
    code, _, err = built.run("build")
    assert code == 0, err
    assert "Traceback" not in err
    assert [r["prompt"] for r in built.rows("b")] == ["one", "two"]
    assert set_aside(built)
    assert built.ran() == []


def test_an_emptied_manifest_is_written_again(built: Project) -> None:
    manifest = built.folder / "build/t/b/manifest.json"
    before = manifest.read_bytes()
    manifest.chmod(0o644)
    manifest.write_bytes(b"")
    assert built.run("show", "b").code == 0
    assert built.run("build").code == 0
    assert manifest.read_bytes() == before


def test_a_file_in_the_place_of_build_is_an_error_before_anything_runs(built: Project) -> None:
    shutil.rmtree(built.folder / "build")
    (built.folder / "build").write_text("#!/bin/sh\n")
    built.edit("rows.txt", "two", "three")
    code, _, err = built.run("build")
    assert code == 2
    assert "build is not a folder" in err
    assert "fix:" in err
    assert (built.folder / "build").read_text() == "#!/bin/sh\n"
    (built.folder / "build").write_text("")  # holds nothing to lose
    assert built.ran() == ["a", "b"]
