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
from importlib.machinery import PathFinder
from typing import NamedTuple

ENTRY_POINTS_VARIABLE = "FINERY_ENTRY_POINTS"
"""The environment variable with the entry points that a worker and its children may load."""
STANDARD_LIBRARY = os.path.dirname(os.__file__)
"""Its folder. Installed code may be below."""
_REQUIREMENT = re.compile(r"Requires-Dist: *([\w.-]+) *(?:\[([^]]*)\])?([^;]*)(?:;(.*))?$")
_EXTRA = re.compile(r"""extra *== *['"]([\w.-]+)['"]""")
_HARDWARE_LABEL = re.compile(r"\+(cpu|cu\d|rocm|xpu).*")


class Distribution(NamedTuple):
    """An installed distribution: its normalised name, version and metadata folder."""

    name: str
    version: str
    folder: str

    def read(self, name: str) -> str:
        """A file of the metadata; empty if there is none."""
        try:
            with open(f"{self.folder}/{name}", encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def files(self) -> list[str]:
        """Its files, below the folder that its metadata is in; none if no installer listed them."""
        return [line.partition(",")[0].strip('"') for line in self.read("RECORD").splitlines()]

    def modules(self) -> set[str]:
        """Its top-level modules by the list of its files, which is incomplete if it is editable."""
        modules = {*self.read("top_level.txt").split()}
        for top_name, slash, _ in {file.partition("/") for file in self.files()}:
            name, _, suffix = top_name.partition(".")
            is_module = (slash and not suffix) or suffix.endswith(("py", "so", "pyd", "pyc"))
            if is_module and name.isidentifier() and name != "__pycache__":
                modules.add(name)
        return modules

    def requirements(self) -> Iterator[tuple[str, list[str], str]]:
        """What it requires: (name, extras of that, the extra of its own that this belongs to)."""
        text = self.read("METADATA") or self.read("PKG-INFO")
        for line in text.partition("\n\n")[0].splitlines():
            if requirement := _REQUIREMENT.match(line):
                name, extras, _, marker = requirement.groups()
                extra_marker = _EXTRA.search(marker or "")
                needed = [normalise_name(e.strip()) for e in (extras or "").split(",") if e.strip()]
                own_extra = normalise_name(extra_marker[1]) if extra_marker else ""
                yield normalise_name(name), needed, own_extra

    def record_digest(self) -> str:
        """A digest of its files' digests, without those that differ by environment.

        Empty if it is from an index. One from a folder, an archive or a repository, whose version
        may stay, has `direct_url.json`, by PyPA's specification.
        """
        if not os.path.exists(f"{self.folder}/direct_url.json"):
            return ""
        from blake3 import blake3

        lines, metadata_folder = self.read("RECORD").splitlines(), os.path.basename(self.folder)
        files = sorted(line for line in lines if not line.startswith(("..", metadata_folder)))
        return blake3("\n".join(files).encode()).hexdigest()


class EntryPoint(NamedTuple):
    """One entry of a group: `name = value`, and the distribution it comes from."""

    name: str
    value: str
    distribution: Distribution

    @property
    def is_own(self) -> bool:
        """Whether it is finery's own."""
        return self.distribution.name == "finery"

    @property
    def module(self) -> str:
        """The module that it names."""
        return self.value.partition("[")[0].partition(":")[0].strip()

    @property
    def package(self) -> str:
        """The top-level module that it names."""
        return self.module.partition(".")[0]

    @property
    def apis(self) -> list[str]:
        """The versions of finery's API that it is for, `["1"]` of `shop [api-1]`; [] if unsaid."""
        return re.findall(r"\bapi-(\w+)", self.value.partition("[")[2])


@lru_cache(maxsize=1)
def search_path() -> list[str]:
    """`sys.path` before plugins and steps changed it."""
    return [entry or "." for entry in dict.fromkeys(sys.path)]


@lru_cache(maxsize=1)
def distributions() -> dict[str, Distribution]:
    """Normalised name → distribution; the first on `sys.path` counts, as for imports."""
    by_name: dict[str, Distribution] = {}
    for entry in search_path():
        for dist in _distributions_in(entry):
            by_name.setdefault(dist.name, dist)
    return by_name


def _distributions_in(folder: str) -> Iterator[Distribution]:
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
                    normalise_name(project), version.partition("-py")[0], f"{folder}/{name}"
                )


