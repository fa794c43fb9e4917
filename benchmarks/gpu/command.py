"""Checks on a GPU what finery does on GPUs, without a network, in at most ten minutes.

    make gpu-check                                      on a machine where finery is installed
    python benchmarks/gpu --wheels build/gpu-wheels     where only torch is: see wheels.py
    python benchmarks/gpu --device cpu --tiny           the checks that need no GPU, on tiny models

Each check is a line of JSON on stdout: its name, `status` (ok, failed or missing), the reason
unless it is ok, seconds, and what it measured. A table follows on stderr, and a file with the same
table for docs/reference/benchmarks.md.

The exit status is 0 if no check failed, 1 if one did, and 2 if the checks can't run here.
"""

import argparse
import contextlib
import datetime
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from common import names, parser_of, say

from gpu.catalog import BY_NAME, CHECKS
from gpu.check import Check, Place
from gpu.report import page, summary, table
from gpu.runner import Limits, Result, run_all, run_here

HAS_GPU = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 3)"
NO_GPU = "No GPU can be used here: run this on a machine with an NVIDIA GPU and a torch with CUDA"
NO_TORCH = "torch can't be imported here: install it, since it isn't among the wheels"


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    add("--tiny", action="store_true", help="tiny models; no figure is compared with an estimate")
    add("--only", type=names([*BY_NAME]), help=f"some checks: {', '.join(BY_NAME)}")
    add("--minutes", type=float, default=10.0, help="for all checks (default: 10)")
    add("--at-once", type=int, default=1, help="checks at the same time, for a CPU (default: 1)")
    add("--wheels", type=Path, help="install the wheels in this folder first, into --folder")
    add("--folder", type=Path, help="work here and keep it; 30 GB. Default: a temporary folder")
    add("--write", type=Path, default=Path("build/gpu-check.md"), help="the file with the table")
    add("--one", choices=[*BY_NAME], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks, or one of them in this process."""
    given = options(arguments)
    if given.one:
        run_here(given.one, _place(given, given.folder))
        return 0
    with _folder(given.folder) as folder:
        environment = _environment(given, folder)
        if environment is None:
            return 2
        reason = _unusable(given, environment)
        if reason is not None:
            say(reason)
            return 2
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        results = _run(given, _place(given, folder), environment)
    _write(given, results)
    return int(any(result.status == "failed" for result in results))


def _place(given: argparse.Namespace, folder: Path) -> Place:
    return Place(folder, folder / "shared", given.device, given.tiny)


@contextlib.contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="finery-gpu-", ignore_cleanup_errors=True) as new:
        yield Path(new)


def _environment(given: argparse.Namespace, folder: Path) -> dict[str, str] | None:
    """The environment variables of all checks; None, and what is wrong, without the wheels."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    if given.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if given.wheels is None:
        return environment
    site = folder / "site"
    wheels = sorted(map(str, given.wheels.glob("*.whl")))
    if not wheels:
        say(f"{given.wheels} has no wheels: fill it with `make gpu-wheels`")
        return None
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run([*pip, "--upgrade", "--target", str(site), *wheels], check=False)
    if done.returncode:
        say("pip could not install the wheels: are they for this Python?")
        return None
    path = os.pathsep.join(filter(None, [str(site), environment.get("PYTHONPATH")]))
    return {**environment, "PYTHONPATH": path}


def _unusable(given: argparse.Namespace, environment: dict[str, str]) -> str | None:
    """Why the checks can't run here."""
    command = [sys.executable, "-c", HAS_GPU]
    code = subprocess.run(command, env=environment, capture_output=True, check=False).returncode
    if code in (0, 3):
        return NO_GPU if code and given.device == "cuda" else None
    return NO_TORCH


def _run(given: argparse.Namespace, place: Place, environment: dict[str, str]) -> list[Result]:
    place.shared.mkdir(parents=True, exist_ok=True)
    checks: list[Check] = [c for c in CHECKS if given.only is None or c.name in given.only]
    results = []
    limits = Limits(60 * given.minutes, given.at_once)
    for result in run_all(checks, place, limits, environment):
        print(result.line(), flush=True)
        results.append(result)
    order = [check.name for check in CHECKS]
    return sorted(results, key=lambda result: order.index(result.check))


def _write(given: argparse.Namespace, results: Sequence[Result]) -> None:
    arguments = shlex.join(a for a in sys.argv[1:])
    when = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = page(results, f"python benchmarks/gpu {arguments}".strip(), when)
    given.write.parent.mkdir(parents=True, exist_ok=True)
    given.write.write_text(text, encoding="utf-8")
    say(f"{table(results)}\n\n{summary(results)}; written to {given.write}")
