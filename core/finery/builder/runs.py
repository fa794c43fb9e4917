"""Records of builds: who built what from which revision, on what machine, and how it ended.

A build writes its record while it runs, and `finery runs`, `show --run` and `diff` read it. A
record may be incomplete: of a run that goes on, or was killed.
"""

import fcntl
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import msgspec

from finery.artifact.manifest import Result
from finery.errors import FineryError, UsageError
from finery.execute.gpus import cpu_count, memory_bytes, processor
from finery.recipe.document import Recipe
from finery.recipe.graph import Graph
from finery.util.events import Event
from finery.util.installed import version_of
from finery.util.paths import plain_path, recipe_id
from finery.util.text import did_you_mean


def context_of(graph: Graph, recipe_id: str) -> dict[str, Any]:
    """Facts as JSON values. recipe_id: the recipe's path from the project's folder."""
    recipe = graph.recipe
    revision = revision_of(plain_path(recipe.path).parent)
    return {
        "format": 1,
        "recipe": recipe.name,
        "path": recipe_id,
        "revision": None if revision is None else revision._asdict(),
        "overrides": list(recipe.overrides.values()),
        "only": [] if graph.whole is None else list(graph.nodes),
        "finery": version_of("finery"),
        "python": platform.python_version(),
        "machine": machine(),
    }


