"""What closures of code are computed from, read once for all of them."""

import os
from collections.abc import Collection, Iterable
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from finery.builder.code.distributions import (
    Installed,
    files_of,
    read_installed,
    registry,
    unlisted,
)
from finery.builder.code.files import Files, files_in
from finery.builder.code.imports import Imports, Module, label_of
from finery.builder.code.piece import Piece
from finery.builder.code.table import Own
from finery.store.database import Store
from finery.util.installed import Distribution, distributions

REGISTRY = frozenset({
    "distributions", "entry_points", "importlib_metadata", "iter_entry_points",
    "packages_distributions", "pkg_resources",
})  # fmt: skip
METADATA = frozenset({"importlib", "metadata"})
"""Names of what reads which distributions are installed: one of `REGISTRY`, or both of these."""


class CodeIndex:
    """Where imports lead, what files hold, and what is installed.

    beside: folders from which workers may import. store: keeps facts about files.
    """

    def __init__(self, beside: Iterable[str], store: Store | None) -> None:
        self._beside = [*beside]
        self.imports = Imports(self._beside)
        self.files = Files(store)
        self.own = Own(self.files)
        self._contents: dict[str, Contents] = {}
        self._wider: dict[str, CodeIndex] = {}

    def beside(self, path: Path) -> "CodeIndex":
        """The same with the folder of a file, which a worker that loads it adds to its path."""
        folder = os.path.abspath(path.parent)
        if folder in map(os.path.abspath, self._beside):
            return self
        if folder not in self._wider:
            self._wider[folder] = wider = copy(self)
            wider._beside, wider._wider = [*self._beside, folder], {}
            wider.imports = Imports(wider._beside)
            wider.imports.absent, wider.imports.listed = self.imports.absent, self.imports.listed
        return self._wider[folder]

    @cached_property
    def installed(self) -> Installed:
        """What is installed, kept until something is installed, removed or upgraded."""
        return self.files.fact("installed", Installed, self._metadata, read_installed)

    @cached_property
    def _metadata(self) -> dict[str, str]:
        return {each.name: each.folder for each in distributions().values()}

    @cached_property
    def registry(self) -> str:
        """A digest of all distributions that are installed, with their entry points."""
        return self.files.fact("distributions", str, self._metadata, registry)

    def at_start(self) -> list[Module]:
        """What may act on any step: modules that Python imports at its start, and those that come
        before others of the same name.
        """
        files = {path: path for path in self.imports.start_files()}
        unowned = self.files.fact("start files", list[str], files, lambda: unlisted(files))
        return [*self.imports.at_start(), *(Module("", path) for path in unowned)]

    def contents(self, distribution: Distribution, tops: Collection[str]) -> "Contents":
        """The contents of the packages of a distribution."""
        if distribution.name not in self._contents:
            self._contents[distribution.name] = Contents(self, distribution, tops)
        return self._contents[distribution.name]


class Contents:
    """All files of a distribution with plugins. Facts about them are kept until one changes."""

    def __init__(self, index: CodeIndex, distribution: Distribution, tops: Collection[str]) -> None:
        self._files = index.files
        self.folders: set[str] = set()
        self.paths = dict(files_of(distribution))
        index.files.watch(distribution.folder)
        for module in (m for top in sorted(tops) for m in index.imports.find(top)):
            if not module.path:  # others may have a part of a namespace package
                continue
            self.paths[label_of(module)] = module.path
            for folder in module.folders:
                self.paths |= files_in(folder, module.name)
                self.folders.add(folder)
        self.folders |= {os.path.dirname(path) for path in self.paths.values()}
        for folder in self.folders:
            index.files.watch(folder)
        kept = index.files.fact(f"contents {distribution.name}", _Kept, self.paths, self._read)
        self.digests, self.imports, self.reads_registry = kept

    def _read(self) -> "_Kept":
        paths = sorted(self.paths.items())
        digests = {label: self._files.digest(path) for label, path in paths}
        imports: set[tuple[str, str]] = set()
        pieces: list[Piece] = []
        for label, path in self.paths.items():
            stem, suffix = os.path.splitext(label)
            if suffix != ".py":
                continue
            is_package = stem.endswith("/__init__")
            name = stem.removesuffix("/__init__").replace("/", ".")
            module = Module(name, path, (os.path.dirname(path),) if is_package else ())
            pieces += self._files.pieces(path)
            for piece in self._files.pieces(path):
                imports.update(map(module.absolute, piece.imports))
        return _Kept(digests, sorted(imports), reads_registry(pieces))


class _Kept(NamedTuple):
    digests: dict[str, str]
    imports: list[tuple[str, str]]
    reads_registry: bool


def reads_registry(pieces: Iterable[Piece]) -> bool:
    """Whether code may read which distributions are installed."""
    words = frozenset[str]().union(*(piece.words for piece in pieces))
    return not REGISTRY.isdisjoint(words) or words >= METADATA
