"""A row after a decision."""

from finery import DataError
from finery.rows import Row
from finery.rows.chat.structure import problems_of
from finery.rows.parts import changed
from finery_review.decisions import Decision


def applied(row: Row, decision: Decision) -> Row | None:
    """The row after a decision, None where it is rejected.

    A changed row has a new id and the old one as its parent. Raises `DataError` where the decision
    doesn't fit the row, or leaves turns that can't be used.
    """
    if decision.do == "reject":
        return None
    if decision.do == "swap":
        return changed(row, _swapped(row))
    if decision.do == "edit":
        return _edited(row, decision)
    return row


def is_preference(row: Row) -> bool:
    """Whether the row has two answers to choose from."""
    return "chosen" in row and "rejected" in row


def _swapped(row: Row) -> Row:
    if not is_preference(row):
        raise DataError(
            "the row has no `chosen` and `rejected` to swap", fix="accept it, or reject it"
        )
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def _edited(row: Row, decision: Decision) -> Row:
    values = {**row, **(decision.set or {})}
    edited = changed(row, {name: value for name, value in values.items() if value is not None})
    before = problems_of(row)
    if isinstance(edited.get("messages"), str):
        raise DataError("'messages' is text, not a list of turns", fix="edit the row again")
    broken = [what for check, what in problems_of(edited) if (check, what) not in before]
    if broken:
        raise DataError("; ".join(broken), fix="edit the row again")
    return edited
