"""Runs checks, each in a process of its own that is ended at its limit."""

import contextlib
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from gpu.catalog import BY_NAME
from gpu.check import Check, Facts, Failed, Missing, Place
from gpu.project import end_of

RESULT, OUTPUT = "result.json", "output.txt"
_processes: set["subprocess.Popen[bytes]"] = set()
"""Of the checks that run."""
SLOWER = 3
"""Times the limits, on a CPU that tests share."""
FEWEST_SECONDS = 5
"""With less time left, a check doesn't start."""


class Limits(NamedTuple):
    """seconds: for all checks together. at_once: how many run at the same time."""

    seconds: float
    at_once: int = 1


class Result(NamedTuple):
    """How a check ended. status: `ok`, `failed` or `missing`. reason: empty for `ok`."""

    check: str
    status: str
    reason: str
    seconds: float
    limit: int
    facts: Facts

    def line(self) -> str:
        """As a JSON line."""
        fields = {k: v for k, v in self._asdict().items() if v not in ("", {})}
        return json.dumps(fields, ensure_ascii=False)


def run_all(
    checks: Sequence[Check], place: Place, limits: Limits, environment: Mapping[str, str]
) -> Iterator[Result]:
    """Run the checks in their order; each result as soon as there is one."""
    end = time.monotonic() + limits.seconds
    with ThreadPoolExecutor(max_workers=limits.at_once) as pool:
        running = [pool.submit(run_one, check, place, end, environment) for check in checks]
        try:
            for done in as_completed(running):
                yield done.result()
        except BaseException:  # Ctrl-C: their processes are in groups of their own
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(_processes):
                _end_group(process)
            raise


def run_one(check: Check, place: Place, end: float, environment: Mapping[str, str]) -> Result:
    """Run one check in a new process until its limit, or until the end of all checks."""
    left = int(end - time.monotonic())
    limit = min(check.seconds * (SLOWER if place.device == "cpu" else 1), left)
    if left < FEWEST_SECONDS:
        return Result(check.name, "missing", "The time for all checks is over", 0, limit, {})
    folder = place.folder / check.name
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    ended = _run(check, place, folder, limit, environment)
    seconds = round(time.monotonic() - began, 1)
    if not ended:
        reason = f"It ran longer than {limit} s. Its last output: {_output(folder)}"
        return Result(check.name, "failed", reason, seconds, limit, {})
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        reason = f"Its process died. Its last output: {_output(folder)}"
        return Result(check.name, "failed", reason, seconds, limit, {})
    return Result(check.name, seconds=seconds, limit=limit, **result)


def _run(
    check: Check, place: Place, folder: Path, limit: int, environment: Mapping[str, str]
) -> bool:
    """Whether the process ended by itself. Whatever it started ends with it."""
    tiny = ["--tiny"] if place.tiny else []
    command = [sys.executable, str(Path(__file__).parent), "--device", place.device, *tiny]
    command += ["--folder", str(place.folder), "--one", check.name]
    with (folder / OUTPUT).open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        _processes.add(process)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            return False
        finally:
            _processes.discard(process)
            _end_group(process)
    return True


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _output(folder: Path) -> str:
    return end_of((folder / OUTPUT).read_text(encoding="utf-8", errors="replace")) or "none"


# -- in the process of a check -------------------------------------------------------------------


def run_here(name: str, place: Place) -> None:
    """Run a check in this process and write its result."""
    folder = place.folder / name
    here = Place(folder, place.shared, place.device, place.tiny)
    (folder / RESULT).write_text(json.dumps(_result(BY_NAME[name], here)), encoding="utf-8")


def _result(check: Check, place: Place) -> dict[str, Any]:
    try:
        _require(check, place)
        module, _, function = check.run.partition(":")
        facts = getattr(importlib.import_module(f"gpu.checks.{module}"), function)(place)
    except Missing as missing:
        return {"status": "missing", "reason": str(missing), "facts": {}}
    except Failed as failed:
        return {"status": "failed", "reason": str(failed), "facts": {}}
    except Exception as error:  # whatever a library raises on a GPU is the result of the check
        traceback.print_exc()
        reason = f"{type(error).__name__}: {end_of(str(error))}"
        return {"status": "failed", "reason": reason, "facts": {}}
    return {"status": "ok", "reason": "", "facts": facts}


def _require(check: Check, place: Place) -> None:
    """Raise `Missing` for what this machine lacks."""
    if check.gpus and place.device == "cpu":
        raise Missing("It needs a GPU")
    for name in check.needs:
        if importlib.util.find_spec(name) is None:
            raise Missing(f"The module {name} isn't installed")
