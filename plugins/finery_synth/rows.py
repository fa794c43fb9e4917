"""Derived rows: with their seeds' ids as parents, or with another answer."""

from collections.abc import Sequence

from finery.rows import TURN_COLUMNS, Message, Row, row_id, split_turns
from finery.rows.parts import id_of


def with_parents(row: Row, seeds: Sequence[Row]) -> Row:
    """The row with its id, and with the ids of its seeds as parents."""
    content = {k: v for k, v in row.items() if k not in ("id", "parents")}
    own, parents = row_id(content), [id_of(seed) for seed in seeds]
    others = [parent for parent in parents if parent != own]
    return {"id": own, **content, **({"parents": others} if others else {})}


def with_answer(row: Row, turn: Message) -> Row:
    """The row with this turn as its answer."""
    prompt = split_turns(row)[0]
    rest = {k: v for k, v in row.items() if k not in TURN_COLUMNS}
    return {"messages": [*prompt, turn], **rest}