@lru_cache(maxsize=1)
def module_owners() -> dict[str, list[str]]:
    """Top-level module → the distributions with a part of it; takes a tenth of a second."""
    by_module: dict[str, list[str]] = {}
    for distribution in distributions().values():
        for module in distribution.modules():
            by_module.setdefault(module, []).append(distribution.name)
    return by_module


def installing_distributions(module: str) -> str:
    """The distributions that install a top-level module, with their versions and digests.

    Empty if it isn't installed; `found` if that was by hand.
    """
    folders = [folder for folder in search_path() if is_installed(f"{folder}/")]
    if PathFinder.find_spec(module, folders) is None:
        return ""
    owning = [distributions()[name] for name in sorted(module_owners().get(module, ()))]
    facts = [f"{d.name} {package_version(d.name)} {d.record_digest()}".strip() for d in owning]
    return ", ".join(facts) or "found"


def is_installed(path: str) -> bool:
    """Whether a file is one of an installed distribution, even of an environment in the project."""
    return "-packages/" in path and ("/site-packages/" in path or "/dist-packages/" in path)


def code_origin(path: str) -> str:
    """`installed` for a file of a distribution, `standard` for one of Python, else empty."""
    if is_installed(path):
        return "installed"
    return "standard" if path.startswith(f"{STANDARD_LIBRARY}/") else ""


def normalise_name(name: str) -> str:
    """A distribution's name as PyPI normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


_locked: Mapping[str, str] | None = None


@contextmanager
def use_versions(locked: Mapping[str, str] | None) -> Iterator[None]:
    """Let `version_of` take the versions of a step's environment. None: those of this one."""
    global _locked
    previous, _locked = _locked, locked
    try:
        yield
    finally:
        _locked = previous


def locked_versions() -> Mapping[str, str] | None:
    """Package → version in the environment of the step whose key is being computed.

    None if the step has no environment of its own: what is installed here counts.
    """
    return _locked


def version_of(distribution: str) -> str | None:
    """The version of a distribution in this environment, or in the one of `use_versions`.

    None if it isn't installed.
    """
    if _locked is not None:
        return _locked.get(normalise_name(distribution))
    dist = distributions().get(normalise_name(distribution))
    return dist.version if dist else None


def package_version(distribution: str) -> str:
    """The installed version of a distribution for a key, or `not installed`.

    Without the label of torch and its companions for the hardware that a build is for (`+cpu`,
    `+cu130`): a store is to serve machines with and without a GPU.
    """
    return _HARDWARE_LABEL.sub("", version_of(distribution) or "not installed")


@lru_cache(maxsize=4)
def entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group, sorted by name; of two with one name the first is kept."""
    entries: dict[str, EntryPoint] = {}
    for dist in distributions().values():
        for name, value in _entries(dist.read("entry_points.txt"), group):
            entries.setdefault(name, EntryPoint(name, value, dist))
    return [entries[name] for name in sorted(entries)]


@lru_cache(maxsize=1)
def finery_packages() -> frozenset[str]:
    """finery's own top-level packages."""
    return frozenset({"finery", *(e.package for e in entry_points("finery") if e.is_own)})


@lru_cache(maxsize=1)
def plugin_packages() -> dict[str, Distribution]:
    """Top-level module → the distribution with plugins of others that it belongs to."""
    foreign_entries = [entry for entry in entry_points("finery") if not entry.is_own]
    tops = ((e.distribution, {e.package, *e.distribution.modules()}) for e in foreign_entries)
    return {top: distribution for distribution, names in tops for top in names}


def is_finery_module(module: str) -> bool:
    """Whether a module belongs to finery's distribution."""
    return module.partition(".")[0] in finery_packages()


def _entries(text: str, group: str) -> Iterator[tuple[str, str]]:
    in_group = False
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            in_group = line == f"[{group}]"
        elif in_group and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()
