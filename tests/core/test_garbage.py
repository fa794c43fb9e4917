"""Garbage: what is removed, what stays, and that running builds never notice."""

import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest
from blake3 import blake3
from conftest import MakeProject, Project, in_memory, until
from hypothesis import example, given
from hypothesis import strategies as st

from finery.artifact.kinds import Bundle
from finery.artifact.manifest import Result, manifest
from finery.builder.garbage import blobs_in, collect
from finery.store.blobs import ingest
from finery.store.catalogue import Catalogue
from finery.store.database import Store
from finery.store.layout import Record

RECIPE = """
finery: 1
name: t
plugins: [./steps.py]
data:
  a: {use: steps.source, path: rows.txt}
  b: {use: steps.copy, rows: a, tag: 1}
"""
FILES = {"recipe.yaml": RECIPE, "rows.txt": "one\ntwo\n"}


def stored(t: Project) -> set[str]:
    """The digests of all blobs."""
    store = Store(t.folder / ".finery")
    found = {blob.digest for blob in blobs_in(store)}
    store.close()
    return found


def sizes(t: Project) -> int:
    """Bytes of all blobs."""
    return sum(p.stat().st_size for p in (t.folder / ".finery/objects").glob("*/*"))


# -- sizes ----------------------------------------------------------------------------------------


def bytes_by_step(t: Project) -> dict[str, int]:
    lines = map(json.loads, t.here("cache", "--json").out.splitlines())
    return {line["step"]: line["bytes"] for line in lines if "step" in line}


def test_a_shared_file_counts_for_the_step_that_made_it(built: MakeProject) -> None:
    others = {f"b{number}": 0 for number in range(12)}
    limits = "".join(f"  {b}: {{use: steps.limit, rows: a, most: 1{b[1:]}}}\n" for b in others)
    t = built({**FILES, "recipe.yaml": RECIPE.partition("  b:")[0] + limits})
    assert bytes_by_step(t) == {"a": sizes(t), **others}
    # a is redone with the same output, so the results of the others are older.
    t.edit("steps.py", "exec(code, names)", "str(code)")  # a file that runs texts counts as a whole
    t.ran()
    t.edit("steps.py", 'count("source")', 'count("source again")')
    assert t.ran() == ["a"]
    assert t.here("cache", "gc", "--keep", "1").code == 0
    assert bytes_by_step(t) == {"a": sizes(t), **others}
    # No result of a is needed any more that has the file.
    t.edit("recipe.yaml", "path: rows.txt", "path: other.txt")
    t.write({"other.txt": "three\n"})
    assert t.ran("a") == ["a"]
    assert sum(bytes_by_step(t).values()) == sizes(t)


# -- what stays -----------------------------------------------------------------------------------


def test_the_last_builds_stay_and_earlier_ones_go(built: MakeProject) -> None:
    t = built(FILES)
    for tag in (2, 3, 4):
        assert t.ran("--set", f"data.b.tag={tag}") == ["b"]
    before, dry = sizes(t), t.here("cache", "gc", "--keep", "2", "--dry-run")
    assert (dry.code, sizes(t)) == (0, before), dry.err
    assert "t b: 2 results\n" in dry.out
    ran = t.here("cache", "gc", "--keep", "2")
    assert ran.out == dry.out.replace("Would remove", "Removed")
    assert len(stored(t)) == 3
    assert len([*(t.folder / ".finery/runs").iterdir()]) == 2
    assert len([*(t.folder / ".finery/views").iterdir()]) == 3
    assert t.ran("--set", "data.b.tag=3") == []
    assert t.ran("--set", "data.b.tag=1") == ["b"]
    assert len(t.rows("b")) == 2
    assert t.here("cache", "verify").code == 0


