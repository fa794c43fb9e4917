"""Groups of related rows, and of related lines in `predictions.jsonl`, for all steps and views.

The answers in a group aren't independent: a model that goes wrong in the first turn of a
conversation goes wrong in the next. So resampling draws groups, and the width of an interval
depends on the number of groups instead of the number of answers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finery_eval.measure import Group

GROUP = "group"
"""The fact in `predictions.jsonl` that names the group of a row."""


def together(rows: Sequence[Mapping[str, Any]]) -> list[Group] | None:
    """The groups of related rows, see `groups_of`; None if all rows are independent."""
    groups = groups_of(rows)
    return groups if len(groups) < len(rows) else None


def facts_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Each row's group in `predictions.jsonl`: its name, for rows that have related ones.

    The name is the first of the ids of its rows and of their parents.
    """
    facts: list[dict[str, str]] = [{} for _ in rows]
    for group in together(rows) or ():
        name = min(one for i in group for one in (rows[i]["id"], *(rows[i].get("parents") or ())))
        for i in group:
            facts[i] = {GROUP: name}
    return facts


def recorded(*sides: Sequence[Mapping[str, Any]]) -> list[Group] | None:
    """The answers that belong together, as their lines of `predictions.jsonl` say, or None.

    sides: the lines of each model or build, by answer. Answers to one row belong together, e.g. to
    the turns of a conversation, and rows with the same `group` on any side.
    """
    rows = [
        {"id": str(lines[0].get("id", f"line {number}")),
         "parents": [line[GROUP] for line in lines if GROUP in line]}
        for number, lines in enumerate(zip(*sides, strict=True))
    ]  # fmt: skip
    return together(rows)


def among(groups: Sequence[Group] | None, numbers: Sequence[int]) -> list[Group] | None:
    """The groups of some rows, by their index among these; None if there are no groups."""
    if groups is None:
        return None
    place = {number: i for i, number in enumerate(numbers)}
    parts = [[place[i] for i in group if i in place] for group in groups]
    return [part for part in parts if part]


def effective(groups: Sequence[Group]) -> float:
    """The minimum number of independent rows that grouped ones are worth.

    It assumes that all rows of a group get the same answer.

    Source: L. Kish, "Survey Sampling" (1965), ch. 8: the design effect of clusters, here with an
    intraclass correlation of 1.
    """
    sizes = [len(group) for group in groups]
    return sum(sizes) ** 2 / sum(size * size for size in sizes)


def groups_of(rows: Sequence[Mapping[str, Any]]) -> list[Group]:
    """The rows that belong together: equal ids, a common parent, or a row and its parent.

    Also through others: of a row's paraphrase, a paraphrase belongs to all three.
    """
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for row in rows:
        for parent in row.get("parents") or ():
            leader[find(parent)] = find(row["id"])
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(find(row["id"]), []).append(i)
    return list(groups.values())
