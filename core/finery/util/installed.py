"""Which distributions are installed: their versions and entry points.

`importlib.metadata` returns the same, but importing it takes as long as a whole build with nothing
to do, since it imports `email`, `zipfile` and `csv`. The 16 entry points and 6 versions, beside 124
distributions, took 40 to 62 ms with it and 10 to 23 ms here; with cold disk caches 125 to 144 ms
and 36 to 64 ms (Python 3.11, 2 cores). What is read here is the layout that installers agree on
(PyPA's core metadata and entry-point specifications): folders `NAME-VERSION.dist-info` on
`sys.path`.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

ONLY = "FINERY_ENTRY_POINTS"
"""The environment variable with the entry points that a worker and its children may load."""
_BUILD = re.compile(r"\+(cpu|cu\d|rocm|xpu).*")


class Distribution(NamedTuple):
    """An installed distribution: its normalised name, version and metadata folder."""

    name: str
    version: str
    folder: str


class EntryPoint(NamedTuple):
    """One entry of a group: `name = value`, and the distribution it comes from."""

    name: str
    value: str
    distribution: Distribution

    @property
    def is_own(self) -> bool:
        """Whether it is finery's own."""
        return self.distribution.name == "finery"


@lru_cache(maxsize=1)
def distributions() -> dict[str, Distribution]:
    """Normalised name → distribution; the first on `sys.path` counts, as for imports."""
    first: dict[str, Distribution] = {}
    for entry in dict.fromkeys(sys.path):
        for dist in _in_folder(entry or "."):
            first.setdefault(dist.name, dist)
    return first


def _in_folder(folder: str) -> Iterator[Distribution]:
    try:
        names = os.listdir(folder)
    except OSError:  # a zip or a missing folder, which sys.path may contain
        return
    for name in names:
        if name.endswith((".dist-info", ".egg-info")):
            stem = name.rpartition(".")[0]
            project, dash, version = stem.partition("-")
            if dash:
                yield Distribution(
                    normalised(project), version.partition("-py")[0], f"{folder}/{name}"
                )


def normalised(name: str) -> str:
    """A distribution's name as PyPI normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


_locked: Mapping[str, str] | None = None


@contextmanager
def with_versions(locked: Mapping[str, str] | None) -> Iterator[None]:
    """Let `version_of` take the versions of a step's environment. None: those of this one."""
    global _locked
    before, _locked = _locked, locked
    try:
        yield
    finally:
        _locked = before


def locked_versions() -> Mapping[str, str] | None:
    """Package → version in the environment of the step whose key is being computed.

    None if the step has no environment of its own: what is installed here counts.
    """
    return _locked


def version_of(distribution: str) -> str | None:
    """The version of a distribution in this environment, or in the one of `with_versions`.

    None if it isn't installed.
    """
    if _locked is not None:
        return _locked.get(normalised(distribution))
    dist = distributions().get(normalised(distribution))
    return dist.version if dist else None


def package_version(distribution: str) -> str:
    """The installed version of a distribution for a key, or `not installed`.

    Without the label of torch and its companions for the hardware that a build is for (`+cpu`,
    `+cu130`): a store is to serve machines with and without a GPU.
    """
    return _BUILD.sub("", version_of(distribution) or "not installed")


@lru_cache(maxsize=4)
def entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group, sorted by name; of two with one name the first is kept."""
    entries: dict[str, EntryPoint] = {}
    for dist in distributions().values():
        try:
            with open(f"{dist.folder}/entry_points.txt", encoding="utf-8") as file:
                text = file.read()
        except OSError:  # most distributions have none
            continue
        for name, value in _entries(text, group):
            entries.setdefault(name, EntryPoint(name, value, dist))
    return [entries[name] for name in sorted(entries)]


def _entries(text: str, group: str) -> Iterator[tuple[str, str]]:
    inside = False
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            inside = line == f"[{group}]"
        elif inside and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()