def test_pinned_results_stay(built: MakeProject) -> None:
    t = built(FILES)
    assert t.run("cache", "pin", "b").out == "pinned t b\n"
    t.ran("--set", "data.b.tag=2")
    t.here("cache", "gc", "--keep", "1")
    assert t.ran() == []
    t.ran("--set", "data.b.tag=3")
    assert t.run("cache", "unpin", "b").out == "unpinned 1 result\n"
    t.here("cache", "gc", "--keep", "1")
    assert t.ran() == ["b"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("unpin zz", "has no step 'zz'"),
        ("nope", "'nope' is neither a command of finery cache nor a recipe"),
        ("gc --shared 9 --keep 2", "remove --keep, or --shared"),
    ],
)
def test_words_that_fit_nothing_are_refused(built: MakeProject, words: str, what: str) -> None:
    ran = built(FILES).here("cache", *words.split())
    assert (ran.code, what in ran.err) == (2, True), ran.err


def test_diff_says_that_there_is_only_one_run(built: MakeProject) -> None:
    ran = built(FILES).here("diff")
    assert (ran.code, "has only one run, " in ran.err) == (2, True), ran.err


def test_a_deleted_recipe_stays_for_a_month(built: MakeProject) -> None:
    t = built(FILES)
    recipe = t.folder / "recipe.yaml"
    recipe.rename(t.folder / "other.txt")
    t.here("cache", "gc")
    assert len(stored(t)) == 2
    for events in (t.folder / ".finery/runs").glob("*/events.jsonl"):
        events.write_text(events.read_text().replace('"time":"20', '"time":"19'))
    t.here("cache", "gc")
    assert stored(t) == set()
    assert not (t.folder / "build/t/b").is_symlink()
    (t.folder / "other.txt").rename(recipe)
    assert t.ran() == ["a", "b"]


def test_scratch_of_the_last_build_stays_and_older_scratch_goes(project: MakeProject) -> None:
    code = "(job.scratch / 'checkpoint').write_text('1'); raise ValueError"
    step = f'steps.script, code: "{code}"'
    recipe = RECIPE.replace("steps.copy, rows: a, tag: 1", step)
    t = project({"recipe.yaml": recipe, "rows.txt": "x"})
    assert t.run("build").code == 1
    t.here("cache", "gc")
    work = t.folder / ".finery/work"
    assert [*work.glob("*.scratch/checkpoint")]
    t.edit("recipe.yaml", code, "rows.append({'prompt': 'x'})")
    assert t.run("build").code == 0
    assert "scratch and checkpoints: 1 unfinished step" in t.here("cache", "gc", "--keep", "1").out
    assert [*work.iterdir()] == []


def test_answers_stay_unless_they_are_named(built: MakeProject) -> None:
    t = built(FILES)
    store = Store(t.folder / ".finery")
    store._db.write(("INSERT INTO records VALUES (?, ?)", [(b"k", b"v" * 100)]))
    t.here("cache", "gc")
    assert Catalogue(store).answers() == (1, 100)
    assert "of models: 1 answer" in t.here("cache", "gc", "--answers").out
    assert Catalogue(store).answers() == (0, 0)


# -- builds that run meanwhile --------------------------------------------------------------------

KEYS = [f"{n:064x}" for n in range(1, 5)]
ACTIONS = st.tuples(
    st.sampled_from(["look", "make", "write", "record", "adopt", "end", "gc"]),
    st.integers(0, 1), st.sampled_from(KEYS),
)  # fmt: skip


class Running:
    """A build as far as the store is concerned.

    held: keys whose files it relies on. away: those of them whose files are in a shared store.
    """

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.store.hold("run")
        self.held: set[str] = set()
        self.away: set[str] = set()
        self.unrecorded: dict[str, Result] = {}

    def look(self, key: str) -> None:
        if (found := self.store.lookup(key)) is not None:
            self.held.add(key)
            if not self.store.shared.is_here(found.outputs.values()):
                self.away.add(key)

    def adopt(self, key: str) -> None:
        """Look for a result here and then in a shared store, where each is."""
        self.look(key)
        if key not in self.held:
            digest, size = blake3(key.encode()).hexdigest(), len(key)
            made = manifest("bundle", {}, {"file": (digest, size)}, {}, {}, {})
            record = Record(1, key, {"": made}, 0.0, {})
            self.store.shared.adopt("file:///x", {key: record}, {key: []}, {key: []}, "")
            self.look(key)

    def write(self, key: str) -> None:
        folder = Path(tempfile.mkdtemp(dir=self.store.root / "work"))
        (folder / "file").write_text(key)
        made = ingest(Bundle(folder), folder, self.store.objects)
        self.unrecorded[key] = Result(key, {"": made}, 0.0, [])
        self.held.add(key)
        self.away.discard(key)
        shutil.rmtree(folder)

    def record(self, key: str) -> None:
        self.store.commit([*self.unrecorded.values()], run="")
        self.unrecorded.clear()

    def make(self, key: str) -> None:
        self.look(key)
        if key not in self.held:
            self.write(key)
            self.record(key)

    def check(self) -> None:
        for key in self.held:
            result = self.unrecorded.get(key) or self.store.lookup(key)
            assert result is not None
            ((digest, _),) = result.outputs[""].files.values()
            if key in self.away:
                assert self.store.shared.has(digest)
            else:
                assert self.store.blob(digest).read_text() == key


