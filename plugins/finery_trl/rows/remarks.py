"""Remarks on rows that can be trained on: facts for reports, and notes.

It can't change a model, so the training refers to this module only by name.
"""

from typing import TYPE_CHECKING

from finery.rows import Row
from finery_trl.rows.calls import Calls
from finery_trl.rows.control import Control
from finery_trl.rows.coverage import Coverage
from finery_trl.rows.example import Proven
from finery_trl.rows.turns import Learn

if TYPE_CHECKING:
    from finery_trl.rows.tokens import Tokens


class Remarks:
    """Examines rows as they are read, and their examples.

    Add each row before its examples. learn: as in `Coverage`.
    """

    def __init__(self, learn: Learn | None, tokens: "Tokens") -> None:
        self._control = Control(tokens.tokenizer)
        self._calls = Calls(learn)
        self._coverage = Coverage(learn, tokens)

    def add_row(self, row: Row) -> None:
        """Examine a row."""
        self._control.add(row)
        self._calls.add(row)
        self._coverage.add_row(row)

    def add_example(self, example: Proven) -> None:
        """Look at an example of the row that was added last."""
        self._coverage.add_example(example)

    def facts(self) -> dict[str, str]:
        """Facts about all rows, as text."""
        return self._coverage.facts()

    def notes(self) -> list[str]:
        """Lines about what may be a mistake."""
        return [*self._notes_on_rows(), *self._coverage.notes()]

    def lines(self) -> list[str]:
        """The log of a training about its rows: the notes, and unusual facts."""
        return [*self._notes_on_rows(), *self._coverage.lines()]

    def _notes_on_rows(self) -> list[str]:
        return [*self._control.notes(), *self._calls.notes()]
