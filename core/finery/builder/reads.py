"""What steps read besides their inputs, and the results that are made from what is there now.

A result whose step read something has a key of its own, which covers the values of what was read
(`finery.execute.observed`). The store has the names of what the results of a step read. The current
values of these names give the key of the result that a step would make now.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from finery.artifact.manifest import CHANGING, READ, Manifest, Parts, Result, result_key
from finery.execute.entries import MAX_ENTRIES, Places
from finery.execute.executor import Done
from finery.store.database import MAX_READS_LISTS, Store

if TYPE_CHECKING:
    from finery.store.remote import Remote

UNSEEN_READS = "runs where finery can't see what it reads"


def current_values(store: Store, places: Places, names: Sequence[str]) -> Parts:
    """The parts with these names, with their current values."""
    entries = [name.removeprefix(READ) for name in names]
    values = [
        places.value(entry, store.digest_file) if places.is_checked(entry) else "not checked"
        for entry in entries
    ]
    return [*zip(names, values, strict=True)]


def find_result(
    store: Store, key: str, parts: Parts, inputs: Sequence[Manifest], places: Callable[[], Places]
) -> Result | None:
    """The result of a step, by its key and what it would read. places: asked if it read something.

    One that read nothing only counts if it is the newest.
    """
    for number, names in enumerate(store.reads_of(key) or [[]]):
        if names or number == 0:
            reads = current_values(store, places(), names) if names else []
            if result := store.lookup(result_key(key, reads), inputs, [*parts, *reads]):
                return result
    return None


def make_result(
    key: str, parts: Parts, outputs: dict[str, Manifest], event: Done, run: str
) -> Result:
    """The result of a step that has ended, under a key that covers what it read."""
    reads: Parts = [(f"{READ}{name}", value) for name, value in event.get("reads", ())]
    if changing := UNSEEN_READS if "reads" not in event else event.get("changing"):
        reads.append((f"{CHANGING}{changing}", run))
    return Result(result_key(key, reads), outputs, event["seconds"], [*parts, *reads])


def why_not_reusable(parts: Parts) -> str:
    """Why a result can't be reused; empty if it can."""
    name = parts[-1][0] if parts else ""
    return name.removeprefix(CHANGING) if name.startswith(CHANGING) else ""


# -- shared stores --------------------------------------------------------------------------------


def fetch_read_lists(
    remote: "Remote", keys: Sequence[str], places: Mapping[str, Places]
) -> dict[str, list[list[str]]]:
    """Key of a step → names of what its results read, as a shared store has them.

    Lists with names that mean nothing here are left out. places: by key of the step.
    """
    contents = remote.values("reads", [bytes.fromhex(key) for key in keys])
    lists = {key.hex(): _decode_lists(content) for key, content in contents.items()}
    return {
        key: [
            names for names in key_lists
            if all(places[key].is_checked(name.removeprefix(READ)) for name in names)
        ]
        for key, key_lists in lists.items()
    }  # fmt: skip


def push_list(remote: "Remote", key: str, reads: Parts) -> None:
    """Add the names of what a result read to a shared store. Raises `RemoteError`."""
    name, names = bytes.fromhex(key), [name for name, _ in reads]
    lists = _decode_lists(remote.values("reads", [name]).get(name, b"[]"))
    lists = [names, *(other_names for other_names in lists if other_names != names)][
        :MAX_READS_LISTS
    ]
    remote.put_value("reads", name, msgspec.json.encode(lists))


def _decode_lists(content: bytes) -> list[list[str]]:
    """The lists in an object of a shared store."""
    try:
        lists = msgspec.json.decode(content, type=list[list[str]])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return []
    return [names for names in lists[:MAX_READS_LISTS] if is_list(names)]


def is_list(names: Sequence[str]) -> bool:
    """Whether names from elsewhere are those of a result: some, but not too many, in order."""
    return (
        0 < len(names) <= 2 * MAX_ENTRIES
        and [*names] == sorted({*names})
        and all(name.startswith(READ) and "\0" not in name for name in names)
    )
