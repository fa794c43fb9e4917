"""What closures of code are computed from, read once for all of them.

What is installed is read of all distributions at once, which takes a tenth of a second.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec
from blake3 import blake3

from finery.builder.code.files import Files, files_in
from finery.builder.code.imports import Imports, Module, module_label, unique_label
from finery.builder.code.table import OwnFiles
from finery.store.database import Store
from finery.util.installed import (
    Distribution,
    distributions,
    entry_points,
    module_owners,
    plugin_packages,
)


class Installed(msgspec.Struct, frozen=True, array_like=True):
    """The contents of an environment.

    owners: top-level module → the distributions with a part of it. requires: distribution → what it
    requires: (name, extras of that, the extra of its own that this belongs to, or empty). records:
    distribution that isn't from an index → digest of its files, since its version may stay.
    """

    owners: dict[str, list[str]]
    requires: dict[str, list[tuple[str, list[str], str]]]
    records: dict[str, str]


class CodeIndex:
    """Where imports lead, what files hold, and what is installed.

    beside: folders from which workers may import. store: keeps facts about files. absent,
    watched: see `Imports`.
    """

    def __init__(self, beside: Iterable[str], store: Store | None) -> None:
        self._beside = [*map(os.path.abspath, beside)]
        self._imports: dict[tuple[str, ...], Imports] = {}
        self._contents: dict[str, Contents] = {}
        self.absent: set[str] = set()
        self.watched: set[str] = set()
        self.files = Files(store)
        self.own = OwnFiles(self.files)

    def imports(self, files: Iterable[Path] = ()) -> Imports:
        """Where imports lead, in a worker that also loads some files. It adds their folders."""
        beside = (*dict.fromkeys([*self._beside, *(os.path.abspath(f.parent) for f in files)]),)
        if beside not in self._imports:
            self._imports[beside] = Imports(beside, self.absent, self.watched)
        return self._imports[beside]

    @cached_property
    def installed(self) -> Installed:
        """What is installed, kept until something is installed, removed or upgraded."""
        return self.files.fact("installed", Installed, self._metadata, read_installed)

    @cached_property
    def _metadata(self) -> dict[str, str]:
        return {distribution.name: distribution.folder for distribution in distributions().values()}

    @cached_property
    def registry(self) -> str:
        """A digest of all distributions that are installed, with their entry points."""
        return self.files.fact("distributions", str, self._metadata, registry_digest)

    def startup_modules(self) -> list[Module]:
        """What may act on any step: modules that Python imports at its start, and those that come
        before others of the same name.
        """
        files = {path: path for path in self.imports().start_files()}
        unowned = self.files.fact("start files", list[str], files, lambda: unlisted_files(files))
        return [*self.imports().startup_modules(), *(Module("", path) for path in unowned)]

    def contents(self, distribution: Distribution) -> "Contents":
        """All files of a distribution with plugins."""
        if distribution.name in self._contents:
            return self._contents[distribution.name]
        self.files.watch(distribution.folder)
        parent, metadata = os.path.split(distribution.folder)
        listed = (f for f in distribution.files() if not f.startswith(("..", metadata)))
        paths = {f"{parent}/{f}": f for f in listed if not f.endswith((".pth", ".pyc"))}
        tops = [top for top, owner in plugin_packages().items() if owner == distribution]
        entered = {e.package for e in entry_points("finery") if e.distribution == distribution}
        for module in (module for top in tops for module in self.imports().find(top)):
            if module.path:
                paths[module.path] = module_label(module)
            elif module.name not in entered:  # such as a folder with tests: no package
                continue
            for folder in module.folders:  # of a namespace package, also parts of others
                paths |= {path: label for label, path in files_in(folder, module.name)}
        paths = {path: label for path, label in paths.items() if os.path.isfile(path)}
        parents = (Path(path).parents[: label.count("/")] for path, label in paths.items())
        folders = {str(folder) for inside in parents for folder in inside}
        for folder in folders:
            self.files.watch(folder)
        digests: dict[str, str] = {}
        for label, digest in sorted(
            (label, self.files.digest(path)) for path, label in paths.items()
        ):
            unique_label(digests, label, digest)
        self._contents[distribution.name] = contents = Contents(paths, digests, folders)
        return contents


class Contents(NamedTuple):
    """Path → label of each file, label → digest, and the folders that they are in."""

    paths: dict[str, str]
    digests: dict[str, str]
    folders: set[str]

    def modules(self) -> Iterator[Module]:
        """The modules among them."""
        for path, label in sorted(self.paths.items(), key=lambda item: item[1]):
            stem, suffix = os.path.splitext(label)
            if suffix == ".py":
                name = stem.removesuffix("/__init__").replace("/", ".")
                is_package = stem.endswith("/__init__")
                yield Module(name, path, (os.path.dirname(path),) if is_package else ())


def read_installed() -> Installed:
    """What is installed in this environment."""
    everything = distributions().values()
    records = {each.name: digest for each in everything if (digest := each.record_digest())}
    requires = {each.name: [*each.requirements()] for each in everything}
    return Installed(module_owners(), requires, records)


def registry_digest() -> str:
    """A digest of the names, versions and entry points of all distributions."""
    everything = sorted(distributions().values(), key=lambda each: each.name)
    facts = [(each.name, each.version, each.read("entry_points.txt")) for each in everything]
    return blake3(msgspec.msgpack.encode(facts)).hexdigest()


def unlisted_files(files: Collection[str]) -> list[str]:
    """The files among these that belong to no distribution."""
    unowned = {*files}
    for distribution in distributions().values():
        # To search a text takes less than to split it.
        parent, record = os.path.dirname(distribution.folder), f"\n{distribution.read('RECORD')}"
        unowned = {f for f in unowned if f"\n{f.removeprefix(f'{parent}/')}," not in record}
    return sorted(unowned)
