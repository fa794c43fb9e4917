"""The differences between the rows of two builds: added, removed and changed ones."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finery import Dataset
from finery.advanced import counted
from finery.rows import Row, row_id, snippet, split_turns
from finery.rows.parts import canonical_json, labelled_turns
from finery.views import Change, Field, Part, Record, Text

EXAMPLES = 100
"""Rows of each kind whose content is kept for display."""
SNIPPET = 68
"""Characters of a row in a line."""


class Known(NamedTuple):
    """What identifies a row: its id, its content, and its prompt in canonical form."""

    id: str
    content: str
    prompt: str
    parents: tuple[str, ...]


def difference_of(before: Dataset, after: Dataset) -> dict[str, Any]:
    """The ids of rows that were added, removed and changed, as JSON values, with some rows.

    Rows are matched by id. Those that remain are matched by `parents`, then by their prompt: a
    row with the same prompt and another answer was changed.
    """
    old, new = [_known(row) for row in before], [_known(row) for row in after]
    removed, added = _unmatched(old, new), _unmatched(new, old)
    changed = _changed_in_place(old, new)
    pairs, removed, added = _related(removed, added)
    changed += pairs
    contents = [known.content for known in old], [known.content for known in new]
    examples = {*removed[:EXAMPLES], *added[:EXAMPLES], *(k for p in changed[:EXAMPLES] for k in p)}
    wanted = {known.content for known in examples}
    return {
        "rows": [len(old), len(new)],
        "added": [known.id for known in added],
        "removed": [known.id for known in removed],
        "changed": [[a.id, b.id] for a, b in changed],
        "reordered": contents[0] != contents[1] and sorted(contents[0]) == sorted(contents[1]),
        "examples": {
            "added": _rows(after, added[:EXAMPLES], wanted),
            "removed": _rows(before, removed[:EXAMPLES], wanted),
            "changed": [
                list(pair)
                for pair in zip(
                    _rows(before, [a for a, _ in changed[:EXAMPLES]], wanted),
                    _rows(after, [b for _, b in changed[:EXAMPLES]], wanted),
                    strict=True,
                )
            ],
        },
    }


def _known(row: Row) -> Known:
    prompt, answer = split_turns(row)
    return Known(
        str(row.get("id", "")), row_id(row), canonical_json(prompt) if prompt and answer else "",
        tuple(str(parent) for parent in row.get("parents") or ()),
    )  # fmt: skip


def _unmatched(rows: Iterable[Known], others: Iterable[Known]) -> list[Known]:
    """The rows whose id the others don't have, or have less often."""
    left = Counter(known.id for known in others)
    found = []
    for known in rows:
        if left[known.id]:
            left[known.id] -= 1
        else:
            found.append(known)
    return found


def _changed_in_place(old: Sequence[Known], new: Sequence[Known]) -> list[tuple[Known, Known]]:
    """Rows with the same id and other content, where ids are the user's own."""
    before = {known.id: known for known in old}
    return [(before[k.id], k) for k in new if k.id in before and before[k.id].content != k.content]


def _related(
    removed: Sequence[Known], added: Sequence[Known]
) -> tuple[list[tuple[Known, Known]], list[Known], list[Known]]:
    """(pairs of an old and a new row that belong together, rest of removed, rest of added)."""
    names: dict[str, list[int]] = {}  # of an id, or of a prompt, to the rows that have it
    for number, known in enumerate(removed):
        for name in filter(None, (f"id {known.id}", known.prompt)):
            names.setdefault(name, []).append(number)
    pairs, rest, used = [], [], set[int]()
    for known in added:
        wanted = [*(f"id {parent}" for parent in known.parents), known.prompt]
        free = (n for name in wanted for n in names.get(name, []) if n not in used)
        partner = next(free, None)
        if partner is None:
            rest.append(known)
        else:
            pairs.append((removed[partner], known))
            used.add(partner)
    return pairs, [known for n, known in enumerate(removed) if n not in used], rest


def _rows(dataset: Dataset, chosen: Sequence[Known], wanted: set[str]) -> list[Row]:
    """The rows themselves, in the order of `chosen`."""
    if not chosen:
        return []
    by_content = {row_id(row): row for row in dataset if row_id(row) in wanted}
    return [by_content[known.content] for known in chosen]


def difference_parts(data: Mapping[str, Any], most: int) -> Iterator[Part]:
    """How many rows differ, and the first `most` of each kind. data: of `difference_of`."""
    before, after = data["rows"]
    counts = f"{before:,} → {after:,} rows" if before != after else counted(after, "row")
    yield Text(f"  {counts}: {', '.join(_words(data))}")
    examples = data["examples"]
    yield from (Change(_record(row), None) for row in examples["removed"][:most])
    yield from (Change(None, _record(row)) for row in examples["added"][:most])
    yield from (Change(_record(old), _record(new)) for old, new in examples["changed"][:most])


def _words(data: Mapping[str, Any]) -> Iterator[str]:
    counts = {kind: len(data[kind]) for kind in ("added", "removed", "changed")}
    if any(counts.values()):
        yield from (f"{count:,} {kind}" for kind, count in counts.items())
    elif data["reordered"]:
        yield "the same rows in another order"
    else:
        yield "the same rows"


def _record(row: Row) -> Record:
    """A row as its turns, each with another label, and other columns that may differ."""
    fields = [Field("id", str(row.get("id", "")), "soft")]
    for number, (role, text) in enumerate(labelled_turns(row)):
        is_numbered = role in ("user", "assistant") and number > 1
        fields.append(Field(f"{role} {number}" if is_numbered else role, text))
    fields += [Field(name, canonical_json(row[name])) for name in ("label", "tools") if name in row]
    return Record(fields, title=snippet(row, SNIPPET))