@example([(action, 0, KEYS[0]) for action in ("look", "make", "end", "gc", "adopt")])
@given(st.lists(ACTIONS, min_size=5, max_size=40))
def test_a_running_build_keeps_what_it_uses_at_every_moment_of_a_collection(
    actions: list[tuple[str, int, str]],
) -> None:
    memory = contextlib.ExitStack()
    root = memory.enter_context(in_memory()) / ".finery"
    builds, rest = dict[int, Running](), iter(actions)

    def meanwhile(text: str) -> None:
        if "look" not in text:
            act(2)

    def act(most: int) -> None:
        for _, (action, number, key) in zip(range(most), rest, strict=False):
            if action == "gc":
                if most > 5:  # not one inside another
                    collect(own, 1, progress=meanwhile)
            elif action == "end":
                if number in builds:
                    builds.pop(number).store.close()
            else:
                if number not in builds:
                    builds[number] = Running(root)
                getattr(builds[number], action)(key)
            for build in builds.values():
                build.check()

    own = Store(root)
    try:
        act(len(actions) + 6)
        for build in builds.values():
            build.store.close()
        time.sleep(0.02)  # file systems don't see less
        collect(own, 1)
        assert [*blobs_in(own)] == []
    finally:
        own.close()
        memory.close()


def test_links_stay_while_a_build_runs(built: MakeProject) -> None:
    t = built(FILES)
    t.ran("--set", "data.b.tag=2")
    other = Store(t.folder / ".finery")
    other.hold("run")
    assert "a build is running" in t.here("cache", "gc", "--keep", "1").out
    assert len([*(t.folder / ".finery/views").iterdir()]) == 3
    other.close()
    assert "a build is running" not in t.here("cache", "gc", "--keep", "1").out
    assert len([*(t.folder / ".finery/views").iterdir()]) == 2


def chain(name: str) -> str:
    """A recipe of seven steps, each after the one before."""
    steps = [f"  s{n}: {{use: steps.copy, rows: s{n - 1}, tag: 0}}\n" for n in range(1, 7)]
    head = f"finery: 1\nname: {name}\nplugins: [../steps.py]\ndata:\n"
    return head + "  s0: {use: steps.source, path: rows.txt}\n" + "".join(steps)


@pytest.mark.slow
@pytest.mark.quick
def test_builds_and_collections_of_several_processes(project: MakeProject) -> None:
    """Each build goes back and forth between results that the collections, killed at any moment,
    find needless."""
    recipes = {f"{n}/recipe.yaml": chain(n) for n in "xy"}
    t = project(recipes | {f"{n}/rows.txt": n * 200 for n in "xy"})
    chance, failed = random.Random(4), list[str]()
    assert t.run("build", "x", "--step", "s1").code == 0  # otherwise there may be no store yet

    def build(name: str) -> None:
        for turn in range(4):
            ran = t.run("build", name, "--set", f"data.s1.tag={turn % 2}", "--set", "data.s4.tag=9")
            if ran.code:
                failed.append(ran.err)

    threads = [threading.Thread(target=build, args=[name]) for name in "xy"]
    for thread in threads:
        thread.start()
    killed = collected = 0
    while any(thread.is_alive() for thread in threads):
        process = t.start("cache", "gc", "--keep", "1")
        if chance.random() < 0.5:
            time.sleep(chance.random() * 2)
            process.send_signal(signal.SIGKILL)
            killed += 1
        err = process.communicate()[1]
        collected += process.returncode == 0
        assert process.returncode in (0, -signal.SIGKILL), err
    assert not failed, failed
    assert killed or collected
    assert t.run("cache", "verify").code == 0
    for name in "xy":
        assert t.run("build", name, "--set", "data.s1.tag=1", "--set", "data.s4.tag=9").code == 0
        assert t.rows("s6", name)[0]["prompt"] == name * 200


