"""Jobs on machines that share no folder with the build: what they need and make travels."""

import os
from pathlib import Path

import pytest
from background import Elsewhere, ElsewhereOptions
from conftest import LIGHT_STEPS, until
from in_process import InProcess, digests
from tasks import Tasks, ends, text_of

from finery import UsageError
from finery.builder.project import open_graph, open_store
from finery.builder.scheduler import Build
from finery.errors import RemoteError
from finery.execute.executor import Executor
from finery.execute.parcel import Chunk, Mailbox
from finery.inference.records import SqliteRecords
from finery.store.remote import Remote
from finery.testing.executors import DetachedContract

RECIPE = """
finery: 1
name: t
plugins: [./steps.py]
data:
  rows: {use: steps.source, path: rows.txt}
  halves: {use: steps.halve, rows: rows}
  two: {use: steps.shuffle, rows: halves.first}
models:
  weights: {use: steps.outside, path: rows.txt}
  adapter: {use: steps.adapter, model: weights}
export:
  big: {use: steps.pack, code: '(job.out / "b").write_bytes(b"b" * (9 << 20)); (job.out / "s").write_text("s")'}
"""  # noqa: E501


def elsewhere(folder: Path, jobs: int | None = None) -> Elsewhere:
    """An executor for another machine."""
    options = ElsewhereOptions(remote=f"file://{folder}/remote", folder=f"{folder}/there")
    return Elsewhere(jobs, options)


@pytest.mark.slow
class TestContract(DetachedContract):
    """The contract of executors."""

    own_lines = "(being submitted as|continues with)? ?Elsewhere job"

    @pytest.fixture(autouse=True)
    def _folder(
        self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.folder = tmp_path_factory.mktemp("elsewhere")
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))

    def executor(self, jobs: int | None) -> Executor:
        return elsewhere(self.folder, jobs)


def build(project: Path, executor: Executor) -> Build:
    """Build a project, with all going well."""
    project.mkdir()
    (project / "recipe.yaml").write_text(RECIPE)
    (project / "rows.txt").write_text("".join(f"row {n}\n" for n in range(4000)))
    (project / "steps.py").write_text(LIGHT_STEPS.read_text())
    store = open_store(project / "recipe.yaml")
    made = Build(open_graph(project / "recipe.yaml", (), store), store, executor)
    outcome = made.run()
    assert not outcome.errors, outcome.errors
    store.close()
    return made


@pytest.mark.slow
@pytest.mark.quick
def test_a_build_elsewhere_equals_one_here(tmp_path: Path) -> None:
    """With outside files of a step, a plugin file, and a model that isn't in the store."""
    there = build(tmp_path / "a", elsewhere(tmp_path))
    here = build(tmp_path / "b", InProcess())
    assert digests(there) == digests(here)
    weights = there.outcome.results["weights"].outputs[""].external["weights"]
    assert weights[0] == str(tmp_path / "a" / "rows.txt")
    assert weights[2] == os.stat(weights[0]).st_mtime_ns
    for path in (tmp_path / "b" / "build").rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            twin = tmp_path / "a" / path.relative_to(tmp_path / "b")
            assert twin.read_bytes() == path.read_bytes()
    left = {path.suffix for path in (tmp_path / "there").glob("*/work/*")}
    assert left <= {".node", ".lock"}


@pytest.mark.slow
def test_answers_come_back_and_secrets_stay_where_they_are(tmp_path: Path) -> None:
    tasks, executor = Tasks(tmp_path), elsewhere(tmp_path)
    task = tasks(
        "job.records.put({b'k' * 32: b'v'}); print(os.environ['TOKEN']);"
        "rows.append({'prompt': os.environ['TOKEN'][:3]})"
    )
    task.env = {"TOKEN": "abc-secret-xyz"}
    executor.start(task)
    ((_, end),) = ends(executor, 1).items()
    assert text_of(end, tasks) == "abc"
    assert SqliteRecords(tasks.store.database).get([b"k" * 32]) == {b"k" * 32: b"v"}
    assert "***" in Path(task.log).read_text()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"abc-secret-xyz" in path.read_bytes()]
    executor.close()


@pytest.mark.slow
def test_a_lost_connection_only_delays_the_news(tmp_path: Path) -> None:
    tasks, executor = Tasks(tmp_path), elsewhere(tmp_path)
    code = f"job.log('one')\nimport time\nwhile not Path({str(tmp_path)!r}, 'go').exists(): "
    executor.start(tasks(f"{code}time.sleep(0.01)\nrows.append({{'prompt': 'p'}})"))
    until(lambda: any(e.get("message") == "one" for _, e in executor.poll(0.1)))
    (tmp_path / "remote").rename(tmp_path / "away")
    (tmp_path / "remote").write_text("no folder")
    (tmp_path / "go").touch()
    assert list(executor.poll(3)) == []
    (tmp_path / "remote").unlink()
    (tmp_path / "away").rename(tmp_path / "remote")
    assert [end["event"] for end in ends(executor, 1).values()] == ["done"]
    executor.close()


def test_without_a_shared_store_nothing_starts() -> None:
    with pytest.raises(UsageError, match="needs a shared store") as raised:
        Elsewhere(None, ElsewhereOptions())
    assert "remote" in (raised.value.fix or "")


def test_what_others_write_into_the_shared_store_is_not_believed(tmp_path: Path) -> None:
    remote, chunk = Remote(f"file://{tmp_path}"), Chunk(events=b"", log=b"x")
    job, other = (Mailbox(remote, "t", key * 64) for key in "ab")
    job.put("000000", chunk)
    assert job.get("000000", Chunk) == chunk
    assert job.get("000001", Chunk) is None
    (tmp_path / "jobs/t/000001").write_bytes((tmp_path / "jobs/t/000000").read_bytes())
    for box, name in ((job, "000001"), (other, "000000")):
        with pytest.raises(RemoteError, match="wasn't written by the job"):
            box.get(name, Chunk)
