"""What `parse` finds in a file: definitions, the names that each refers to, and imports.

Separate from `parse`, since `ast` is needed only for changed files.
"""

import msgspec

ON_IMPORT = ""
"""Name of the unit of statements that aren't definitions. They execute with every import."""
STAR = "*"
"""Name of the unit of all `from module import *`."""
CALLED = "."
"""Start of a read that may be of a step's method in `OUTSIDE_KEYS`: `.check`, `.module.check`."""
EXECUTES = "-"
"""Alias of an import that binds no name: of `import a.b`, the part that executes `a.b`."""
WHOLE = "+"
"""Alias of a module that code may read as a whole: `import_module("a.b")`."""
EVERYWHERE = "**"
"""Read of the names of a module that may be any: `frame.f_globals`."""
PASSED = "="
"""Start of a read of a value that isn't called, e.g. of a function that a library is given."""
TEXT = "(text)"
"""Read of docstrings, annotations or source text, perhaps of another file."""


class Piece(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A statement of a module, or of the body of a class.

    name: `bounds`, `Split.run`; `Split.(forecast)` for a keyword of the class statement.
    reads: names that aren't local to the piece, with their attributes: `strata.bounds`. imports:
    (alias, target) of each import in it. A target is `module` or `module:name`, with leading dots
    if it is relative. outside: whether it is marked `outside_key`. text: digest of docstrings and
    annotations, which count only if the definition is given to code that may read them; empty if
    there are none.
    """

    name: str
    digest: str
    reads: list[str] = []
    imports: list[tuple[str, str]] = []
    outside: bool = False
    text: str = ""


class Unit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A definition of a module: a function, a class, a variable, or an imported name.

    pieces: the positions in `Parsed.pieces` of all statements that bind the name. kind: `class`,
    `import`, or empty for others and for names that are bound in several ways. acts: whether it
    can have an effect when the module is imported, like a call. bases: of a class. registers:
    whether the class can have an effect when another class is derived from it.
    """

    pieces: list[int]
    kind: str = ""
    acts: bool = False
    bases: list[str] = []
    registers: bool = False


class Parsed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file.

    units: by name. pieces: in the order of the file. imports: targets that are imported whenever
    the file is. on_import: names that statements of the unit `ON_IMPORT` bind. typing: name →
    target of imports under `if TYPE_CHECKING:`, which a lazy package provides by `__getattr__`.
    source: digest of the file's text.
    """

    units: dict[str, Unit]
    pieces: list[Piece]
    imports: list[str] = []
    on_import: list[str] = []
    typing: dict[str, str] = {}
    source: str = ""
