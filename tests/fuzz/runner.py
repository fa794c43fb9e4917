"""Runs `finery` on hostile projects, each in a forked process that is watched. A program:

    python runner.py TARGET SEED FIRST COUNT [URL]

prints a JSON line for each case that went wrong, and at last one with what was run.
"""

import contextlib
import importlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from targets import TARGETS, Target
from warm import import_all

SECONDS = 10
"""Most time of a processor that a command may take."""
PATIENCE = 60
"""Seconds after which a waiting command counts as hanging, on a busy machine too."""
BYTES = 1 << 30
"""Most memory of a command, and of what it starts."""
CODES = (0, 1, 2)


class Ended(NamedTuple):
    """How a command ended. code: None where it was stopped after `PATIENCE` seconds."""

    code: int | None
    seconds: float
    memory: int
    output: str


def run(argv: list[str], folder: Path, *, own_workers: bool) -> Ended:
    """Run `finery ARGV` in the folder. own_workers: as usual, else steps run in that process."""
    output = folder / "output.txt"
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_finery(argv, folder, output, own_workers)
    watched = os.pidfd_open(child)
    ready, _, _ = select.select([watched], [], [], PATIENCE)
    os.close(watched)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # also what it left behind
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status) if ready else None
    text = output.read_text("utf-8", "replace")
    return Ended(code, time.monotonic() - started, usage.ru_maxrss * 1024, text)


def _be_finery(argv: list[str], folder: Path, output: Path, own_workers: bool) -> None:
    """Be the `finery` command, and end with its exit code."""
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(folder)
        sys.argv = ["finery", *argv]
        from finery.cli import main

        if not own_workers:
            from in_process import Here

            import finery.execute.local

            finery.execute.local.LocalExecutor = Here  # type: ignore[assignment,misc]
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)
    os._exit(0)


def problem(ended: Ended) -> str:
    """What a command did that it must not; empty where it did well."""
    if ended.code is None:
        return f"waited for {PATIENCE} s"
    if ended.code == -signal.SIGXCPU:
        return f"computed for {SECONDS} s"
    if "Traceback (most recent call last)" in ended.output:
        return "printed a traceback"
    if ended.code not in CODES:
        return f"ended with code {ended.code}"
    if ended.memory > BYTES:
        return f"took {ended.memory >> 20} MiB"
    if "\x1b" in ended.output or "\u202e" in ended.output:
        return "sent control characters to the terminal"
    return ""


def one(target: Target, template: Path, scratch: Path, seed: str) -> tuple[str, dict[str, Any]]:
    """Make a hostile project of the template and run the target's commands in it."""
    rng = random.Random(seed)
    folder = scratch / "project"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder, symlinks=True)
    changed = target.change(rng, folder)
    for argv in target.commands(rng):
        ended = run(argv, folder, own_workers=rng.random() < target.own_workers)
        wrong = problem(ended)
        if wrong:
            facts = {"seed": seed, "changed": changed, "command": argv, "problem": wrong}
            return wrong, {**facts, "output": ended.output[-4000:], "seconds": ended.seconds}
    return "", {"code": str(ended.code)}


def _check_whole(target: Target, template: Path, folder: Path) -> None:
    """Make sure that the commands work on the project before it is changed."""
    shutil.copytree(template, folder, symlinks=True)
    for argv in [argv for commands in target.runs for argv in commands]:
        ended = run(argv, folder, own_workers=False)
        assert ended.code == 0, f"finery {' '.join(argv)}: {ended.code}\n{ended.output}"
    shutil.rmtree(folder)


def main(name: str, seed: str, first: str, count: str, url: str = "") -> None:
    """Run some cases of a target."""
    os.environ.update(NO_COLOR="1", COLUMNS="100")
    target = TARGETS[name]
    import_all()
    for module in target.imports:
        importlib.import_module(module)
    keep = os.environ.get("FINERY_FUZZ_KEEP")
    codes = Counter[str]()
    scratch = Path(tempfile.mkdtemp(prefix="finery-fuzz-"))
    try:
        template = scratch / "template"
        (template / ".git").mkdir(parents=True)  # ends the search for the project's folder
        target.make(template, url)
        for argv in target.before:
            ended = run(argv, template, own_workers=False)
            assert ended.code == 0, ended.output
        if not url:  # a server that means harm may fail the whole project too
            _check_whole(target, template, scratch / "whole")
        (template / "output.txt").unlink(missing_ok=True)
        for number in range(int(first), int(first) + int(count)):
            case = f"{name}:{seed}:{number}"
            wrong, facts = one(target, template, scratch, case)
            if not wrong:
                codes[facts["code"]] += 1
                continue
            print(json.dumps(facts), flush=True)
            if keep:
                shutil.copytree(scratch / "project", Path(keep) / case, symlinks=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps({"ran": int(count), "codes": codes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
