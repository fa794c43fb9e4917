"""finery's own code in keys: by definition, as `definitions.json` says.

The table is written by `make format` and belongs to exactly these files. If one of them differs,
all of finery's code counts as one.
"""

import os
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from finery.builder.code.files import Files, file_digest, files_in
from finery.builder.code.imports import SUFFIXES, Imports
from finery.util.installed import finery_packages

TABLE_FILE = Path(__file__).with_name("definitions.json")
WHOLE_LABEL = "finery"
"""Label of all of finery's code."""
ROWS_PACKAGE = "finery.rows"
"""The part of the core whose code counts; the key format stands for the rest."""


class Table(msgspec.Struct, frozen=True):
    """The definitions in keys.

    files: label → BLAKE3 of its bytes. subjects: what names code (`module:Class`,
    `module:function`, or `module:` and the name of a module) → label → digest of the definitions in
    that file. names: digest of code → definitions. definitions: label → definition → its digest.
    """

    files: dict[str, str]
    subjects: dict[str, dict[str, str]]
    names: msgspec.Raw
    definitions: msgspec.Raw


@cache
def load_table() -> Table:
    """The table of this version."""
    return msgspec.json.decode(TABLE_FILE.read_bytes(), type=Table)


@cache
def _field(name: str) -> dict[str, Any]:
    return msgspec.json.decode(getattr(load_table(), name), type=dict[str, Any])


def definitions_in(label: str, digest: str) -> dict[str, str]:
    """Definition → digest, in the code of a file with this digest; empty if that isn't known."""
    return {name: _field("definitions")[label][name] for name in _field("names").get(digest, ())}


class OwnFiles:
    """The own files as they are now."""

    def __init__(self, files: Files) -> None:
        self._imports = Imports((), set(), set())
        self._files = files

    @cached_property
    def paths(self) -> dict[str, str]:
        """Label → path of each file."""
        suffixes = {os.path.splitext(label)[1] for label in load_table().files} | {*SUFFIXES}
        return {
            label: path
            for top in sorted(finery_packages())
            for module in self._imports.find(top)
            for folder in module.folders
            for label, path in files_in(folder, top)
            if os.path.splitext(path)[1] in suffixes and path != str(TABLE_FILE)
        }

    @cached_property
    def whole(self) -> str:
        """A digest over all of them; empty if they are those of the table."""
        return self._files.fact(
            "own", str, {**self.paths, "": str(TABLE_FILE)}, self._compute_changes_digest
        )

    def _compute_changes_digest(self) -> str:
        digests = {label: file_digest(path) for label, path in self.paths.items()}
        if digests == load_table().files:
            return ""
        return blake3(msgspec.msgpack.encode(sorted(digests.items()))).hexdigest()

    @cached_property
    def any_digest(self) -> str:
        """A digest over all of them, in any case."""
        return self.whole or file_digest(str(TABLE_FILE))

    def code_of(self, subject: str) -> dict[str, str]:
        """Label → digest of what a subject of the table needs."""
        entry = None if self.whole else load_table().subjects.get(subject)
        return {WHOLE_LABEL: self.any_digest} if entry is None else entry

    def import_subjects(self, base: str, name: str) -> Iterator[str]:
        """The subjects for an import of an own module; none for what the key format stands for."""
        is_core = base.partition(".")[0] == "finery"
        if is_core and not name:  # `finery.rows` may follow
            yield f"module:{ROWS_PACKAGE}"
        path = f"{base}.{name}".replace(".", "/")
        is_file = {f"{path}.py", f"{path}/__init__.py"} & load_table().files.keys()
        module = f"{base}.{name}" if is_file else base  # own packages do nothing on import
        if not is_core or f"{module}.".startswith(f"{ROWS_PACKAGE}."):
            yield f"module:{module}"
