"""The order of rows in a list: as in the data set, or by score."""

from collections.abc import Iterable
from typing import Literal, get_args

from finery import UsageError, did_you_mean
from finery_review.serving.about import About, score_of
from finery_review.serving.rowfile import RowFile

Order = Literal["", "lowest", "highest"]
"""As in the data set; the lowest or the highest score first, rows without a score last."""


class Scores:
    """The scores that a judge gave the rows, read when they are first sorted by and then kept."""

    def __init__(self, rows: RowFile, about: About) -> None:
        self._rows = rows
        self._about = about
        self._scores: list[float | None] | None = None

    def may_exist(self) -> bool:
        """Whether rows have a column, or files beside them, that can hold a score."""
        return self._rows.scored or self._about.has_generated

    def sort(self, numbers: Iterable[int], order: str) -> list[int]:
        """Row numbers in an order. Rows with equal scores keep theirs."""
        if order not in get_args(Order):
            orders = [name for name in get_args(Order) if name]
            raise UsageError(f"there is no order '{order}'", fix=did_you_mean(order, orders))
        if not order:
            return list(numbers)
        sign = -1 if order == "highest" else 1
        scores = self._all()

        def place(number: int) -> tuple[bool, float]:
            score = scores[number]
            return score is None, sign * (score or 0.0)

        return sorted(numbers, key=place)

    def _all(self) -> list[float | None]:
        if self._scores is None:
            self._scores = [self._of(number) for number in range(len(self._rows))]
        return self._scores

    def _of(self, number: int) -> float | None:
        ids = (self._rows.ids[number], *self._rows.parents(number))
        return score_of([self._rows[number], *self._about.of(ids)["generated"]])
