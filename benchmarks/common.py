"""What the benchmarks share: their command lines, progress, and the machine they ran on."""

import argparse
import datetime
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """A parser that shows a module's text as its help."""
    first, rest = (about or "").split("\n\n", 1)
    return argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def names(allowed: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Reads a list of known names, separated by commas."""

    def read(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(t.strip() for t in text.split(",") if t.strip()))
        unknown = [name for name in found if name not in allowed]
        if unknown or not found:
            raise argparse.ArgumentTypeError(f"choose from {', '.join(allowed)}")
        return found

    return read


def between(low: int, high: int) -> Callable[[str], int]:
    """Reads a whole number within bounds."""

    def read(text: str) -> int:
        if not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"between {low} and {high}")
        return int(text)

    return read


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text.rstrip(), file=sys.stderr, flush=True)


def last_line(log: Path, limit: int = 160) -> str:
    """The last line that a command printed, shortened."""
    lines = [s for s in log.read_text(errors="replace").splitlines() if s.strip()]
    return lines[-1].strip()[:limit] if lines else "no output"


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, str]:
    """Where and when something is measured."""
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": str(cores()),
        "load": " ".join(f"{x:.1f}" for x in os.getloadavg()),
    }
