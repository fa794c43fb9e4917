"""Automatic repairs of files and folders in the store that something else changed."""

import os
import sys
from datetime import datetime
from pathlib import Path


def say(text: str) -> None:
    """Report a repair on stderr. In a worker, that is the step's log."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def make_folder(path: Path) -> None:
    """Create a folder of the store. If its path is taken by something else, rename that."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        aside = set_aside(path)
        path.mkdir(exist_ok=True)
        say(f"{path} wasn't a folder, and was renamed to {aside.name}")


def make_way(path: Path) -> None:
    """Rename a folder, a pipe or a device that is in place of a file."""
    if path.exists() and not path.is_file():
        say(f"{path} wasn't a file, and was renamed to {set_aside(path).name}")


def set_aside(path: Path) -> Path:
    """Rename `path` to a name in the same folder with the current time."""
    aside = free_name(path)
    path.rename(aside)
    return aside


def free_name(path: Path) -> Path:
    """A free name in the same folder, e.g. `finery.db.damaged-20260131-154502`."""
    name = f"{path.name}.damaged-{datetime.now():%Y%m%d-%H%M%S}"
    number, aside = 1, path.with_name(name)
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{name}-{number}")
    return aside
