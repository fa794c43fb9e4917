"""What changed between two keys, in words and as data."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from finery.artifact.manifest import Parts
from finery.build.keys import MISSING, differences
from finery.recipe.excerpt import without_secrets

NOT_BUILT = "(not built yet)"
"""Stands for the digest of an input that isn't built yet."""
NAMED = 3
"""Most changed functions that a line names."""
TOP = "top level"
"""Name in explanations of a file's statements outside functions and classes."""
FindNames = Callable[[str], Mapping[str, str] | None]
"""Digest of code → digest of each function, method and variable; None if unknown."""


class Change(NamedTuple):
    """A part of a key that was changed, added or removed (old or new is then MISSING).

    names: of the functions, methods and variables of a file whose code changed.
    """

    part: str
    old: Any
    new: Any
    names: "Names"

    def __str__(self) -> str:
        """As text: `setting epochs: 3 → 2`, `code steps.py: Copy.run changed`."""
        if not self.part.startswith(("code ", "file ", "input ", "provenance ")):
            return f"{self.part}: {short(self.old)} → {short(self.new)}"
        if self.new == NOT_BUILT:
            return f"{self.part} not built yet"
        kind = "gone" if self.new is MISSING else "new" if self.old is MISSING else "changed"
        return f"{self.part}: {self.names}" if any(self.names) else f"{self.part} {kind}"


class Names(NamedTuple):
    """Functions, methods and variables of a file: which are changed, new or gone."""

    changed: list[str] = []
    new: list[str] = []
    gone: list[str] = []

    def __str__(self) -> str:
        return ", ".join(
            f"{_some(names)} {kind}" for kind, names in self._asdict().items() if names
        )


def changes_between(before: Parts, after: Parts, names_of: FindNames) -> list[Change]:
    """Every part that differs."""
    return [
        Change(part, old, new, _names(part, old, new, names_of))
        for part, old, new in differences(before, after)
    ]


def short(value: Any, limit: int = 60) -> str:
    """A part's value for display, with digests and long text shortened."""
    if value is MISSING:
        return "—"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = without_secrets(" ".join(text.split()))
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _names(part: str, old: Any, new: Any, names_of: FindNames) -> Names:
    if not part.startswith("code ") or MISSING in (old, new):
        return Names()
    before, after = names_of(old), names_of(new)
    if before is None or after is None:
        return Names()
    changed = [n for n in after if n in before and before[n] != after[n]]
    new_ones = [n for n in after if n not in before]
    gone = [n for n in before if n not in after]
    return Names(*(list(_outermost(names)) for names in (changed, new_ones, gone)))


def _outermost(names: list[str]) -> Iterator[str]:
    """The names, without methods of classes that are among them."""
    for name in names:
        if not any(name.startswith(f"{other}.") for other in names):
            yield name or TOP


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
