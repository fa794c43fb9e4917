"""What a file of code holds, statement by statement."""

import msgspec


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A statement at the top of a file.

    name: of the function or class; empty for others. digests: definition in it → digest; a class
    and each of its methods. imports: `a.b` for `import a.b`, `a.b:c` for `from a.b import c`, with
    dots before relative ones. words: all names in it, also in strings. is_open: it may look for
    classes that it doesn't name. is_plain: it only defines a step type.
    """

    name: str
    digests: dict[str, str]
    imports: list[str]
    words: frozenset[str] = frozenset()
    is_open: bool = False
    is_plain: bool = False