def test_a_killed_collection_is_continued_by_the_next(built: MakeProject) -> None:
    t = built(FILES)
    objects = t.folder / ".finery/objects"
    for n in range(3_000):
        digest = f"{n:064x}"[::-1]
        (objects / digest[:2]).mkdir(exist_ok=True)
        (objects / digest[:2] / digest[2:]).write_bytes(b"x")
    process = t.start("cache", "gc")
    until(lambda: len(stored(t)) < 2_900 or process.poll() is not None)
    process.kill()
    process.communicate()
    assert t.here("cache", "gc").code == 0
    assert len(stored(t)) == 2
    assert t.ran() == []


# -- damage ---------------------------------------------------------------------------------------


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


@pytest.fixture
def damaged(built: MakeProject) -> Project:
    """A project with a wrong blob, a missing one, a changed view and a changed record."""
    t = built({**FILES, "recipe.yaml": f"{RECIPE}  c: {{use: steps.copy, rows: a, tag: 3}}\n"
                                       "  d: {use: steps.copy, rows: a, tag: 4}\n"})  # fmt: skip
    links = {n: t.folder / f"build/t/{n}/rows-00000.jsonl" for n in "abcd"}
    overwrite(links["b"].resolve(), b"other")
    links["c"].resolve().unlink()
    links["a"].unlink()
    store = Store(t.folder / ".finery")
    key = store.latest("recipe.yaml")["d"][0]
    store._db.write(("UPDATE results SET outputs = ? WHERE key = ?", [(b"{", key)]))
    store.close()
    return t


def test_damage_is_found_in_words_and_repaired(damaged: Project) -> None:
    ran = damaged.here("cache", "verify")
    assert ran.code == 1
    assert "had other content, and was removed" in ran.out
    assert "t b (" in ran.out
    assert "t c (" in ran.out
    assert "its record can't be read" in ran.out
    assert "was changed, and was restored" in ran.out
    assert damaged.here("cache", "verify").code == 0
    assert damaged.rows("a")
    assert damaged.ran() == ["b", "c", "d"]
    assert len(damaged.rows("b")) == 2


def test_values_of_another_type_are_damage(built: MakeProject) -> None:
    """SQLite reads NULL where a file was cut."""
    t = built(FILES)
    store = Store(t.folder / ".finery")
    store._db.write(
        ("UPDATE results SET outputs = 5", [()]), ("UPDATE facts SET content = 5", [()])
    )
    store.close()
    assert t.here("cache", "gc").code == 0
    assert t.ran() == ["a", "b"]
    assert t.here("cache", "verify").code == 0


# -- what people read -----------------------------------------------------------------------------


def test_sizes_are_those_on_disk_and_fit_the_screen(built: MakeProject) -> None:
    t = built(FILES)
    t.ran("--set", "data.b.tag=2")
    ran = t.here("cache")
    assert all(len(line) <= 80 for line in ran.out.splitlines() if str(t.folder) not in line)
    assert "  b  " in ran.out
    lines = [json.loads(line) for line in t.here("cache", "--json").out.splitlines()]
    *steps, last = lines
    assert sum(line["bytes"] for line in steps) + last["folders"]["unfinished"] == sizes(t)
    assert [line["results"] for line in lines[:-1]] == [2, 1]
    assert t.here("cache", "recipe.yaml").out.startswith("t  ")


def test_mistakes_are_explained(built: MakeProject, tmp_path: Path) -> None:
    t = built(FILES)
    assert "did you mean 'gc'?" in t.here("cache", "gcc").err
    os.makedirs(tmp_path / "empty/.git")
    ran = Project(tmp_path / "empty").here("cache")
    assert (ran.code, "there is no store .finery" in ran.err) == (2, True)
