"""What closures of code are computed from, read once for all of them."""

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from finery.builder.code.distributions import (
    Installed,
    distribution_files,
    read_installed,
    registry_digest,
    unlisted_files,
)
from finery.builder.code.files import Files, files_in
from finery.builder.code.imports import Imports, Module, module_label
from finery.builder.code.piece import Piece
from finery.builder.code.table import OwnFiles
from finery.store.database import Store
from finery.util.installed import Distribution, distributions, plugin_packages

REGISTRY_NAMES = frozenset({
    "distributions", "entry_points", "importlib_metadata", "iter_entry_points",
    "packages_distributions", "pkg_resources",
})  # fmt: skip
METADATA_MODULES = frozenset({"importlib", "metadata"})
"""Names of what reads which distributions are installed: `REGISTRY_NAMES`, or both of these."""


class CodeIndex:
    """Where imports lead, what files hold, and what is installed.

    beside: folders from which workers may import. store: keeps facts about files. absent, listed:
    see `Imports`.
    """

    def __init__(self, beside: Iterable[str], store: Store | None) -> None:
        self._beside = [*map(os.path.abspath, beside)]
        self._imports: dict[tuple[str, ...], Imports] = {}
        self._contents: dict[str, Contents] = {}
        self.absent: set[str] = set()
        self.listed: set[str] = set()
        self.files = Files(store)
        self.own = OwnFiles(self.files)

    def imports(self, files: Iterable[Path] = ()) -> Imports:
        """Where imports lead, in a worker that also loads some files. It adds their folders."""
        beside = (*dict.fromkeys([*self._beside, *(os.path.abspath(f.parent) for f in files)]),)
        if beside not in self._imports:
            self._imports[beside] = Imports(beside, self.absent, self.listed)
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
        if distribution.name not in self._contents:
            self._contents[distribution.name] = self._read(distribution)
        return self._contents[distribution.name]

    def _read(self, distribution: Distribution) -> "Contents":
        self.files.watch(distribution.folder)
        paths = dict(distribution_files(distribution))
        tops = [
            top
            for top, distribution_of_top in plugin_packages().items()
            if distribution_of_top == distribution
        ]
        modules = [m for top in tops for m in self.imports().find(top)]
        folders: set[str] = set()
        for module in modules:
            if module.path:  # others may have a part of a namespace package
                paths[module_label(module)] = module.path
                folders.update(module.folders)
                for folder in module.folders:
                    paths |= files_in(folder, module.name)
        folders |= {os.path.dirname(path) for path in paths.values()}
        for path in folders:
            self.files.watch(path)
        digests = {label: self.files.digest(path) for label, path in sorted(paths.items())}
        return Contents(paths, digests, folders)


class Contents(NamedTuple):
    """Label → path and digest of each file, and the folders that they are in."""

    paths: dict[str, str]
    digests: dict[str, str]
    folders: set[str]

    def modules(self) -> Iterator[Module]:
        """The modules among them."""
        for label, path in sorted(self.paths.items()):
            stem, suffix = os.path.splitext(label)
            if suffix == ".py":
                name = stem.removesuffix("/__init__").replace("/", ".")
                is_package = stem.endswith("/__init__")
                yield Module(name, path, (os.path.dirname(path),) if is_package else ())


def reads_registry(pieces: Iterable[Piece]) -> bool:
    """Whether code may read which distributions are installed."""
    words = frozenset[str]().union(*(piece.words for piece in pieces))
    return not REGISTRY_NAMES.isdisjoint(words) or words >= METADATA_MODULES
