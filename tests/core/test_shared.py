"""A shared store over real HTTP: two clones of a project, and a server that fails in every way."""

import fcntl
import json
import os
import pty
import random
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from conftest import LIGHT_STEPS, Project
from faulty_proxy import Proxy, proxy_before
from in_process import InProcess, digests
from installing import make_key
from needs import need

from finery.builder.project import open_graph, open_store
from finery.builder.scheduler import Build
from finery.config import Config
from finery.errors import RemoteError, UsageError
from finery.store.blobs import blob_path
from finery.store.layout import Blob, object_name
from finery.store.objects import FileSystemObjects, StoredObject, open_objects
from finery.store.remote import Remote, expire

RECIPE = """
finery: 1
name: t
plugins: [./steps.py]
data:
  rows: {use: steps.source, path: rows.txt}
  halves: {use: steps.halve, rows: rows}
  one: {use: steps.copy, rows: halves.first, tag: 1}
  two: {use: steps.shuffle, rows: one}
models:
  weights: {use: steps.outside, path: rows.txt}
  adapter: {use: steps.adapter, model: weights}
evaluate:
  gate: {use: steps.score, rows: two, least: 0.1}
export:
  big: {use: steps.pack, code: '(job.out / "b").write_bytes(os.urandom(9 << 20)); (job.out / "s").write_text("s")'}
"""  # noqa: E501


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server with the interface of S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def proxy(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server, at which finery looks for S3. The bucket `team` is empty."""
    import boto3

    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    with proxy_before(port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        bucket: Any = boto3.resource("s3", region_name="us-east-1").Bucket("team")
        if bucket.creation_date is None:
            bucket.create()
        bucket.objects.all().delete()
        proxy.requests.clear()
        proxy.seen.clear()
        yield proxy


def clone(folder: Path, recipe: str = RECIPE) -> Project:
    """A clone of the project, with nothing built."""
    project = Project(folder)
    (folder / ".git").mkdir(parents=True)
    text = "".join(f"row {i}\n" for i in range(4000))
    steps = LIGHT_STEPS.read_text(encoding="utf-8")
    project.write({"recipe.yaml": recipe, "rows.txt": text, "steps.py": steps})
    return project


def build(project: Project, **settings: Any) -> Build:
    """Build a project here, with all going well."""
    recipe = project.folder / "recipe.yaml"
    store = open_store(recipe)
    config = Config(**{"remote": "s3://team/x", "push": False, **settings})
    made = Build(open_graph(recipe, (), store), store, InProcess(), config=config)
    outcome = made.run()
    assert not outcome.errors, outcome.errors
    store.close()
    return made


def size_of(project: Project, *steps: str) -> int:
    """The bytes of steps' outputs."""
    files = (p for s in steps for p in (project.folder / "build/t" / s).rglob("*"))
    return sum(path.stat().st_size for path in files if path.is_file())


@pytest.mark.slow
@pytest.mark.quick
def test_another_clone_runs_nothing_and_copies_final_outputs(tmp_path: Path, proxy: Proxy) -> None:
    a, b = clone(tmp_path / "a"), clone(tmp_path / "b")
    first, second = build(a, push=True), build(b)
    assert second.outcome.ran == ["weights"]  # files outside the store cost nothing to make
    assert digests(first) == digests(second)
    assert size_of(b, "adapter", "gate", "big") == size_of(a, "adapter", "gate", "big")
    assert second.outcome.fetched < 1.05 * size_of(b, "adapter", "gate", "big")
    text = (b.folder / "build/t/halves/first.remote.txt").read_text()
    assert "1 file, 88.8 KiB" in text
    assert "finery fetch" in text
    assert not os.path.lexists(b.folder / "build/t/halves/first")
    requests = [path for _, path in proxy.requests]
    assert not any("list-type" in path or path.endswith("/team") for path in requests)
    assert str(tmp_path).encode() not in _records(proxy)


def _records(proxy: Proxy) -> bytes:
    """All records in the bucket."""
    import boto3

    bucket = boto3.resource("s3", region_name="us-east-1").Bucket("team")
    return b"".join(o.get()["Body"].read() for o in bucket.objects.filter(Prefix="x/records"))


@pytest.mark.slow
def test_outputs_come_when_they_are_needed(
    tmp_path: Path, proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    build(clone(tmp_path / "a"), push=True)
    b = clone(tmp_path / "b")
    b.write({"finery.toml": 'remote = "s3://team/x"'})
    b.env = _access()
    assert "fetched 9.1 MiB" in b.run("build").err
    asked = len(proxy.requests)
    assert "nothing to do" in b.run("build").err
    assert len(proxy.requests) == asked
    assert "2000" in b.run("show", "halves.first").out  # from the shared store
    assert not (b.folder / "build/t/one").exists()
    b.edit("recipe.yaml", "rows: one}", "rows: one, seed: 3}")
    assert b.run("build").err.count("  run ") == 2  # two and gate, with the rows of one
    assert "fetched 1 file" in b.run("fetch", "halves").out
    assert json.loads(b.run("fetch", "--json").out)["files"] == 1
    assert (b.folder / "build/t/halves/first").is_dir()
    assert not [*b.folder.glob("build/t/**/*.remote.txt")]


@pytest.mark.slow
def test_a_finished_build_is_pushed_later(tmp_path: Path, proxy: Proxy) -> None:
    a, b = clone(tmp_path / "a"), clone(tmp_path / "b")
    build(a)
    assert {method for method, _ in proxy.requests} == {"GET"}
    assert build(a, push=True).outcome.ran == []
    pushed = proxy.seen["PUT"] + proxy.seen["POST"]
    assert build(a, push=True).outcome.pushed == 0
    assert proxy.seen["PUT"] + proxy.seen["POST"] == pushed
    assert build(b).outcome.ran == ["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["delete", "change", "shorten"])
def test_files_that_are_gone_or_wrong_are_made_again(
    tmp_path: Path, proxy: Proxy, damage: str
) -> None:
    import boto3

    a, b, c = (clone(tmp_path / name) for name in "abc")
    first = build(a, push=True)
    bucket: Any = boto3.resource("s3", region_name="us-east-1").Bucket("team")
    for each in bucket.objects.filter(Prefix="x/blobs"):
        data = each.get()["Body"].read()
        if damage == "delete":
            each.delete()
        else:
            each.put(Body=data[:10] if damage == "shorten" else b"?" + data[1:])
    b.edit("recipe.yaml", "rows: one}", "rows: one, seed: 3}")
    second = build(b, push=True)
    assert {"rows", "halves", "one", "two", "big"} <= {*second.outcome.ran}
    assert digests(second)["one"] == digests(first)["one"]
    third = build(c)  # what was wrong there has been replaced
    assert third.outcome.ran in (["weights"], ["weights", "two"], ["weights", "two", "gate"])
    assert digests(third)["two"] == digests(first)["two"]


def test_a_build_goes_on_without_the_server(
    tmp_path: Path, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    a, b = clone(tmp_path / "a"), clone(tmp_path / "b")
    first = build(a, push=True)
    build(b)
    b.edit("recipe.yaml", "rows: one}", "rows: one, seed: 3}")
    proxy.share, proxy.faults = 1.0, ("forbid",)
    proxy.requests.clear()
    made = build(b, push=True)
    assert {*made.outcome.ran} == {"rows", "halves", "one", "two", "gate"}  # what two needs
    assert digests(made)["one"] == digests(first)["one"]
    warnings = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert warnings == ["warning: the shared store s3://team/x can't be used: permission denied"]
    assert not made.sharing.is_complete


TRAINING = """
finery: 1
name: t
plugins: [./steps.py, ./train.py]
data:
  rows: {use: steps.source, path: rows.txt}
  halves: {use: steps.halve, rows: rows}
train:
  sft: {use: t.train, rows: halves.first}
evaluate:
  judge: {use: t.judge, model: sft, rows: halves.second}
"""
TRAINING_STEPS = """
from finery import DataError, Dataset, Job, Metrics, Model, Step, hookimpl, setting
from finery.rows.report import Report, Score

class Train(Step, seeded=False, learns="answers"):
    "A training."
    rows: Dataset
    epochs: int = setting(1, help="How often.")
    def run(self, job: Job) -> Model:
        (job.out / "weights").write_text(f"{self.epochs} {len(list(self.rows))}")
        return Model(job.out, meta={"format": "light"})

class Judge(Step, seeded=False):
    "A score."
    model: Model
    rows: Dataset
    column: str = setting("prompt", help="A column.")
    def examine(self, look):
        columns = look.columns("rows")
        if columns and self.column not in columns.value:
            raise DataError(f"no column {self.column}", where="column")
    def run(self, job: Job) -> Metrics:
        return Metrics.write(job.out, Report(rows=1, scores={"m": {"accuracy": Score(0.5)}}))
    def verify(self, outputs):
        outputs[""].report()

@hookimpl
def finery_steps(): return {"t.train": Train, "t.judge": Judge}
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["cut", "fail", "lose"])
def test_files_of_inputs_that_cant_be_had_are_made_here(
    tmp_path: Path, proxy: Proxy, fault: str
) -> None:
    a, b = clone(tmp_path / "a", TRAINING), clone(tmp_path / "b", TRAINING)
    for each in (a, b):
        each.write({"train.py": TRAINING_STEPS})
    build(a, push=True)
    b.write({"finery.toml": 'remote = "s3://team/x"'})
    b.env = _access()
    b.run("build")
    proxy.share, proxy.faults, proxy.part = 1.0, (fault,), "" if fault == "cut" else "/blobs/"
    plan = b.run("plan", "--set", "train.sft.epochs=2")
    assert plan.code == 0, plan.err
    if fault == "cut":  # otherwise no request shows it
        assert re.search(r"run +rows .* can't be had from the shared store", plan.out), plan.out
    for args in (["report", "-o", "-", "--format", "markdown"], ["check"], ["show"]):
        assert b.run(*args).code == 0
    options = ["--set", "train.sft.epochs=2", "--set"]
    for column, code, ran in [
        ("other", 2, ["rows", "halves"]),  # they are made before the training, to check it
        ("prompt", 0, ["sft", "judge"]),
    ]:
        made = b.run("build", *options, f"evaluate.judge.column={column}")
        assert made.code == code, made.err
        assert re.findall(r"^  run +(\w+)", made.err, re.MULTILINE) == ran, made.err
    (file,) = (p for p in (b.folder / "build/t/sft").iterdir() if p.name == "weights")
    assert file.read_text() == "2 2000"


def test_without_a_connection_a_report_says_what_it_lacks(tmp_path: Path, proxy: Proxy) -> None:
    a, b = clone(tmp_path / "a", TRAINING), clone(tmp_path / "b", TRAINING)
    for each in (a, b):
        each.write({"train.py": TRAINING_STEPS})
    build(a, push=True)
    b.write({"finery.toml": 'remote = "s3://team/x"'})
    b.env = _access()
    b.run("build", "--fetch", "none")
    proxy.share, proxy.faults, proxy.part = 1.0, ("cut",), "/blobs/"
    made = b.run("report", "-o", "-", "--format", "markdown")
    assert made.out.count("| not built | its files can't be had from the shared store |") == 3
    error = b.run("show", "rows")
    assert (error.code, error.err.count("finery build --force STEP")) == (1, 1)


XML = "<?xml version='1.0'?>\n<Error>\n<Code>InternalError</Code><Message>Try\nagain.</Message>"


@pytest.mark.parametrize(
    ("body", "said"), [(XML, ": Try again."), ("<html>\n<h1>Oh no</h1></html>", "")]
)
def test_what_a_server_says_is_one_readable_line(body: str, said: str) -> None:
    class Fails(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(500)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Fails) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        with pytest.raises(RemoteError) as failed:
            open_objects(f"http://127.0.0.1:{server.server_port}/x").read("a")
        server.shutdown()
        thread.join()
    assert failed.value.what == f"it answers 500 Internal Server Error{said}"


def test_a_damaged_file_isnt_taken_for_the_one_that_cant_be_had(
    tmp_path: Path, proxy: Proxy
) -> None:
    build(clone(tmp_path / "a"), push=True)
    b = clone(tmp_path / "b")
    build(b)
    (name,) = (p for p in (b.folder / "build/t/adapter").iterdir() if p.name != "manifest.json")
    blob = name.resolve()
    data = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    proxy.share, proxy.faults = 1.0, ("forbid",)
    build(b)
    assert (b.folder / "build/t/adapter.remote.txt").exists()
    assert not os.path.lexists(b.folder / "build/t/adapter")


@pytest.mark.slow
def test_records_count_only_if_signed_by_someone_trusted(
    tmp_path: Path, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    public = [make_key(tmp_path / name) for name in ("ours", "theirs")]
    a, b, c = (clone(tmp_path / name) for name in "abc")
    build(a, push=True, signing_key=str(tmp_path / "theirs"))
    assert len(build(b, trust=public[:1]).outcome.ran) == 8
    assert capfd.readouterr().err.count("a signature that isn't trusted") == 1
    assert build(c, trust=public).outcome.ran == ["weights"]


def test_a_push_that_fails_or_helps_nobody_is_pointed_out(tmp_path: Path) -> None:
    public = make_key(tmp_path / "ours")
    store = tmp_path / "store"
    a = clone(tmp_path / "a", "finery: 1\nname: t\n" + 'plugins: [./steps.py]\ndata:\n'
              "  rows: {use: steps.source, path: rows.txt}\n")  # fmt: skip
    a.write({"finery.toml": f'remote = "file://{store}"\ntrust = ["{public}"]\n'})
    ran = a.run("build", "--push")
    assert (ran.code, "no `signing_key` is set" in ran.err) == (0, True), ran.err
    a.env["FINERY_SIGNING_KEY"] = str(tmp_path / "ours")
    shutil.rmtree(store)
    store.mkdir()
    (store / "records").touch()  # so that nothing can be written below it
    ran = a.run("build", "--push")
    assert ran.code == 1, ran.err
    assert "the build isn't completely in the shared store" in ran.err
    assert "won't be used" not in ran.err
    assert a.run("build").code == 0


def test_records_that_lie_are_no_records(tmp_path: Path, proxy: Proxy) -> None:
    a = clone(tmp_path / "a")
    keys = [result.key for result in build(a, push=True).outcome.results.values()]
    remote = Remote("s3://team/x")
    records = remote.records(keys)
    assert len(records) == 7
    (key, record), other, *_ = records.items()
    name = f"records/{key[:2]}/{key}"
    body = remote.objects.read(name)
    assert body is not None
    digest, size = next(iter(next(iter(record.outputs.values())).files.values()))
    data = json.loads(body)
    output = next(iter(data["outputs"].values()))
    files = {"../../../../evil": [digest, size]}
    lies = [
        b"", b"[]", body[:-20], body.replace(digest.encode(), b"0" * 64),
        body.replace(key.encode(), other[0].encode()),
        json.dumps(data | {"format": 9}).encode(),
        json.dumps(data | {"outputs": {"": output | {"files": files}}}).encode(),
        json.dumps(data | {"outputs": {"": output | {"external": {"x": ["/etc/passwd", 1, 2]}}}})
        .encode(),
    ]  # fmt: skip
    for lie in lies:
        remote.objects.put(name, lie)
        assert remote.records([key]) == {}, lie
    remote.objects.put(name, body)
    assert remote.records([key]) == {key: record}


@pytest.mark.slow
def test_large_files_continue_where_they_were_cut(tmp_path: Path, proxy: Proxy) -> None:
    a, b = clone(tmp_path / "a"), clone(tmp_path / "b")
    build(a, push=True)
    build(b, fetch="none")
    source = next(p for p in (a.folder / ".finery/objects").rglob("*") if p.stat().st_size > 9e6)
    digest = source.parent.name + source.name
    part = b.folder / f".finery/work/{digest}.part"
    part.write_bytes(source.read_bytes()[: 8 << 20])
    assert build(b).outcome.fetched < 2 << 20
    build(c := clone(tmp_path / "c"), fetch="none")
    (c.folder / f".finery/work/{digest}.part").write_bytes(b"?" * (8 << 20))  # of no use
    build(c)
    assert (c.folder / "build/t/big/b").read_bytes() == source.read_bytes()


def test_a_large_file_is_copied_after_another_process_gave_up(tmp_path: Path) -> None:
    data = os.urandom((8 << 20) + 1)
    digest = blake3(data).hexdigest()
    remote = Remote(f"file://{tmp_path}/store")
    remote.objects.put(object_name("blobs", digest), data)
    part = tmp_path / "a/work" / f"{digest}.part"
    part.parent.mkdir(parents=True)
    (tmp_path / "a/objects").mkdir()
    with part.open("ab") as other, ThreadPoolExecutor() as threads:
        fcntl.flock(other, fcntl.LOCK_EX)
        blob = Blob(digest, len(data), digest, 0)
        copied = threads.submit(remote.bring, tmp_path / "a", [blob])
        while not open_files(part) > 1:
            time.sleep(0.01)
        part.unlink()
        fcntl.flock(other, fcntl.LOCK_UN)
        copied.result()
    assert blob_path(tmp_path / "a/objects", digest).read_bytes() == data


def open_files(path: Path) -> int:
    """How often this process has a file open."""
    links = [*Path("/proc/self/fd").iterdir()]
    return sum(os.path.lexists(link) and os.readlink(link) == str(path) for link in links)


@pytest.mark.slow
def test_a_folder_is_a_shared_store_too(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    a, b = clone(tmp_path / "a"), clone(tmp_path / "b")
    build(a, remote=url, push=True)
    b.env["FINERY_REMOTE"] = url
    plans = [json.loads(line) for line in b.run("plan", "--json").out.splitlines()]
    assert [plan["step"] for plan in plans if plan["state"] == "run"] == ["weights"]
    assert build(b, remote=url).outcome.ran == ["weights"]
    for number, command in enumerate(("show one", "export one out", "fetch one", "fetch")):
        c = clone(tmp_path / f"c{number}")
        c.env["FINERY_REMOTE"] = url
        ran = c.run(*command.split())
        assert ran.code == 0, f"in a new clone, {command}: {ran.err}"
    assert (c.folder / "build/t/one").is_dir()
    build(d := clone(tmp_path / "d"), remote=url, fetch="none")
    ran = d.run("fetch", "one")  # nobody may be asked because a database says so
    assert "the settings don't name it" in ran.err
    assert f"set FINERY_REMOTE={url}" in ran.err
    d.env["FINERY_REMOTE"] = url
    shutil.rmtree(tmp_path / "store")
    screen, terminal = pty.openpty()
    d.env["TERM"] = "xterm"
    assert d.start("fetch", stderr=terminal).wait(120) == 1
    os.close(terminal)
    assert os.read(screen, 10_000).decode().startswith("error: the shared store")  # no bar
    os.close(screen)
    b.edit("recipe.yaml", "rows: one}", "rows: one, seed: 3}")
    assert "two" in build(b, remote=url).outcome.ran


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_old_results_are_removed_from_a_shared_store(
    kind: str, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/store" if kind == "folder" else "s3://team/x"
    a, b = clone(tmp_path / "a"), clone(tmp_path / "b")
    build(a, remote=url, push=True)
    objects = open_objects(url)
    folders = "records", "blobs", "versions"
    everything = {o.name for folder in folders for o in objects.list_objects(folder)}
    a.write({"finery.toml": f'remote = "{url}"'})
    a.env = _access()
    assert (
        "Would remove 0 results and 0 B" in a.run("cache", "gc", "--shared", "1", "--dry-run").out
    )
    assert expire(objects, 1, dry_run=False).results == 0
    ages = {name: 2 if name in sorted(everything)[::2] else 0 for name in everything}
    stocked = objects.list_objects

    def aged(folder: str) -> Iterator[StoredObject]:
        return (o._replace(written=o.written - ages[o.name] * 86_400) for o in stocked(folder))

    monkeypatch.setattr(objects, "list_objects", aged)
    foreseen = expire(objects, 1, dry_run=True)
    assert {o.name for folder in folders for o in stocked(folder)} == everything
    assert expire(objects, 1, dry_run=False) == foreseen
    assert 0 < foreseen.results < foreseen.kept + foreseen.results
    left = {o.name for folder in folders for o in stocked(folder)}
    for kind_of_object in ("records", "versions"):
        assert {n for n in left if n.startswith(kind_of_object)} == {
            n for n in everything if n.startswith(kind_of_object) and not ages[n]
        }
    made = build(b, remote=url)  # what stays is whole: only what has no record runs
    assert len(made.outcome.ran) <= foreseen.results + 1
    assert not made.sharing.is_behind
    assert digests(made).keys() == digests(build(a)).keys()


@pytest.mark.slow
@pytest.mark.forks
def test_nothing_is_wrong_or_lost_at_random_faults(
    tmp_path: Path, proxy: Proxy, pytestconfig: pytest.Config
) -> None:
    count = 200 if pytestconfig.getoption("thorough") else 12
    recipe = RECIPE[: RECIPE.index("export:")]
    wanted = digests(build(clone(tmp_path / "wanted", recipe), remote=None))
    chance = random.Random(1)
    for number in range(count):
        project = clone(tmp_path / str(number), recipe)
        proxy.share = chance.choice([0.0, 0.05, 0.3])
        for _ in range(2):  # the second continues
            fetch = chance.choice(["none", "final", "all"])
            made = build(project, push=chance.random() < 0.7, fetch=fetch)
            assert digests(made) == wanted
        proxy.share = 0.0
        assert digests(build(project, fetch="all", push=True)) == wanted
        for name in ("rows", "one", "two", "gate", "adapter"):
            for file in (project.folder / f"build/t/{name}").iterdir():
                assert file.is_file()
        shutil.rmtree(project.folder)
    assert len(proxy.seen.keys() & {"cut", "half", "corrupt", "lose"}) > 2


ENGINE = """
import os
from finery import Completion, Dataset, Engine, Job, Model, Step, hookimpl, setting

class Api(Engine):
    def generate(self, requests, sampling):
        assert not [name for name in os.environ if name.startswith("AWS_")]
        texts = [r.messages[-1]["content"] for r in requests]
        with open(os.environ["RAN"], "a") as file:
            print(*texts, sep="\\n", file=file)
        return [Completion(text=t.upper(), finish_reason="stop", prompt_tokens=1,
                           completion_tokens=1) for t in texts]

class Named(Step, seeded=False):
    "A model behind an API."
    def run(self, job: Job) -> Model:
        return Model(job.out, meta={"format": "test-api"})

class Ask(Step, engines=True, seeded=False):
    "Its answers."
    model: Model
    tag: int = setting(0, help="Changes the key.")
    def run(self, job: Job) -> Dataset:
        asked = [[{"role": "user", "content": f"q{i}"}] for i in range(5)]
        answers = job.engine(self.model).generate(asked)
        return Dataset.write(job.out, [{"prompt": a.text, "tag": self.tag} for a in answers])

@hookimpl
def finery_steps(): return {"t.named": Named, "t.ask": Ask}
@hookimpl
def finery_engines(): return {"test-api": Api}
"""
ASKS = """
finery: 1
name: t
plugins: [./engine.py]
models: {api: {use: t.named}}
data: {asked: {use: t.ask, model: api}}
"""


@pytest.mark.slow
def test_answers_are_shared(tmp_path: Path, proxy: Proxy) -> None:
    log, answered = tmp_path / "ran", []
    trust = [make_key(tmp_path / "ours")]  # which signed none of the answers
    different: list[dict[str, Any]] = [{"push": True}, {}, {"trust": trust}]
    for tag, settings in enumerate(different):
        project = clone(tmp_path / str(tag), ASKS)
        project.edit("recipe.yaml", "model: api", f"model: api, tag: {tag}")
        written = {"remote": "s3://team/x", "share_answers": True, **settings}
        lines = "".join(f"{name} = {json.dumps(v)}\n" for name, v in written.items())
        project.write({"engine.py": ENGINE, "finery.toml": lines})
        project.env = {**_access(), "RAN": str(log)}
        assert "asked" in project.ran()
        answered.append(len(log.read_text().split()))
    assert answered == [5, 5, 10]


def _access() -> dict[str, str]:
    """The variables for a process that uses the proxy."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def test_a_file_system_of_fsspec_holds_objects(tmp_path: Path) -> None:
    """As Hugging Face's does, which needs an account."""
    need("fsspec")
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    files = DirFileSystem(str(tmp_path), LocalFileSystem(auto_mkdir=True))
    objects = FileSystemObjects(files, "buckets/team/x", "hf://buckets/team/x")
    (tmp_path / "file").write_bytes(b"content")
    objects.put("blobs/ab/c", tmp_path / "file")
    objects.put("records/ab/c", b"record")
    assert objects.read("records/ab/c") == b"record"
    assert objects.read("blobs/ab/c", 1, 4) == b"ont"
    assert (objects.has("blobs/ab/c"), objects.has("blobs/ab/d")) == (True, False)
    assert objects.read("blobs/ab/d") is None
    files.fs.auto_mkdir = False
    with pytest.raises(RemoteError, match="doesn't exist"):
        objects.put("answers/ab/c", b"")


def test_urls_are_checked_and_shown_without_passwords() -> None:
    for url in ("team/x", "ftp://x", "s3://"):
        with pytest.raises(UsageError, match=r"must be a URL|names no bucket"):
            open_objects(url)
    with pytest.raises(RemoteError, match="no connection") as caught:
        open_objects("http://user:secret@127.0.0.1:1/x?key=secret").read("a", 0, 3)
    assert "secret" not in str(caught.value)
