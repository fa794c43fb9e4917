"""The store: damage is found and mended, what is kept comes back, folders of links stay right."""

import math
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import TWO_STEPS, MakeProject, Project, in_memory, until
from hypothesis import given
from hypothesis import strategies as st
from needs import may_lack

from finery import StepError, UsageError
from finery.artifact.kinds import Bundle, Dataset, Model
from finery.artifact.manifest import Manifest, Result, is_sound, manifest, referring
from finery.store import links
from finery.store.blobs import ingest
from finery.store.database import Store
from finery.store.links import link_outputs, open_artifact, open_view, prune_links
from finery.util.files import hash_file


@pytest.fixture(name="built")
def _built(built: MakeProject) -> Project:
    """A built project."""
    return built({"recipe.yaml": TWO_STEPS, "rows.txt": "one\ntwo\n"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    made = Store(tmp_path / ".finery")
    yield made
    made.close()


def blob_of(t: Project, step: str) -> Path:
    """The blob behind a step's rows."""
    return (t.folder / f"build/t/{step}/rows-00000.jsonl").resolve()


def overwrite(path: Path, content: bytes) -> None:
    """Change a read-only file in place."""
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


# -- damage ---------------------------------------------------------------------------------------


def test_a_truncated_blob_is_rebuilt(built: Project) -> None:
    overwrite(blob_of(built, "a"), b"{}")
    assert "damaged" in built.run("plan").out
    assert built.ran() == ["a"]
    assert [r["prompt"] for r in built.rows("a")] == ["one", "two"]


def test_a_deleted_blob_is_rebuilt(built: Project) -> None:
    blob_of(built, "b").unlink()
    assert built.ran() == ["b"]
    assert len(built.rows("b")) == 2


@pytest.mark.parametrize("restore_time", [False, True])
def test_a_blob_with_other_bytes_of_the_same_length_is_rebuilt(
    built: Project, restore_time: bool
) -> None:
    blob = blob_of(built, "b")
    before, good = blob.stat(), blob.read_bytes()
    overwrite(blob, good.replace(b"one", b"uno"))
    if restore_time:
        os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert built.ran() == ["b"]
    assert blob.read_bytes() == good


def test_a_touched_blob_is_checked_and_kept(built: Project) -> None:
    os.utime(blob_of(built, "a"))
    assert built.ran() == []


def test_damage_is_found_when_only_a_later_step_would_see_it(built: Project) -> None:
    overwrite(blob_of(built, "a"), b"not what it was")
    built.edit("recipe.yaml", "tag: 1", "tag: 2")
    assert built.ran() == ["a", "b"]
    assert [r["prompt"] for r in built.rows("b")] == ["one", "two"]


@pytest.mark.parametrize("harm", ["remove", "replace", "add", "folder", "manifest"])
def test_a_folder_of_links_is_mended(built: Project, harm: str) -> None:
    view = (built.folder / "build/t/a").resolve()
    link = view / "rows-00000.jsonl"
    if harm == "folder":
        shutil.rmtree(view)
    elif harm == "manifest":
        overwrite(view / "manifest.json", b"{}")
    elif harm == "add":
        (view / "rows-00001.jsonl").write_text('{"prompt": "not from here"}\n')
    else:
        link.unlink()
        if harm == "replace":
            link.write_text('{"prompt": "not from here"}\n')
    built.edit("recipe.yaml", "tag: 1", "tag: 3")
    assert built.ran() == ["b"]
    assert [r["prompt"] for r in built.rows("b")] == ["one", "two"]
    assert [r["prompt"] for r in built.rows("a")] == ["one", "two"]
    assert '"rows": 2' in (built.folder / "build/t/a/manifest.json").read_text()


ADAPTERS = '''
from finery import Dataset, Job, Model, Step, hookimpl, setting


class Train(Step, seeded=False):
    """An adapter on a model."""

    model: Model
    rank: int = setting(1, help="Its size.")

    def run(self, job: Job) -> Model:
        return Model(job.out, meta={"format": "light", "r": self.rank}, refs={"base": self.model})


class Says(Step, seeded=False):
    """What the model under an adapter says."""

    model: Model

    def run(self, job: Job) -> Dataset:
        words = self.model.refs["base"].file("weights").read_text()
        return Dataset.write(job.out, [{"prompt": words}])


@hookimpl
def finery_steps():
    return {"adapters.train": Train, "adapters.says": Says}
'''
MODELS = """
finery: 1
name: t
plugins: [./steps.py, ./adapters.py]
models: {base: {use: steps.outside, path: weights}}
train: {adapter: {use: adapters.train, model: base, rank: 1}}
data: {said: {use: adapters.says, model: adapter}}
"""


def test_an_edited_manifest_is_not_believed_and_mended(project: MakeProject) -> None:
    t = project({"recipe.yaml": MODELS, "adapters.py": ADAPTERS, "weights": "good"})
    t.write({"other": "evil"})
    t.ran()
    manifest = t.folder / "build/t/base/manifest.json"
    whole = manifest.read_text()
    overwrite(manifest, whole.replace(f"{t.folder}/weights", f"{t.folder}/other").encode())
    t.edit("recipe.yaml", "rank: 1", "rank: 2")
    assert t.ran() == ["adapter", "said"]
    assert [row["prompt"] for row in t.rows("said")] == ["good"]
    assert manifest.read_text() == whole
    assert manifest.stat().st_mode & 0o222 == 0


def test_a_link_in_the_place_of_a_folder_of_links_is_renamed(store: Store) -> None:
    kept = made(store, Bundle, "x", "x")
    folder = open_view(store.root, kept)
    (folder / "x").unlink()
    folder.rename(store.root / "elsewhere")
    folder.symlink_to("../elsewhere")
    assert (open_view(store.root, kept) / "x").read_text() == "x"
    assert len(list(folder.parent.glob(f"{folder.name}.damaged-*"))) == 1
    assert (store.root / "elsewhere").is_dir()


def test_links_under_build_are_put_back(built: Project) -> None:
    shutil.rmtree(built.folder / "build")
    assert built.ran() == []
    assert len(built.rows("a")) == len(built.rows("b")) == 2


def test_without_its_database_the_store_is_built_anew(built: Project) -> None:
    for name in ("finery.db", "finery.db-wal", "finery.db-shm"):
        (built.folder / ".finery" / name).unlink(missing_ok=True)
    assert built.ran() == ["a", "b"]
    assert built.ran() == []


def test_a_stray_log_of_a_lost_database_does_no_harm(built: Project) -> None:
    database = built.folder / ".finery/finery.db"
    db = sqlite3.connect(database)
    db.execute("SELECT * FROM results").fetchall()
    db.execute("INSERT INTO facts VALUES ('x', '')")
    db.commit()
    assert Path(f"{database}-wal").stat().st_size > 0
    shutil.copy(f"{database}-wal", built.folder / "kept")
    db.close()
    database.unlink()
    shutil.copy(built.folder / "kept", f"{database}-wal")
    assert built.ran() == ["a", "b"]
    assert built.ran() == []


def test_a_log_that_is_not_in_the_database_yet_is_read(built: Project) -> None:
    reader = sqlite3.connect(built.folder / ".finery/finery.db")  # keeps the log from being merged
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM results").fetchall()
    built.edit("recipe.yaml", "tag: 1", "tag: 4")
    assert built.ran() == ["b"]
    assert (built.folder / ".finery/finery.db-wal").stat().st_size > 0
    assert built.ran() == []
    reader.close()


def test_a_store_that_cannot_be_made_is_an_error(built: Project) -> None:
    built.env["FINERY_STORE"] = str(built.folder / "rows.txt")
    code, _, err = built.run("build")
    assert code == 2
    assert "FINERY_STORE" in err


def test_the_store_may_lie_elsewhere(
    built: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    built.env["FINERY_STORE"] = str(tmp_path_factory.mktemp("store"))
    assert built.ran() == ["a", "b"]
    assert blob_of(built, "a").is_relative_to(built.env["FINERY_STORE"])
    assert built.ran() == []


def test_a_new_database_waits_for_another_process_that_prepares_it(tmp_path: Path) -> None:
    """Two builds may create it at once."""
    (tmp_path / ".finery").mkdir()
    other = sqlite3.connect(tmp_path / ".finery/finery.db", check_same_thread=False)
    other.executescript("CREATE TABLE x (y); BEGIN IMMEDIATE;")
    timer = threading.Timer(0.3, other.close)
    timer.start()
    Store(tmp_path / ".finery").close()
    timer.join()


def test_folders_of_links_that_another_build_has_just_made_stay(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = links._make_view, manifest("Bundle", {}, {})
    folder = store.root / "views" / made.view

    def make_two(staged: str, *content: Any) -> None:
        make(staged, *content)
        make(str(folder), *content)
        states.append(folder.stat())

    states: list[os.stat_result] = []
    monkeypatch.setattr(links, "_make_view", make_two)
    open_view(store.root, made)
    assert [folder.stat().st_ino] == [state.st_ino for state in states]
    assert [*folder.parent.iterdir()] == [folder]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A store of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "finery-test", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip(may_lack("mounting a small disk needs root"))
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_an_error_and_no_more(project: MakeProject, full_disk: Path) -> None:
    big = "(job.out / 'big').write_bytes(os.urandom(3_000_000))"
    t = project({"recipe.yaml": "finery: 1\nname: t\nplugins: [./steps.py]\nexport:\n"
                 f'  small: {{use: steps.pack, code: "(job.out / \'x\').write_text(\'x\')"}}\n'
                 f'  big: {{use: steps.pack, needs: small, code: "{big}"}}\n'})  # fmt: skip
    t.env["FINERY_STORE"] = str(full_disk)
    code, _, err = t.run("build")
    assert code == 1
    assert "disk is full" in err
    assert "Traceback" not in err
    check_blobs(full_disk)
    # A killed worker holds what it wrote until it has ended.
    until(lambda: shutil.disk_usage(full_disk).free > 1_000_000)
    t.edit("recipe.yaml", "3_000_000", "300_000")
    assert t.ran() == ["big"]


FILL_DISK = """finery: 1
name: t
plugins: [./steps.py]
export:
  big:
    use: steps.pack
    code: |
      with open(job.out / "big", "wb", buffering=0) as out:
          while os.statvfs(job.out).f_bavail:
              out.write(b"x" * 4096)
      import time
      time.sleep(100)
  small:
    use: steps.pack
    code: |
      import time
      while os.statvfs(job.out).f_bavail:
          time.sleep(0.01)
"""


def test_what_a_running_step_wrote_is_removed_when_the_build_fails(
    project: MakeProject, full_disk: Path
) -> None:
    t = project({"recipe.yaml": FILL_DISK})
    t.env["FINERY_STORE"] = str(full_disk)
    code, _, err = t.run("build", "--jobs", "2")
    assert (code, "disk is full" in err) == (1, True), err
    assert shutil.disk_usage(full_disk).free > 1_000_000


def test_a_disk_that_a_copy_filled_has_room_again(project: MakeProject, full_disk: Path) -> None:
    code = "(job.out / 'big').write_bytes(os.urandom(9_000_000))"
    t = project({"recipe.yaml": "finery: 1\nname: t\nplugins: [./steps.py]\nexport:\n"
                 f'  big: {{use: steps.pack, code: "{code}"}}\n'})  # fmt: skip
    remote = ("--remote", f"file://{t.folder}/shared")
    assert t.run("build", *remote, "--push").code == 0
    t.env["FINERY_STORE"] = str(full_disk)
    ended, _, err = t.run("build", *remote)
    assert (ended, f"the disk is full: can't write {full_disk}" in err) == (1, True), err
    assert t.run("build", *remote, "--fetch", "none").code == 0


@pytest.mark.parametrize("left", [0, 40])
def test_a_disk_that_is_full_from_the_start(
    project: MakeProject, full_disk: Path, left: int
) -> None:
    t = project({"recipe.yaml": TWO_STEPS, "rows.txt": "one\ntwo\n"})
    t.env["FINERY_STORE"] = str(full_disk)
    ballast = full_disk / "ballast"
    with ballast.open("wb") as out:
        free = os.statvfs(full_disk)
        out.write(b"x" * (free.f_bavail * free.f_bsize - left * 4096 // 4))
    code, _, err = t.run("build")
    assert code in (0, 1, 2)
    assert "Traceback" not in err
    if code:
        assert "full" in err or "space" in err
    check_blobs(full_disk)
    ballast.unlink()
    t.ran()
    assert len(t.rows("b")) == 2


@pytest.mark.slow
def test_a_disk_without_free_inodes_is_full(project: MakeProject, full_disk: Path) -> None:
    t = project({"recipe.yaml": TWO_STEPS, "rows.txt": "one\ntwo\n"})
    t.env["FINERY_STORE"] = str(full_disk)
    for count in range(15, 24):
        for path in full_disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        subprocess.run(["mount", "-o", f"remount,nr_inodes={count}", full_disk], check=True)
        code, _, err = t.run("build")
        assert code in (1, 2)
        assert "the disk is full: can't write /" in err or "free some disk space" in err
        assert "exit code" not in err
    subprocess.run(["mount", "-o", "remount,nr_inodes=1000", full_disk], check=True)
    assert t.run("build").code == 0


def test_a_file_that_may_not_grow_that_large_is_an_error(project: MakeProject) -> None:
    code = "(job.out / 'big').write_bytes(bytes(3_000_000))"
    pack = f'{{use: steps.pack, code: "{code}"}}'
    t = project(
        {"recipe.yaml": f"finery: 1\nname: t\nplugins: [./steps.py]\nexport: {{p: {pack}}}"}
    )
    limit = (2_000_000, 2_000_000)
    process = t.start("build", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "disk is full" in err
    check_blobs(t.folder / ".finery")
    assert list((t.folder / ".finery/work").iterdir()) == []
    assert t.ran() == ["p"]


def check_blobs(root: Path) -> None:
    """Every blob holds what its name says."""
    for blob in (root / "objects").glob("*/*"):
        assert hash_file(blob) == blob.parent.name + blob.name


# -- what is kept comes back ----------------------------------------------------------------------

NAMES = st.text("abé ↦.-_", min_size=1, max_size=6).filter(
    lambda n: n.strip(".") and n != "manifest.json"
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
FILES = st.dictionaries(PATHS, st.binary(max_size=40), max_size=5)
META = st.dictionaries(
    st.text(max_size=5),
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    max_size=4,
)


def write(folder: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """Write files; those for which there is room beside each other."""
    done = {}
    for name, content in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            done[path.relative_to(folder).as_posix()] = content
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    return done


def stored(
    root: Path, files: dict[str, bytes], meta: dict[str, object]
) -> tuple[Store, dict[str, bytes], Manifest]:
    """A new store, the files that could be written, and their artifact."""
    store, out = Store(root), root / "work/out"
    out.mkdir()
    wrote = write(out, files)
    return store, wrote, ingest(Bundle(out, meta=meta), out, store.objects)


@given(files=FILES, meta=META)
def test_what_is_kept_comes_back(files: dict[str, bytes], meta: dict[str, object]) -> None:
    with in_memory() as folder:
        root = folder / ".finery"
        store, wrote, kept = stored(root, files, meta)
        store.commit([Result("ab" * 32, {"": kept}, 0.5, [("a", 1)])], run="r")
        found = store.lookup("ab" * 32)
        assert found is not None
        assert found.outputs == {"": kept}
        assert found.parts == [("a", 1)]
        opened = open_artifact(root, found.outputs[""])
        assert {n: opened.file(n).read_bytes() for n in wrote} == wrote
        assert set(kept.files) == set(wrote)
        assert opened.meta == meta
        store.close()


def test_facts_that_json_lacks_are_the_same_before_and_after_they_are_stored() -> None:
    """A training that diverged has a validation loss that is no number."""
    base = manifest("Model", {"format": "transformers"}, {})
    made = manifest("Model", {"eval_loss": math.nan, "best": -math.inf}, {}, {"base": base})
    stored = msgspec.json.decode(msgspec.json.encode(made), type=Manifest)
    assert stored == made
    assert referring(stored, {base.digest: base}).digest == made.digest


@pytest.mark.parametrize("there", ["2", "1.5", "9" * 30])
def test_a_manifest_with_other_facts_is_not_sound(there: str) -> None:
    text = msgspec.json.encode(manifest("Bundle", {"a": 1}, {"x": ("f" * 64, 3)}))
    assert is_sound(msgspec.json.decode(text, type=Manifest))
    other = text.replace(b'{"a":1}', b'{"a":%s}' % there.encode())
    assert not is_sound(msgspec.json.decode(other, type=Manifest))


@given(files=FILES, meta=META)
def test_the_digest_is_of_content_alone(files: dict[str, bytes], meta: dict[str, object]) -> None:
    hashed = {n: (c.hex().rjust(64, "0"), len(c)) for n, c in files.items()}
    backwards = dict(reversed(hashed.items()))
    one = manifest("Bundle", meta, hashed)
    assert manifest("Bundle", dict(reversed(meta.items())), backwards).digest == one.digest
    assert manifest("Model", meta, hashed).digest != one.digest
    assert manifest("Bundle", {**meta, "new": 1}, hashed).digest != one.digest
    assert manifest("Bundle", meta, {**hashed, "n": ("f" * 64, 1)}).digest != one.digest
    assert manifest("Bundle", meta, hashed, refs={"base": one}).digest != one.digest


def test_where_external_files_lie_is_not_the_identity_but_another_folder() -> None:
    one = manifest("Model", {"sha": "x"}, {}, external={"w": ("/a/w", 1, 1)})
    two = manifest("Model", {"sha": "x"}, {}, external={"w": ("/b/w", 1, 1)})
    assert one.digest == two.digest
    assert one.view != two.view


def made(store: Store, kind: type, name: str, text: str, **more: object) -> Manifest:
    """A kept artifact of one file."""
    out = store.root / "work" / name
    out.mkdir()
    (out / name).write_text(text)
    return ingest(kind(out, **more), out, store.objects)


def test_references_come_back_with_their_artifacts(store: Store) -> None:
    base = open_artifact(store.root, made(store, Model, "base", "weights", meta={"format": "x"}))
    adapter = open_artifact(store.root, made(store, Model, "adapter", "delta", refs={"base": base}))
    assert adapter.refs["base"].digest == base.digest
    assert adapter.refs["base"].file("base").read_text() == "weights"


def test_a_reference_to_what_was_not_an_input_is_refused(store: Store, tmp_path: Path) -> None:
    stranger = Model(tmp_path)
    with pytest.raises(StepError, match="inputs"):
        made(store, Model, "adapter", "delta", refs={"base": stranger})


def test_a_lost_file_of_a_reference_or_outside_is_a_miss(store: Store, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_text("w")
    base = open_artifact(store.root, made(store, Model, "base", "b", external={"w": weights}))
    adapter = made(store, Model, "adapter", "a", refs={"base": base})
    store.commit([Result("cd" * 32, {"": adapter}, 0, [])], run="r")
    assert store.lookup("cd" * 32) is not None
    weights.rename(tmp_path / "away")
    assert store.lookup("cd" * 32) is None
    (tmp_path / "away").rename(weights)
    assert store.lookup("cd" * 32) is not None
    store.blob(base_digest(adapter)).unlink()
    assert store.lookup("cd" * 32) is None


def base_digest(adapter: Manifest) -> str:
    """The digest of the base's one file."""
    return adapter.refs["base"].files["base"][0]


def test_an_output_comes_back_with_its_input_as_it_is_now(store: Store, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_text("w")
    old = made(store, Model, "base", "b", external={"w": weights})
    adapter = made(store, Model, "adapter", "a", refs={"base": open_artifact(store.root, old)})
    store.commit([Result("cd" * 32, {"": adapter}, 0, [])], run="r")
    now = made(store, Model, "base2", "b", external={"w": weights.rename(tmp_path / "moved")})
    now = manifest("Model", {}, old.files, {}, now.external)
    assert now.digest == old.digest
    assert store.lookup("cd" * 32) is None
    found = store.lookup("cd" * 32, [now])
    assert found is not None
    base = open_artifact(store.root, found.outputs[""]).refs["base"]
    assert base.file("w") == tmp_path / "moved"
    assert (base.path / "w").read_text() == "w"


def test_half_made_outputs_of_dead_builds_are_swept_and_those_being_made_are_not(
    store: Store,
) -> None:
    dead, alive = store.work("ab" * 32), store.work("cd" * 32)
    (dead[0] / "half").write_text("half")
    dead[1].mkdir()
    code = (
        "import sys; from pathlib import Path; from finery.store.database import Store\n"
        "s = Store(Path(sys.argv[1])); s.try_lock('cd' * 32); print(flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, store.root], stdin=-1, stdout=-1, text=True
    )
    assert other.stdout is not None
    other.stdout.readline()
    store.sweep()
    other.communicate("")
    assert [p.exists() for p in (*dead, *alive)] == [False, True, True, False]


# -- a commit that never was ----------------------------------------------------------------------


def test_blobs_without_a_key_are_harmless_and_used_again(store: Store) -> None:
    first = made(store, Bundle, "x", "same")  # renamed into objects/, and then the power went
    assert store.lookup("ef" * 32) is None
    again = store.root / "work/again"
    again.mkdir()
    (again / "x").write_text("same")
    second = ingest(Bundle(again), again, store.objects)
    assert first == second
    store.commit([Result("ef" * 32, {"": second}, 0, [])], run="r")
    assert store.lookup("ef" * 32) is not None


def test_a_damaged_blob_is_replaced_by_the_same_output(store: Store) -> None:
    kept = made(store, Bundle, "x", "right")
    store.commit([Result("ef" * 32, {"": kept}, 0, [])], run="r")
    overwrite(store.blob(kept.files["x"][0]), b"wrong")
    again = store.root / "work/again"
    again.mkdir()
    (again / "x").write_text("right")
    ingest(Bundle(again), again, store.objects)
    assert store.lookup("ef" * 32) is not None


def test_a_commit_is_all_or_nothing(store: Store) -> None:
    kept = made(store, Bundle, "x", "x")
    lost = manifest("Bundle", {}, {"y": ("0" * 64, 1)})
    with pytest.raises(FileNotFoundError):
        store.commit(
            [Result("aa" * 32, {"": kept}, 0, []), Result("bb" * 32, {"": lost}, 0, [])], run="r"
        )
    assert store.lookup("aa" * 32) is None
    store.commit([Result("aa" * 32, {"": kept}, 0, [])], run="r")
    assert store.lookup("aa" * 32) is not None


def test_what_a_dead_build_left_in_its_folder_is_emptied_but_scratch_is_kept(store: Store) -> None:
    out, scratch = store.work("ab" * 32)
    (out / "half").write_text("half")
    scratch.mkdir()
    (scratch / "checkpoint").write_text("7")
    out, scratch = store.work("ab" * 32)
    assert list(out.iterdir()) == []
    assert (scratch / "checkpoint").read_text() == "7"
    store.clear_work("ab" * 32)
    assert list((store.root / "work").iterdir()) == []


def test_a_lock_dies_with_its_process_and_holds_between_processes(store: Store) -> None:
    code = (
        "import sys; from pathlib import Path; from finery.store.database import Store\n"
        "s = Store(Path(sys.argv[1])); print(s.try_lock('ab' * 32), flush=True); sys.stdin.read()"
    )
    assert store.try_lock("ab" * 32)
    other = subprocess.Popen(
        [sys.executable, "-c", code, store.root], stdin=-1, stdout=-1, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "False\n"
    other.communicate("")
    store.unlock("ab" * 32)
    other = subprocess.Popen(
        [sys.executable, "-c", code, store.root], stdin=-1, stdout=-1, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    assert not store.try_lock("ab" * 32)
    other.kill()
    other.wait()
    assert store.try_lock("ab" * 32)


# -- links ----------------------------------------------------------------------------------------


@given(files=FILES)
def test_a_folder_of_links_shows_every_file_and_is_made_once(files: dict[str, bytes]) -> None:
    with in_memory() as folder:
        root = folder / "here/.finery"
        store, wrote, kept = stored(root, files, {})
        inode = open_view(root, kept).stat().st_ino
        moved = root.parent.rename(folder / "moved")
        again = open_view(moved / ".finery", kept)
        assert again.stat().st_ino == inode
        assert {n: (again / n).read_bytes() for n in wrote} == wrote
        store.close()


def test_only_links_that_finery_made_are_pruned(store: Store, tmp_path: Path) -> None:
    kept = made(store, Dataset, "x", "x")
    build = tmp_path / "build"
    link_outputs(store.root, build / "stays", {"": kept})
    link_outputs(store.root, build / "gone", {"": kept})
    link_outputs(store.root, build / "several", {"one": kept, "two": kept})
    link_outputs(store.root, build / "mixed", {"one": kept})
    (build / "mixed/mine").write_text("mine")
    (build / "file").write_text("mine")
    (build / "link").symlink_to("/tmp")
    (build / "empty").mkdir()
    prune_links(store.root, build, {"stays"})
    assert sorted(p.name for p in build.iterdir()) == ["empty", "file", "link", "mixed", "stays"]
    prune_links(store.root, tmp_path / "nowhere", set())


def test_builds_that_link_the_same_outputs_at_once_do_not_disturb_each_other(
    store: Store, tmp_path: Path
) -> None:
    """Some link what they have made, and others the text for what wasn't fetched."""
    kept, build = made(store, Dataset, "x", "x"), tmp_path / "build"
    several = {"one": kept, "two": kept}
    away = {str(build / "a"): "away", str(build / "b/one"): "away"}

    def link(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(500):
            texts = chance.choice([{}, away])
            link_outputs(store.root, build / "a", {"": kept}, texts)
            link_outputs(store.root, build / "b", several, texts)

    processes = [get_context("fork").Process(target=link, args=[seed]) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_linking_never_replaces_a_persons_files(store: Store, tmp_path: Path) -> None:
    kept = made(store, Dataset, "x", "x")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine").write_text("mine")
    for name in ("file", "folder"):
        with pytest.raises(UsageError, match="finery didn't create"):
            link_outputs(store.root, tmp_path / name, {"": kept})


def test_a_newer_store_stays_as_it_is(built: Project) -> None:
    database = built.folder / ".finery/finery.db"
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA user_version=5")
        db.execute("ALTER TABLE results RENAME TO outcomes")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def state() -> dict[str, bytes]:
        paths = (path for path in (built.folder / ".finery").rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in paths}

    shutil.rmtree(built.folder / ".finery/work")
    before = state()
    steps = ["build", "plan", "check", "show", "report", "runs", "diff", "cache", "fetch"]
    for command in (*([each] for each in steps), ["cache", "gc"], ["explain", "a"]):
        ran = built.run(*command, *(["--force", "a"] if command == ["build"] else []))
        assert ran.code == 2, (command, ran)
        assert f"{database}: error: a newer finery wrote this database: its version is 5" in ran.err
        assert "pip install -U finery; or set FINERY_STORE" in ran.err
    assert state() == before
    assert not (built.folder / ".finery/work").exists()


def test_a_damaged_version_is_repaired(built: Project) -> None:
    with closing(sqlite3.connect(built.folder / ".finery/finery.db")) as db:
        db.execute("PRAGMA user_version=67108868")
    ran = built.run("plan")
    assert (ran.code, "was damaged (its version is 67108868) and replaced" in ran.err) == (0, True)
    assert " run " not in ran.out
