"""Finds rows whose calls don't fit the tools that they offer.

A model that learns such calls makes them, too. They may be intended, e.g. before the correction of
a failed call, so such rows are kept and reported.
"""

from finery import NAMED, counted
from finery.rows import Row, Turns
from finery_eval.calls.broken import CallChecker
from finery_trl.rows.turns import Learn, learned_turns

REFUSED_LABELS = (False, "false")
"""Labels of rated answers that the model learns not to give."""


class Calls:
    """Checks the calls in the turns that are learned.

    learn: which those are; None for trainings that compare or rate answers.
    """

    def __init__(self, learn: Learn | None) -> None:
        self._rates = learn is None
        self._loss = learn.loss if learn is not None else "all_turns"
        self._checker = CallChecker()
        self._calling = self._broken = 0
        self._details: list[str] = []

    def add(self, row: Row) -> None:
        """Check one row."""
        if self._rates and row.get("label") in REFUSED_LABELS:
            return
        turns = Turns.of(row)
        messages, learned = turns.conversation, learned_turns(turns, self._loss)
        self._calling += any(messages[index].get("tool_calls") for index in learned)
        broken = self._checker.broken(row, messages, learned)
        if broken:
            self._broken += 1
            self._details += [f"{row['id']}: {broken[0]}"] if self._broken <= NAMED else []

    def notes(self) -> list[str]:
        """A line about the rows whose calls don't fit, if there are any."""
        if not self._broken:
            return []
        more = self._broken - len(self._details)
        details = [*self._details, *([f"and {more:,} more"] if more else [])]
        return [
            "calls of tools that aren't offered, or with arguments that their schema doesn't "
            f"allow, in {self._broken:,} of {counted(self._calling, 'row')} with calls: "
            f"{'; '.join(details)}"
        ]
