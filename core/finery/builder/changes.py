"""Describes what changed between two keys, as text and as data."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from finery.artifact.manifest import Parts
from finery.builder.code.reach import Reach
from finery.builder.keys import FORMAT_PART, MISSING, differences
from finery.recipe.excerpt import without_secrets

NOT_BUILT = "(not built yet)"
"""Stands for the digest of an input that isn't built yet."""
NAMED = 3
"""Maximum number of changed functions that a line names."""
TOP = "top level"
"""Name in explanations of a file's statements that execute on import."""
FindNames = Callable[[str], Mapping[str, str] | None]
"""Digest of code → digest of each function, method and variable; None if unknown."""


class Change(NamedTuple):
    """A part of a key that was changed, added or removed (old or new is then MISSING).

    names: of the functions, methods and variables of a file whose code changed. paths: how the
    step reaches them, e.g. `bounds` → `Split.run`, `strata.cut`, `strata.bounds`.
    """

    part: str
    old: Any
    new: Any
    names: "Names"
    paths: Mapping[str, list[str]] = {}

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

    def with_paths(self, paths: Mapping[str, list[str]]) -> Iterator[str]:
        """Lines: `Split.run → strata.cut → strata.bounds changed`, `old_bounds gone`."""
        for kind, names in self._asdict().items():
            shown = [" → ".join(paths.get(name, [name])) for name in names[:NAMED]]
            yield from (f"{text} {kind}" for text in shown)
            if len(names) > NAMED:
                yield f"and {len(names) - NAMED} more {kind}"


def changes_between(before: Parts, after: Parts, names_of: FindNames) -> list[Change]:
    """Every part that differs; no code if the format of keys differs, since all of it does then."""
    differing = differences(before, after)
    if any(part == FORMAT_PART for part, _, _ in differing):
        differing = [each for each in differing if not each[0].startswith("code ")]
    return [Change(part, a, b, _names(part, a, b, names_of)) for part, a, b in differing]


def with_paths(changes: list[Change], reaches: Collection[Reach]) -> list[Change]:
    """The changes, each changed or new definition with how the step's code reaches it."""
    return [change._replace(paths=_paths(change, reaches)) for change in changes]


def _paths(change: Change, reaches: Collection[Reach]) -> dict[str, list[str]]:
    file = change.part.removeprefix("code ").partition(" (")[0]
    found = {
        name: reach.path_to(file, "" if name == TOP else name)
        for name in (*change.names.changed, *change.names.new)
        for reach in reaches
    }
    return {name: path for name, path in found.items() if path}


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
