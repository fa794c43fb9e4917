"""Time the core: N trivial steps in finery, DVC, Snakemake and doit, as whole processes.

    python benchmarks/core.py                       # all tools, about 5 minutes on 2 cores
    python benchmarks/core.py --tools finery,doit --sizes 10,100 --repeat 3
    python benchmarks/core.py --peers /tmp/peers --json core.json

The peers come with `pip install "finery[bench]"`, or from another environment (`--peers VENV`).

Each step reads one file and writes one tiny file of its own. In a `fan` all N read the source, in
a `chain` each reads what the one before it wrote. Every repeat starts in an empty folder and runs
the same command four times:

    cold    nothing is built                                N steps run
    again   nothing changed                                 no step runs
    tag     the last step's parameter changed               1 step runs
    source  the source's content changed                    N steps run

How many steps ran, and what the last one wrote, is checked after each command; a cell where that
is wrong is said to have failed, not timed. The tools take turns within a repeat, so the ratios
compare runs that lie close together. Writing the folder and `dvc init` aren't timed.

Each peer in the fastest form found that keeps its records complete:

    dvc        stages of shell builtins only (no process but `sh`), no analytics or update check
    snakemake  one wildcard rule with `shell`, all cores, the greedy scheduler, errors only
    doit       an in-process Python action, the JSON database, the `zero` reporter
"""

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import between, cores, last_line, machine, names, parser_of, say

SHAPES = ("fan", "chain")
PHASES = ("cold", "again", "tag", "source")
IMPORTS = "import click, yaml, sqlite3"
SETUP_TIMEOUT = 120.0


class CellError(Exception):
    """Why a cell has no time."""


@dataclass(frozen=True)
class Work:
    """What a build has to do: a step for each tag, and the source's content."""

    shape: str
    tags: tuple[int, ...]
    version: str = "v0"

    def input_of(self, i: int, source: str, step: str) -> str:
        """What step `i` reads; `step` is a template for the name of a step's output."""
        return step.format(i - 1) if self.shape == "chain" and i else source

    def changed(self, phase: str) -> "Work":
        """The work that a phase after `cold` finds."""
        if phase == "tag":
            return Work(self.shape, (*self.tags[:-1], self.tags[-1] + 1_000_000), self.version)
        return Work(self.shape, self.tags, "v1") if phase == "source" else self

    def steps_run(self, phase: str) -> int:
        """How many steps have to run in a phase."""
        return {"again": 0, "tag": 1}.get(phase, len(self.tags))


@dataclass(frozen=True)
class Tool:
    """A build tool: its command, and how to write the work down for it."""

    name: str
    arguments: tuple[str, ...]
    write: Callable[[Path, Work], None]
    setup: tuple[tuple[str, ...], ...] = ()


@dataclass
class Cell:
    """A tool at one shape and size: the seconds of each phase, one for each repeat."""

    tool: str
    shape: str
    size: int
    wall: dict[str, list[float]] = field(default_factory=lambda: {p: [] for p in PHASES})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {p: [] for p in PHASES})
    note: str = ""

    def median(self, phase: str) -> float | None:
        """The median over the repeats; None where the phase was not measured."""
        return statistics.median(self.wall[phase]) if self.wall[phase] else None


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    tools: tuple[str, ...]
    shapes: tuple[str, ...]
    sizes: tuple[int, ...]
    repeat: int
    limits: Mapping[str, int]
    timeout: float
    peers: Path | None
    json: Path | None


# How each tool is told the work. A file is written only where its text differs, so that a change
# touches nothing but what changed.


def put(path: Path, text: str) -> None:
    """Write `text`, unless the file has it already."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def put_source(folder: Path, work: Work) -> None:
    """Write the source file."""
    put(folder / "source.txt", f"src {work.version}\n")


FINERY_STEPS = '''\
from finery import Dataset, Files, Job, Step, hookimpl, setting

RAN = {ran!r}  # a mark for each run of Copy: the benchmark counts them


class Source(Step):
    """Read the source file."""

    path: Files = setting(help="The source file.")

    def run(self, job: Job) -> Dataset:
        text = self.path.paths[0].read_text()
        return Dataset.write(job.out, [{{"prompt": "p", "completion": text}}])


class Copy(Step):
    """Copy rows under a prompt of the step's own."""

    rows: Dataset
    tag: int = setting(0, help="Makes each step its own.")

    def run(self, job: Job) -> Dataset:
        rows = [{{"prompt": str(self.tag), "completion": r["completion"]}} for r in self.rows]
        with open(RAN, "a") as ran:
            ran.write(".")
        return Dataset.write(job.out, rows)


