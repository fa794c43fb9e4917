"""Results that serve a step although a part of its key changed, since `recipe.lock` accepts that.

A result is looked up under the step's own key first, so what is accepted never hides one. Then the
accepted changes are taken back: changed parts get their old values, and the key of these parts is
looked up. So a result serves a step only if all other parts are the same.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from blake3 import blake3
from msgspec import UNSET

from finery.artifact.manifest import Parts, encode, key_of
from finery.builder.keys import MISSING
from finery.recipe.accepted import Accepted

STEP_TYPE_PART = "step type"
"""The part of a key with the type that an accepted change is for."""
MAX_STATES = 64
"""How many earlier keys of a step are looked up."""


class Acceptances:
    """The accepted changes of a recipe. Those that were accepted together are taken back together.

    So nothing serves a step after a half of what somebody looked at.
    """

    def __init__(self, accepted: Iterable[Accepted]) -> None:
        groups: dict[tuple[str, str], list[Accepted]] = defaultdict(list)
        for change in accepted:
            groups[change.use, change.name].append(change)
        self._groups: dict[str, list[list[Accepted]]] = defaultdict(list)
        for (use, _), group in groups.items():
            self._groups[use].append(group)

    def earlier(self, parts: Parts) -> Iterator[Parts]:
        """The parts of earlier keys whose results serve a step with these parts, nearest first."""
        yield from (earlier_parts for _, earlier_parts in self._undone_changes(parts))

    def applied_changes(self, parts: Parts) -> list[Accepted]:
        """The accepted changes that led to values which these parts have."""
        return [change for group, _ in self._undone_changes(parts) for change in group]

    def _undone_changes(self, parts: Parts) -> Iterator[tuple[Sequence[Accepted], Parts]]:
        """(changes, the parts before them) for all chains of changes that end at these parts."""
        groups = self._groups.get(dict(parts)[STEP_TYPE_PART], ())
        states, visited = [parts], {key_of(parts)}
        for state in states:  # which grows
            values_now = dict(state)
            for group in (
                candidate for candidate in groups if _matches_new_values(candidate, values_now)
            ):
                values = values_now | {
                    c.part: c.old for c in group if c.part in values_now or c.new is UNSET
                }
                earlier_parts = [
                    (part, value) for part, value in values.items() if value is not UNSET
                ]
                yield group, earlier_parts
                if (key := key_of(earlier_parts)) not in visited and len(states) < MAX_STATES:
                    visited.add(key)
                    states.append(earlier_parts)


def _matches_new_values(group: Sequence[Accepted], values_now: dict[str, Any]) -> bool:
    """Whether a step has the new values of these changes, without parts that it doesn't have."""
    relevant = [change for change in group if change.part in values_now or change.new is UNSET]
    return bool(relevant) and all(
        _value_bytes(values_now.get(c.part, UNSET)) == _value_bytes(c.new) for c in relevant
    )


def _value_bytes(value: Any) -> bytes:
    """A value's bytes; empty for an absent part."""
    return b"" if value is UNSET else encode(value)


def group_changes(use: str, differences: Iterable[tuple[str, Any, Any]]) -> list[Accepted]:
    """Changes of parts (part, old, new) of one step's key, as a group."""
    changes = [
        Accepted(part=part, old=UNSET if old is MISSING else old,
                 new=UNSET if new is MISSING else new, use=use)
        for part, old, new in differences
    ]  # fmt: skip
    if len(changes) < 2:
        return changes
    name = blake3("".join(sorted(c.line() for c in changes)).encode()).hexdigest()[:12]
    return [msgspec.structs.replace(change, group=name) for change in changes]
