"""A review in progress: the rows, the decisions on them, and the answers to the page's requests."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from finery import DataError, UsageError
from finery.rows import TURN_COLUMNS, Row
from finery.rows.parts import prompt_text as prompt_of
from finery.rows.parts import row_texts
from finery_data.checks.audits import Doubt, corrected
from finery_review.decisions import Action, Decision, Earlier, apply_decision, token_of
from finery_review.log import DecisionLog
from finery_review.serving.rows import (
    About,
    RowFile,
    Scores,
    Search,
    failed_of,
    holds,
    is_class,
    score_of,
)

SNIPPET_CHARACTERS = 160
"""Characters of a prompt or an answer in the table."""
MOST_SUMMARIES = 200
"""Most rows of the table in one answer."""
STATUS = {"accept": "accepted", "reject": "rejected", "edit": "edited", "swap": "swapped"}
LETTERS = {
    "undecided": "u", "stale": "t", "accepted": "a", "rejected": "r", "edited": "e", "swapped": "s",
}  # fmt: skip
EDITABLE = (*TURN_COLUMNS, "label", "text", "tools")
UNDECIDED = frozenset({"undecided", "stale"})


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """A decision that a window requests.

    row, id: the row's number and id. seen: the token of the decision that the window shows.
    columns: for an edit, the new columns, None to remove one.
    """

    row: int
    id: str
    do: Action
    seen: str
    reason: str = ""
    columns: dict[str, Any] | None = None


class Session:
    """The rows under review and the decisions on them. Its methods are thread-safe.

    decided: row → status of those decided here, for the summary at the end.
    """

    def __init__(self, rows: RowFile, log: DecisionLog, about: About, reviewer: str) -> None:
        self.rows = rows
        self.log = log
        self.reviewer = reviewer
        self.decided: dict[int, str] = {}
        self._about = about
        self._search = Search(rows)
        self._scores = Scores(rows, about)
        self._lock = threading.RLock()
        self._known = -1, 0  # the log's generation and lines that statuses are of
        self._status = ["undecided"] * len(rows)
        self._counts = Counter(self._status)
        self._earlier = Earlier(())
        # Requests have no answers yet: those that are proposed are the labels to choose from.
        if self._proposed() and not any(rows.labels):
            rows.answers_are_labels = True
        self._refresh()

    # -- requests of windows ---------------------------------------------------------------------

    def overview(self) -> dict[str, Any]:
        """The data that a window needs when it opens."""
        with self._lock:
            self._refresh()
            return {
                "reviewer": self.reviewer,
                "labels": list(self.rows.label_counts() or self._proposed())[:500],
                "answers_are_labels": self.rows.answers_are_labels,
                "checks": self._checks(),
                "audited": bool(self._about.suspicion),
                "preferences": bool(self.rows.preferences),
                "scored": self._scores.may_exist(),
                **self._news(),
            }

    def listed(self, status: str, label: str, text: str, order: str, check: str) -> dict[str, Any]:
        """The rows with a status (`undecided` includes stale rows), a label, a text and a finding
        of a check; sorted.

        Empty: any. The text may also be in a decision. `statuses` has a letter for each row.
        """
        with self._lock:
            self._refresh()
            numbers: Iterator[int] | range = range(len(self.rows))
            if status == "undecided":
                numbers = (n for n in numbers if self._status[n] in UNDECIDED)
            elif status:
                numbers = (n for n in numbers if self._status[n] == status)
            if label:
                numbers = (n for n in numbers if self._label(n) == label)
            if text:
                numbers = (n for n in numbers if self._has(n, text))
            if check:
                found = {row for row, checks in self._about.checks.items() if check in checks}
                numbers = (n for n in numbers if not found.isdisjoint(self.rows.names(n)))
            rows = self._scores.sort(numbers, order)
            return {"rows": rows, "statuses": "".join(LETTERS[self._status[n]] for n in rows)}

    def summaries(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of a table: the beginnings of what is in them."""
        with self._lock:
            self._refresh()
            return [self._summary(number) for number in numbers[:MOST_SUMMARIES]]

    def row(self, number: int) -> dict[str, Any]:
        """All about a row."""
        with self._lock:
            self._refresh()
            self._check_number(number)
            content, told = self.rows[number], self._told(number)
            proposal = _proposal(content, told["audit"])
            return {**self._state(number), "content": content, **told, "proposal": proposal}

    def changes(self, generation: int, lines: int) -> dict[str, Any]:
        """The states of rows decided since a window's last request.

        generation, lines: from the last answer. `again` if the window must reload everything.
        """
        with self._lock:
            self._refresh()
            if generation != self.log.generation or lines > len(self.log.rows):
                return {"again": True, **self._news()}
            changed_rows = dict.fromkeys(self.log.rows[lines:])
            numbers = [number for row in changed_rows for number in self.rows.numbers(row)]
            return {"rows": [self._state(number) for number in numbers], **self._news()}

    def decide(self, wish: Wish) -> dict[str, Any]:
        """Write a decision. Returns the row's new state.

        Raises `Conflict` if another window was first, `UsageError` for an invalid decision.
        """
        with self._lock:
            self._check_number(wish.row)
            if self.rows.ids[wish.row] != wish.id:
                raise UsageError("this window shows other rows", fix="load the page again")
            row = self.rows[wish.row]
            edits: dict[str, Any] = {}
            if wish.do == "edit":
                columns = wish.columns or {}
                changed = {k: v for k, v in columns.items() if row.get(k) != v}
                if not changed:
                    raise UsageError(
                        "nothing has changed", fix="accept the row, or undo its decision"
                    )
                edits["set"] = changed
            try:
                decision = Decision(
                    id=wish.id,
                    do=wish.do,
                    reason=wish.reason.strip(),
                    by=self.reviewer,
                    prompt=self.rows.prompt(wish.row),
                    parents=list(self.rows.parents(wish.row)),
                    **edits,
                )
            except ValueError as error:
                raise UsageError(str(error), fix="load the page again") from error
            if decision.do == "note" and not decision.reason:
                raise UsageError(
                    "the comment is empty", fix="write something, or decide on the row"
                )
            apply_decision(row, decision)
            self.log.append(decision, wish.seen)
            self._refresh()
            self.decided[wish.row] = self._status[wish.row]
            return {"rows": [self._state(n) for n in self.rows.numbers(wish.id)], **self._news()}

    def counts(self) -> dict[str, int]:
        """Status → number of rows."""
        with self._lock:
            self._refresh()
            return dict(+self._counts)

    def stale_elsewhere(self) -> int:
        """The number of decisions on rows that no longer exist."""
        with self._lock:
            self._refresh()
            return self._earlier.count

    # -- state -----------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Update the statuses from new lines of the log."""
        self.log.refresh()
        generation, lines = self._known
        if generation != self.log.generation:
            self._known = self.log.generation, len(self.log.rows)
            self._find_earlier()
            self._status = [self._status_of(number) for number in range(len(self.rows))]
            self._counts = Counter(self._status)
            return
        changed_rows = dict.fromkeys(self.log.rows[lines:])
        self._known = generation, len(self.log.rows)
        if any(not self.rows.numbers(row) for row in changed_rows):  # another window has other rows
            self._find_earlier()
        for row in changed_rows:
            for number in self.rows.numbers(row):
                self._counts[self._status[number]] -= 1
                self._status[number] = self._status_of(number)
                self._counts[self._status[number]] += 1

    def _find_earlier(self) -> None:
        self._earlier = Earlier(d for d in self.log.standing if not self.rows.numbers(d.id))

    def _status_of(self, number: int) -> str:
        decision = self.log.standing.of(self.rows.ids[number])
        if decision is not None and decision.decides:
            return STATUS[decision.do]
        return "stale" if self._before(number) else "undecided"

    def _before(self, number: int) -> Decision | None:
        """The decision on the row before it changed."""
        if not self._earlier.count:
            return None
        return self._earlier.of(self.rows.parents(number), self.rows.prompt(number))

    def _state(self, number: int) -> dict[str, Any]:
        """The decision on a row, or on what it was before it changed."""
        row = self.rows.ids[number]
        decision, status = self.log.standing.of(row), self._status[number]
        state: dict[str, Any] = {
            "row": number,
            "id": row,
            "status": status,
            "decision": decision,
            "seen": token_of(decision),
        }
        if status == "stale":
            state["before"] = self._before(number)
        if decision is not None and decision.do in ("edit", "swap"):
            state["becomes"] = _becomes(self.rows[number], decision)
        return state

    def _proposed(self) -> list[str]:
        """The answers that are proposed, if they may be classes; the most frequent first."""
        answers = [answer for answer, _ in self._about.proposals.most_common()]
        return answers if all(map(is_class, answers)) else []

    def _checks(self) -> dict[str, int]:
        """Check → the rows with such a finding, the most frequent first."""
        counts = Counter[str]()
        for row, checks in self._about.checks.items():
            counts.update({check: len(self.rows.numbers(row)) for check in checks})
        return dict((+counts).most_common())

    def _told(self, number: int) -> dict[str, list[dict[str, Any]]]:
        """The records of steps about the row, or about the rows that it was made from."""
        return self._about.of(self.rows.names(number))

    def _summary(self, number: int) -> dict[str, Any]:
        self._check_number(number)
        state = self._state(number)
        row, texts = _apply_columns(self.rows[number], state.get("becomes")), dict[str, str]()
        try:
            texts = row_texts(row)
            prompt = prompt_of(row)
        except (AttributeError, KeyError, TypeError):  # invalid turns
            prompt = str(row)
        answer = texts.get("assistant", "")
        lines = [row, *self._told(number)["generated"]]
        label = row.get("label")
        return {
            **state,
            "label": label if isinstance(label, str) else "" if label is None else str(label),
            "prompt": _snippet(prompt),
            "answer": _snippet(answer),
            "score": score_of(lines),
            "failed": failed_of(lines),
        }

    def _news(self) -> dict[str, Any]:
        """The status of the review, which is part of every answer."""
        return {
            "total": len(self.rows),
            "counts": +self._counts,
            "generation": self.log.generation,
            "lines": len(self.log.rows),
            "notices": self.log.notices,
        }

    def _label(self, number: int) -> Any:
        """The row's label, after an edit if there is one."""
        decision = self.log.standing.of(self.rows.ids[number])
        if decision is None or not decision.set:
            return self.rows.labels[number]
        becomes = _becomes(self.rows[number], decision)
        return self.rows.labels[number] if becomes is None else self.rows.label_of(becomes)

    def _has(self, number: int, text: str) -> bool:
        decision = self.log.standing.of(self.rows.ids[number])
        if decision is not None:
            written = {"comment": decision.reason, **(decision.set or {})}
            if holds(written, text.casefold()):
                return True
        return self._search.has(number, text)

    def _check_number(self, number: int) -> None:
        if not 0 <= number < len(self.rows):
            raise UsageError(f"there is no row {number}", fix="load the page again")


def _proposal(row: Row, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The columns that an audit proposes for a row: of its suspects, else of all doubts."""
    doubts = [msgspec.convert({"id": "", "row": 0, **line}, Doubt) for line in lines]
    suspects = [doubt for doubt in doubts if doubt.check]
    try:
        return corrected(row, suspects or doubts[:1])
    except (ValueError, AttributeError, KeyError, TypeError):  # the row has changed since
        return {}


def _becomes(row: Row, decision: Decision) -> Row | None:
    """The editable parts of the row after the decision; None if it doesn't fit."""
    try:
        decided = apply_decision(row, decision)
    except DataError:
        return None
    return {k: v for k, v in (decided or {}).items() if k in EDITABLE}


def _apply_columns(row: Row, becomes: Row | None) -> Row:
    """The row with the columns that an edit or a swap gives it."""
    if becomes is None:
        return row
    return {k: v for k, v in row.items() if k not in EDITABLE} | becomes


def _snippet(text: str) -> str:
    return " ".join(text[: SNIPPET_CHARACTERS * 2].split())[:SNIPPET_CHARACTERS]
