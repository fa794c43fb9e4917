"""What the store does by itself about things in its folder that aren't as finery left them."""

import os
import sys
from datetime import datetime
from pathlib import Path


def say(text: str) -> None:
    """Report a repair on stderr; in a worker, that is the step's log."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def make_folder(path: Path) -> None:
    """Make a folder of the store. Something else at its path is renamed, never removed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        aside = set_aside(path)
        path.mkdir(exist_ok=True)
        say(f"{path} was not a folder: renamed to {aside.name}, and a new folder made")


def make_way(path: Path) -> None:
    """Rename a folder at a path that finery needs for a file."""
    if path.is_dir() and not path.is_symlink():
        say(f"{path} was a folder instead of a file: renamed to {set_aside(path).name}")


def set_aside(path: Path) -> Path:
    """Rename `path` to a name beside it that says when it was set aside."""
    aside = free_name(path)
    path.rename(aside)
    return aside


def free_name(path: Path) -> Path:
    """A name beside `path` that isn't taken, e.g. `finery.db.damaged-20260131-154502`."""
    name = f"{path.name}.damaged-{datetime.now():%Y%m%d-%H%M%S}"
    number, aside = 1, path.with_name(name)
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{name}-{number}")
    return aside