def machine(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A description of the machine, without its name."""
    from finery.execute.gpus import visible_gpus

    return {
        "system": platform.system(),
        "processor": processor(),
        "cores": cpu_count(),
        "memory": memory_bytes(),
        "gpus": [gpu.name for gpu in visible_gpus(environment)],
    }


SECONDS = 20
"""The longest that a question to git may take."""


class Revision(NamedTuple):
    """A commit, and whether tracked files under the project's folder differ from it."""

    commit: str
    is_dirty: bool

    def __str__(self) -> str:
        """As text: `9dea07c1` or `9dea07c1 + changes`."""
        return self.commit[:8] + (" + changes" if self.is_dirty else "")


def revision_of(folder: Path) -> Revision | None:
    """The checked-out revision; None outside a repository and before the first commit."""
    commit = ask(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if commit is None:
        return None
    status = ask(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return Revision(commit, status != "")


def commit_of(folder: Path, name: str) -> str | None:
    """The commit that a name means, e.g. `HEAD~1`, a branch or the beginning of a hash."""
    if not name or name.startswith("-"):
        return None
    return ask(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")


def top_of(folder: Path) -> Path | None:
    """The folder of the working tree."""
    top = ask(folder, "rev-parse", "--show-toplevel")
    return Path(top) if top else None


def write_tree(folder: Path, commit: str, target: Path) -> None:
    """Write the files of a commit into a new folder. Working tree and index stay as they are.

    Raises `UsageError` where git can't.
    """
    index = {"GIT_INDEX_FILE": str(target.with_name(f"{target.name}.index"))}
    target.mkdir()
    for arguments in (["read-tree", commit], ["checkout-index", "--all", f"--prefix={target}/"]):
        if ask(folder, *arguments, environment=index) is None:
            raise UsageError(f"git can't write the files of {commit[:8]}", fix="run git fsck")


def ask(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str | None:
    """The stripped output of a `git` command in a folder; None if it fails or isn't installed."""
    own = {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", **(environment or {})}
    try:
        answered = subprocess.run(
            ["git", *arguments], cwd=folder, env={**os.environ, **own}, capture_output=True,
            text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answered.stdout.strip() if answered.returncode == 0 else None


BULK_EVENTS = ("step_progress", "step_metric", "step_cached")
"""Events that needn't reach the disk at once."""
FLUSH_SECONDS = 1.0
"""Those that come after this time do, for `finery report --watch`."""
EVENTS_FILE, CONTEXT_FILE = "events.jsonl", "run.json"
"""The files of a run."""
ORDER_FILE = "run-order"
"""The file of the store with the ids of runs, one a line, in the order in which they began."""


class RunLog:
    """Writes a run's events to `runs/<id>/events.jsonl`, once a step runs.

    The file is locked for writing during the run, so that a reader can distinguish a run that
    continues from one that was killed. context: facts for `run.json`, gathered when the log is
    opened. A build with nothing to do writes no log and needs none of them.
    """

    def __init__(self, runs: Path, run: str, context: Callable[[], dict[str, Any]] = dict) -> None:
        self.folder = runs / run
        self._context = context
        self._held: list[Event] = []
        self._file: BinaryIO | None = None
        self._flushed = 0.0

    def log_of(self, step: str) -> Path:
        """The log file of a step."""
        self.open()
        return self.folder / f"{step}.log"

    def __call__(self, event: Event) -> None:
        """Record an event."""
        if event["event"] == "step_started":
            self.open()
        if self._file is None:
            self._held.append(event)
        else:
            self._file.write(msgspec.json.encode(event) + b"\n")
            now = time.monotonic()
            if event["event"] not in BULK_EVENTS or now - self._flushed > FLUSH_SECONDS:
                self._file.flush()
                self._flushed = now

    def close(self) -> None:
        """Flush and close."""
        if self._file is not None:
            self._file.close()

    def open(self) -> None:
        """Start to write, with what was held so far."""
        if self._file is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent.parent / ORDER_FILE).open("a") as order:
            order.write(f"{self.folder.name}\n")
        self._file = (self.folder / EVENTS_FILE).open("ab")
        with suppress(OSError):  # without locks, a running build is taken for a killed one
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (self.folder / CONTEXT_FILE).write_bytes(msgspec.json.encode(self._context()))
        self._file.writelines(msgspec.json.encode(e) + b"\n" for e in self._held)
        self._held.clear()


@dataclass
class Outcome:
    """The outcome of a build."""

    run: str
    results: dict[str, Result] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    errors: dict[str, FineryError] = field(default_factory=dict)
    blocked: dict[str, list[str]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)  # of failed steps
    accepted: dict[str, str] = field(default_factory=dict)  # cached step → which changes
    redone: dict[str, Result] = field(default_factory=dict)  # what forced steps had before
    seconds: float = 0.0
    fetched: int = 0  # bytes that came from shared stores
    pushed: int = 0  # bytes that went there
    dollars: float = 0.0  # what the answers cost that this build asked for
    dollars_kept: float = 0.0  # what all that is built cost, whenever it was built
    broken: int = 0  # the exit code if something ended the build early

    @property
    def exit_code(self) -> int:
        """0: success. 1: a step or a requirement failed. 2: the user's input is wrong."""
        return self.broken or max((e.exit_code for e in self.errors.values()), default=0)


def is_worth_keeping(
    root: Path, recipe: Recipe, outcome: Outcome, keys_before: Mapping[str, str]
) -> bool:
    """Whether to keep the record of a run in which no step ran.

    root: of the store. keys_before: step → key of its result before the run.
    """
    keys = {name: result.key for name, result in outcome.results.items()}
    if outcome.errors or any(keys_before.get(name) != key for name, key in keys.items()):
        return True
    # The last run may have failed, for example a requirement that is now met.
    last_run = next(runs_of(root, recipe), None)
    return last_run is not None and last_run.ending == "failed"


Ending = Literal["ok", "failed", "interrupted", "killed", "running"]
State = Literal["cached", "ran", "failed", "blocked", "running", "waiting"]
_SKIPPED_EVENTS = tuple(
    b'{"event":"%s"' % name for name in (b"step_metric", b"step_progress", b"step_log")
)
LAST_RUN, PREVIOUS_RUN = "last", "previous"
"""Words for the newest run, and for the one before it."""


@dataclass
class StepRun:
    """What a run did with a step.

    key: of its result; empty if there is none, or if an early version of finery recorded the run.
    started: the key that it started to make. error: see `finery.util.events.Error`. by: the failed
    step that blocks it.
    """

    name: str
    use: str = ""
    section: str = ""
    state: State = "waiting"
    reason: str = ""
    key: str = ""
    started: str = ""
    seconds: float = 0.0
    dollars: float = 0.0
    error: Mapping[str, Any] = field(default_factory=dict)
    by: str = ""


@dataclass
class Run:
    """A build as it was recorded. started, ended: UTC, ISO 8601. context: of `run.json`."""

    id: str
    started: str = ""
    ended: str = ""
    ending: Ending = "killed"
    seconds: float | None = None
    recipe: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    steps: dict[str, StepRun] = field(default_factory=dict)

    @property
    def path(self) -> str | None:
        """The recipe's path from the project's folder; None if it wasn't recorded."""
        path = self.context.get("path")
        return path if isinstance(path, str) else None

    @property
    def revision(self) -> Revision | None:
        """The git revision that was built, where the project is in git."""
        facts = self.context.get("revision")
        return Revision(facts["commit"], facts["is_dirty"]) if facts else None

    @property
    def overrides(self) -> Sequence[str]:
        """The `--set` options of the command."""
        return [str(text) for text in self.context.get("overrides", [])]

    def named(self, *states: State) -> list[str]:
        """The steps in one of these states."""
        return [name for name, step in self.steps.items() if step.state in states]


def runs_of(root: Path, recipe: Recipe, beginning: str = "") -> Iterator[Run]:
    """The runs of a recipe, newest first. root: of the store.

    beginning: of the ids, so that other records aren't read.
    """
    path = recipe_id(recipe.path, root)
    for run_id in (candidate for candidate in run_ids(root) if candidate.startswith(beginning)):
        context = _read_context(root / "runs" / run_id)
        if context and context.get("path") != path:
            continue
        run = read_run(root, run_id, context)
        if run is not None and (context or run.recipe == recipe.name):
            yield run


def run_ids(root: Path) -> list[str]:
    """The ids of recorded runs, newest first, also if a clock was wrong. root: of the store."""
    places: dict[str, int] = {}
    ids: list[str] = []
    with suppress(OSError):  # a store without runs, or of an early version, whose ids count
        ids = os.listdir(root / "runs")
        lines = (root / ORDER_FILE).read_text(encoding="ascii", errors="replace").split()
        places = {run: number for number, run in enumerate(lines)}
    return sorted(ids, key=lambda run: (places.get(run, -1), run), reverse=True)


def find_run(root: Path, recipe: Recipe, word: str) -> Run:
    """The run that a word names: `last`, `previous`, or the beginning of an id.

    Raises `UsageError` if there is no such run, or more than one.
    """
    if word in (LAST_RUN, PREVIOUS_RUN):
        runs = [*islice(runs_of(root, recipe), 2)]
        if runs and (word == LAST_RUN or len(runs) == 2):
            return runs[0 if word == LAST_RUN else 1]
        if runs:
            raise UsageError(
                f"the recipe has only one run, {runs[0].id}",
                fix="change something and build again, or name a git revision: finery diff HEAD~1",
            )
        raise UsageError("the recipe has no run yet", fix="finery build")
    matches = list(runs_of(root, recipe, word)) if word else []
    best_matches = [run for run in matches if run.id == word] or matches
    if len(best_matches) == 1:
        return best_matches[0]
    all_runs = list(runs_of(root, recipe))
    choices = [LAST_RUN, PREVIOUS_RUN, *(run.id for run in all_runs)]
    if matches:
        text = ", ".join(run.id for run in matches[:5])
        raise UsageError(f"'{word}' is the beginning of several runs: {text}", fix="write more")
    raise UsageError(
        f"there is no run '{word}' of this recipe",
        fix=did_you_mean(word, choices) if all_runs else "finery build",
    )


def read_run(root: Path, run_id: str, context: Mapping[str, Any] | None = None) -> Run | None:
    """A run's record; None if it has none. A line that isn't complete is left out."""
    folder = root / "runs" / run_id
    run = Run(run_id, context=_read_context(folder) if context is None else context)
    try:
        with (folder / EVENTS_FILE).open("rb") as file:
            is_running = _is_locked(file)
            for line in file:
                if not line.startswith(_SKIPPED_EVENTS):
                    _add(run, line)
    except OSError:
        return None
    if not run.started:
        return None
    if not run.ended:
        run.ending = "running" if is_running else "killed"
        for step in run.steps.values():
            if step.state == "running" and not is_running:
                step.state = "waiting"
    return run


def progress_of(root: Path, run: Run) -> dict[str, str]:
    """Running step → how far it is, e.g. `12 of 53, loading`."""
    progress: dict[str, str] = {}
    event_start = b'{"event":"step_progress"'
    try:
        with (root / "runs" / run.id / EVENTS_FILE).open("rb") as file:
            lines = [line for line in file if line.startswith(event_start) and line.endswith(b"\n")]
    except OSError:
        return {}
    running = set(run.named("running"))
    for line in reversed(lines):
        event = msgspec.json.decode(line, type=dict[str, Any])
        if event["step"] in running:
            running.discard(event["step"])
            count = f"{event['done']:g} of {event['total']:g}"
            progress[event["step"]] = ", ".join(filter(None, [count, event["text"]]))
        if not running:
            break
    return progress


def _read_context(folder: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode((folder / CONTEXT_FILE).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):  # of an early version, or killed while it began
        return {}


def _is_locked(file: BinaryIO) -> bool:
    """Whether the process that writes the file still has it open."""
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return False
    fcntl.lockf(file, fcntl.LOCK_UN)
    return False


def _add(run: Run, line: bytes) -> None:
    try:
        event = msgspec.json.decode(line, type=dict[str, Any])
        kind = event["event"]
    except (msgspec.DecodeError, KeyError):
        return
    if kind == "build_started":
        run.started, run.recipe = event["time"], event["recipe"]
        run.steps = {s["step"]: StepRun(s["step"], s["use"], s["section"]) for s in event["steps"]}
    elif kind == "build_finished":
        run.ended, run.seconds = event["time"], event["seconds"]
        code: int = event["exit_code"]
        run.ending = "interrupted" if code == 130 else "ok" if event["ok"] else "failed"
    elif event.get("step") in run.steps:
        _add_to(run.steps[event["step"]], kind, event)


def _add_to(step: StepRun, kind: str, event: Mapping[str, Any]) -> None:
    if kind == "step_started":
        step.state, step.reason = "running", event["reason"]
        step.started = event.get("key", "")
    elif kind in ("step_cached", "step_finished"):
        step.state = "cached" if kind == "step_cached" else "ran"
        step.key, step.reason = event.get("key", ""), event.get("reason", step.reason)
        step.seconds, step.dollars = event.get("seconds", 0.0), event.get("dollars", 0.0)
    elif kind == "step_failed":
        step.state, step.error = "failed", event["error"]
    elif kind == "step_blocked":
        step.state, step.by = "blocked", event["by"]