@hookimpl
def finery_steps():
    return {{"bench.source": Source, "bench.copy": Copy}}
'''


def write_finery(folder: Path, work: Work) -> None:
    """A recipe and a plugin beside it."""
    put_source(folder, work)
    put(folder / "bench_steps.py", FINERY_STEPS.format(ran=str(folder / "ran.log")))
    lines = ["finery: 1", "name: bench", "seed: 1", "plugins: [./bench_steps.py]", "data:"]
    lines.append("  source: {use: bench.source, path: source.txt}")
    for i, tag in enumerate(work.tags):
        rows = work.input_of(i, "source", "s{}")
        lines.append(f"  s{i}: {{use: bench.copy, rows: {rows}, tag: {tag}}}")
    put(folder / "recipe.yaml", "\n".join(lines) + "\n")


def write_dvc(folder: Path, work: Work) -> None:
    """A stage for each step, of shell builtins only."""
    put_source(folder, work)
    lines = ["stages:"]
    for i, tag in enumerate(work.tags):
        taken = work.input_of(i, "source.txt", "s{}.txt")
        lines.append(f"  s{i}:")
        lines.append(f"    cmd: 'read -r _ text < {taken}; echo \"{tag} $text\" > s{i}.txt'")
        lines.append(f"    deps: [{taken}]")
        lines.append(f"    outs: [s{i}.txt]")
    put(folder / "dvc.yaml", "\n".join(lines) + "\n")


SNAKEFILE = """\
import json

with open("tags.json") as file:
    TAGS = json.load(file)


def taken(wildcards):
    i = int(wildcards.i)
    return f"s{{i - 1}}.txt" if {chain} and i else "source.txt"


wildcard_constraints:
    i=r"\\d+",


rule all:
    input: expand("s{{i}}.txt", i=range(len(TAGS)))


rule step:
    input: taken
    output: "s{{i}}.txt"
    params: tag=lambda wildcards: TAGS[int(wildcards.i)]
    shell: 'read -r _ text < {{input}}; echo "{{params.tag}} $text" > {{output}}'
"""


def write_snakemake(folder: Path, work: Work) -> None:
    """One rule with a wildcard; the tags are its parameters."""
    put_source(folder, work)
    put(folder / "tags.json", json.dumps(work.tags))
    put(folder / "Snakefile", SNAKEFILE.format(chain=work.shape == "chain"))


DODO = """\
import json
from pathlib import Path

from doit.tools import config_changed

TAGS = json.loads(Path("tags.json").read_text())


def copy(taken, made, tag):
    text = Path(taken).read_text().split()[1]
    Path(made).write_text(f"{{tag}} {{text}}\\n")


def task_step():
    for i, tag in enumerate(TAGS):
        taken = f"s{{i - 1}}.txt" if {chain} and i else "source.txt"
        made = f"s{{i}}.txt"
        yield {{
            "name": str(i),
            "actions": [(copy, [taken, made, tag])],
            "file_dep": [taken],
            "targets": [made],
            "uptodate": [config_changed(str(tag))],
        }}
"""


def write_doit(folder: Path, work: Work) -> None:
    """A task for each step with a Python function as its action."""
    put_source(folder, work)
    put(folder / "tags.json", json.dumps(work.tags))
    put(folder / "dodo.py", DODO.format(chain=work.shape == "chain"))


CORES = str(cores())
DVC_SETUP = (
    ("init", "--no-scm", "--quiet"),
    ("config", "core.analytics", "false"),
    ("config", "core.check_update", "false"),
    ("config", "core.autostage", "false"),
)
QUIET = ("--quiet", "host", "progress", "reason", "rules")  # `all` would hide errors as well
SNAKEMAKE_RUN = ("--cores", CORES, "--scheduler", "greedy", *QUIET)
DOIT_RUN = ("run", "--verbosity", "0", "--reporter", "zero", "--backend", "json")
TOOLS = {
    tool.name: tool
    for tool in (
        Tool("finery", ("build",), write_finery),
        Tool("dvc", ("repro", "--quiet"), write_dvc, DVC_SETUP),
        Tool("snakemake", SNAKEMAKE_RUN, write_snakemake),
        Tool("doit", DOIT_RUN, write_doit),
    )
}


# Running and checking


@dataclass(frozen=True)
class Runner:
    """Runs commands with one environment: caches in the benchmark's own folder."""

    root: Path
    timeout: float

    def environment(self) -> dict[str, str]:
        """The caller's, but for what would leave traces outside the root or slow a tool down."""
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        kept["FINERY_PROJECT_SETTINGS"] = "allow"  # finery.toml is the benchmark's own
        return {
            **kept,
            "SHELL": "/bin/sh",
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.root / "dvc-site"),
            "DVC_GLOBAL_CONFIG_DIR": str(self.root / "dvc-config"),
        }

    def run(self, command: Sequence[str], cwd: Path, timeout: float = 0) -> tuple[float, float]:
        """Wall and CPU seconds of a command; CellError when it fails or takes too long."""
        limit = timeout or self.timeout
        log = self.root / "output.txt"
        before = cpu_seconds()
        with log.open("wb") as out:
            start = time.perf_counter()
            code = wait(command, cwd, self.environment(), out.fileno(), limit)
            wall = time.perf_counter() - start
        if code is None:
            raise CellError(f"timed out: over {limit:g} s")
        if code:
            raise CellError(f"failed: exit status {code}: {last_line(log)}")
        return wall, cpu_seconds() - before


def wait(
    command: Sequence[str], cwd: Path, env: Mapping[str, str], out: int, limit: float
) -> int | None:
    """The exit status, or None after `limit` seconds; kills what is left of its process group."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        kill_group(process)

    timer = threading.Timer(limit, stop)  # `wait(timeout)` polls, and would round up to 50 ms
    timer.daemon = True
    timer.start()
    try:
        code = process.wait()
    finally:
        timer.cancel()
        if process.returncode is None:
            kill_group(process)
            process.wait()
    return None if late.is_set() else code


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a command and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def cpu_seconds() -> float:
    """CPU time of all child processes waited for so far, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def traces(tool: Tool, folder: Path) -> set[tuple[str, int]]:
    """One entry for each run of a step so far that can be told from the others."""
    if tool.name == "finery":
        ran = folder / "ran.log"
        return {("ran", i) for i in range(ran.stat().st_size if ran.exists() else 0)}
    with os.scandir(folder) as entries:
        outputs = [e for e in entries if re.fullmatch(r"s\d+\.txt", e.name)]
        return {(e.name, e.stat().st_mtime_ns) for e in outputs}


def check(tool: Tool, folder: Path, work: Work, ran: int, expected: int) -> None:
    """CellError when a command left undone what it had to do, or did more."""
    if ran != expected:
        raise CellError(f"failed: {ran} steps ran, not {expected}")
    if tool.name == "finery":
        return
    found = (folder / f"s{len(work.tags) - 1}.txt").read_text()
    if found != f"{work.tags[-1]} {work.version}\n":
        raise CellError(f"failed: the last step wrote {found!r}")


def measure(
    tool: Tool, executable: str, shape: str, size: int, runner: Runner
) -> Iterator[tuple[str, float, float]]:
    """Phase, wall seconds, CPU seconds: one repeat, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix=f"{tool.name}-{shape}-{size}-", dir=runner.root))
    work = Work(shape, tuple(range(size)))
    try:
        tool.write(folder, work)
        for arguments in tool.setup:
            runner.run((executable, *arguments), folder, SETUP_TIMEOUT)
        os.sync()  # what the tool before left for the disk isn't this one's to wait for
        for phase in PHASES:
            work = work.changed(phase)
            tool.write(folder, work)
            before = traces(tool, folder)
            wall, cpu = runner.run((executable, *tool.arguments), folder)
            ran = len(traces(tool, folder) - before)
            check(tool, folder, work, ran, work.steps_run(phase))
            yield phase, wall, cpu
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find(name: str, peers: Path | None) -> str | None:
    """A tool's executable: in `--peers`, beside this Python, or on PATH."""
    beside = Path(sys.executable).parent  # not resolved: in a venv it is a link
    folders = [peers / "bin"] if peers and name != "finery" else []
    for folder in (*folders, beside):
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    return shutil.which(name)


def version_of(executable: str, runner: Runner) -> str:
    """The version that a tool prints, or `?`."""
    try:
        runner.run((executable, "--version"), runner.root, SETUP_TIMEOUT)
    except (CellError, OSError):
        return "?"
    found = re.search(r"\d+\.\d+[\w.+-]*", (runner.root / "output.txt").read_text(errors="replace"))
    return found.group() if found else "?"


def prepare(options: Options, runner: Runner) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Executables and versions of the tools there are; why the others can't run; who is missing."""
    executables, problems = dict[str, str](), dict[str, str]()
    missing = list[str]()
    for name in options.tools:
        executable = find(name, options.peers)
        if executable is None:
            problems[name] = "missing: not in --peers, beside this Python or on PATH"
            missing.append(name)
            continue
        executables[name] = executable
        say(f"{name} {version_of(executable, runner)}: warming up")
        try:
            for shape in options.shapes:
                for _ in measure(TOOLS[name], executable, shape, 2, runner):
                    pass
        except (CellError, OSError) as error:
            problems[name] = f"{error} (at N=2)"
    return executables, problems, missing


# The whole run


def why_skipped(cell: Cell, options: Options, problems: Mapping[str, str]) -> str:
    """Why a cell is not run at all; the empty string when it is."""
    if cell.tool in problems:
        return problems[cell.tool]
    limit = options.limits.get(cell.tool)
    if limit is not None and cell.size > limit:
        return f"skipped: N is over --limit {cell.tool}={limit}"
    return ""


def run_group(
    cells: Sequence[Cell], executables: Mapping[str, str], options: Options, runner: Runner
) -> None:
    """Fill the cells of one shape and size; in each repeat the tools take turns."""
    for round_ in range(options.repeat):
        for cell in cells:
            if cell.note:
                continue
            tool, executable = TOOLS[cell.tool], executables[cell.tool]
            try:
                for phase, wall, cpu in measure(tool, executable, cell.shape, cell.size, runner):
                    cell.wall[phase].append(wall)
                    cell.cpu[phase].append(cpu)
            except (CellError, OSError) as error:
                cell.note = str(error)
            times = " ".join(f"{p} {v[-1]:.2f}" for p, v in cell.wall.items() if v)
            say(f"{cell.shape} {cell.size} {cell.tool} #{round_ + 1}: {times} {cell.note}")


def run_all(
    executables: Mapping[str, str], problems: Mapping[str, str], options: Options, runner: Runner
) -> list[Cell]:
    """All cells; a tool that timed out at a size is spared the larger ones of that shape."""
    done: list[Cell] = []
    for shape in options.shapes:
        timed_out: dict[str, int] = {}
        for size in options.sizes:
            cells = [Cell(name, shape, size) for name in options.tools]
            for cell in cells:
                cell.note = why_skipped(cell, options, problems)
                if not cell.note and cell.tool in timed_out:
                    cell.note = f"skipped: timed out at N={timed_out[cell.tool]}"
            run_group(cells, executables, options, runner)
            timed_out |= {c.tool: c.size for c in cells if c.note.startswith("timed out")}
            done += cells
    return done


def time_imports(runner: Runner, times: int = 5) -> list[float]:
    """Seconds of a Python that does nothing but import what any such tool would."""
    try:
        runs = [runner.run((sys.executable, "-c", IMPORTS), runner.root) for _ in range(times)]
    except CellError as error:
        say(f'python -c "{IMPORTS}": {error}')
        return []
    return [wall for wall, _ in runs]


def per_step_ms(cells: Sequence[Cell], tool: str, shape: str) -> tuple[int, int, float] | None:
    """Smallest N, largest N, and the cold milliseconds that each step in between adds."""
    cold = {c.size: c.median("cold") for c in cells if (c.tool, c.shape) == (tool, shape)}
    known = {n: seconds for n, seconds in cold.items() if seconds is not None}
    if len(known) < 2:
        return None
    low, high = min(known), max(known)
    return low, high, (known[high] - known[low]) / (high - low) * 1000


# What is printed


def entry(cell: Cell, phase: str, base: Cell | None) -> str:
    """Seconds, and for a peer how many times finery's."""
    seconds = cell.median(phase)
    if seconds is None:
        return "-"
    own = base.median(phase) if base else None
    if cell.tool == "finery" or not own:
        return f"{seconds:.3f}"
    return f"{seconds:.3f} ({seconds / own:.2f}x)"


def table(cells: Sequence[Cell]) -> str:
    """The one table. What has no time says why."""
    base = {(c.shape, c.size): c for c in cells if c.tool == "finery"}
    lines = [["shape", "N", "tool", *PHASES, ""]]
    for c in cells:
        times = [entry(c, phase, base.get((c.shape, c.size))) for phase in PHASES]
        lines.append([c.shape, str(c.size), c.tool, *times, c.note])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def facts(cells: Sequence[Cell], imports: Sequence[float], options: Options) -> list[str]:
    """The start-up ratio and the time per step, beside what finery aims at."""
    lines = []
    floor = statistics.median(imports) if imports else None
    if floor:
        lines.append(f'python -c "{IMPORTS}": {floor:.3f} s (median of {len(imports)})')
    for c in cells:
        again = c.median("again")
        if floor and again and (c.tool, c.size) == ("finery", 10):
            lines.append(
                f"finery, {c.shape}, N=10, nothing to do: {again / floor:.2f} times that"
                " (aim: under 3)"
            )
    for shape in options.shapes:
        for tool in options.tools:
            found = per_step_ms(cells, tool, shape)
            if found:
                low, high, ms = found
                aim = " (aim: at most 5)" if tool == "finery" else ""
                lines.append(
                    f"{tool}, {shape}, cold: {ms:.2f} ms a step,"
                    f" (cold({high}) - cold({low})) / {high - low}{aim}"
                )
    return lines


def as_json(
    cells: Sequence[Cell],
    imports: Sequence[float],
    options: Options,
    about: Mapping[str, Mapping[str, str]],
) -> str:
    """Everything measured, each repeat of it."""
    made = {
        **about,
        "imports": {"code": IMPORTS, "wall": list(imports)},
        "repeat": options.repeat,
        "cells": [
            {
                "tool": c.tool,
                "shape": c.shape,
                "size": c.size,
                "note": c.note,
                "wall": c.wall,
                "cpu": c.cpu,
                "median": {p: c.median(p) for p in PHASES},
            }
            for c in cells
        ],
    }
    return json.dumps(made, indent=2) + "\n"


# The command line


def sizes(text: str) -> tuple[int, ...]:
    """Reads step counts, separated by commas; in rising order."""
    found = tuple(sorted({int(t) for t in text.split(",")}))
    if not all(1 <= n <= 100_000 for n in found):
        raise argparse.ArgumentTypeError("each N lies between 1 and 100000")
    return found


def limits(text: str) -> dict[str, int]:
    """Reads `tool=N` pairs, separated by commas."""
    pairs = [t.split("=", 1) for t in text.split(",") if t.strip()]
    if any(len(p) != 2 or p[0] not in TOOLS or not p[1].isdigit() for p in pairs):
        raise argparse.ArgumentTypeError("write it as dvc=100,snakemake=1000")
    return {tool: int(largest) for tool, largest in pairs}


def read_options(arguments: Sequence[str] | None) -> Options:
    """Read the command line."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    everyone = ",".join(TOOLS)
    add("--tools", type=names(tuple(TOOLS)), default=everyone, help="default: %(default)s")
    add("--shapes", type=names(SHAPES), default=",".join(SHAPES), help="default: %(default)s")
    add("--sizes", type=sizes, default="10,100,1000", help="default: %(default)s")
    add(
        "--repeat",
        type=between(1, 100),
        default=1,
        help="medians of so many runs (default: 1)",
    )
    add(
        "--limit",
        type=limits,
        default="dvc=100",
        dest="limits",
        help="largest N for a tool (default: %(default)s, since DVC at N=1000 takes over 10"
        " minutes); '' for no limits",
    )
    add("--timeout", type=float, default=600.0, help="seconds for a command (default: 600)")
    add("--peers", type=Path, help="an environment that has the peers")
    add("--json", type=Path, help="write all figures to this file as well")
    return Options(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. The exit status is 0 unless a tool that is there failed or timed out."""
    options = read_options(arguments)
    with tempfile.TemporaryDirectory(prefix="finery-bench-", ignore_cleanup_errors=True) as root:
        runner = Runner(Path(root), options.timeout)
        here = machine()
        executables, problems, missing = prepare(options, runner)
        versions = {name: version_of(path, runner) for name, path in executables.items()}
        imports = time_imports(runner)
        cells = run_all(executables, problems, options, runner)
        imports += time_imports(runner)
    print(", ".join(f"{k} {v}" for k, v in here.items()))
    print(", ".join(f"{k} {v}" for k, v in (versions | dict.fromkeys(missing, "missing")).items()))
    print(f"Whole-process wall seconds, median of {options.repeat}; (ratio to finery's).\n")
    print(table(cells) + "\n")
    print("\n".join(facts(cells, imports, options)))
    if options.json:
        options.json.write_text(
            as_json(cells, imports, options, {"machine": here, "versions": versions})
        )
    return int(any(c.note.startswith(("failed", "timed out")) for c in cells))


if __name__ == "__main__":
    sys.exit(main())
