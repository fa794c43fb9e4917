"""The records of `data.audit`: doubts about labels, and the row that follows from them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from finery import Dataset
from finery.rows import Row, Turns, answer_text, with_turns
from finery.rows.files import lines_of
from finery_baseline.classifier import LINES, OBJECT

AUDIT = "audit.jsonl"
"""The file of doubts in the data set's folder, the most suspicious first."""
SUSPECT = "suspect-label"
"""The check that names such rows in `findings.jsonl`."""
CONFLICT = "answer-conflict"
"""The check that names rows with an equal prompt and another answer."""
NOT_COPIED = "not-in-prompt"
"""The check that names values that aren't in the prompt although those of most rows are."""
ANSWER = "output"
"""The name of the answer's text where a column with labels is expected."""


class Doubt(msgspec.Struct, omit_defaults=True):
    """A line of `AUDIT`: what is known about a label, or about a field of an answer.

    id, row: of the row; `row` counts from 1 among those that the step read. column: `ANSWER` or a
    column. form: of an answer with fields. field: empty for the whole label. suspicion: between 0
    and 1. margin: how much more probable the label is than the proposal. check: what makes it a
    suspect; empty for others. detail: the same in words. nearest: the ids and the beginnings of
    the most similar rows that have the proposed label.
    """

    id: str
    row: int
    column: str
    label: str
    suspicion: float
    form: str = ""
    field: str = ""
    proposed: str = ""
    margin: float = 0.0
    check: str = ""
    detail: str = ""
    nearest: list[tuple[str, str]] = []


def read_audit(dataset: Dataset) -> Iterator[Doubt]:
    """The doubts about a data set's labels, the most suspicious first."""
    return (msgspec.json.decode(line, type=Doubt) for line in lines_of(dataset, AUDIT))


def corrected(row: Row, doubts: Sequence[Doubt]) -> dict[str, Any]:
    """The columns of a row that change if its labels become the proposed ones."""
    new = row
    for doubt in doubts:
        if doubt.proposed:
            new = _with_label(new, doubt)
    return {name: value for name, value in new.items() if row.get(name) != value}


def _with_label(row: Row, doubt: Doubt) -> Row:
    answer = answer_text(row)
    if doubt.field:
        return _with_answer(row, _with_field(answer, doubt))
    if doubt.column != ANSWER:
        changed = {**row, doubt.column: doubt.proposed}
        return _with_answer(changed, doubt.proposed) if answer.strip() == doubt.label else changed
    label = {"label": doubt.proposed} if row.get("label") == doubt.label else {}
    return _with_answer({**row, **label}, doubt.proposed)


def _with_field(answer: str, doubt: Doubt) -> str:
    """The answer with the proposed value of a field. Raises ValueError if it has another form."""
    if doubt.form == OBJECT:
        values = {**json.loads(answer), doubt.field: json.loads(doubt.proposed)}
        return json.dumps(values, ensure_ascii=False, indent=2 if "\n" in answer else None)
    assert doubt.form == LINES
    lines = answer.splitlines()
    places = [n for n, line in enumerate(lines) if line.partition(":")[0].strip() == doubt.field]
    for place in places:
        name, colon, _ = lines[place].partition(":")
        lines[place] = f"{name}{colon} {doubt.proposed}"
    return "\n".join(lines)


def _with_answer(row: Row, text: str) -> Row:
    turns = Turns.of(row)
    if not turns.answer:
        if "messages" not in row:
            return row
        return {**row, "messages": [*turns.prompt, {"role": "assistant", "content": text}]}
    *before, last = turns.answer
    return with_turns(row, turns._replace(answer=[*before, {**last, "content": text}]))


def pairs_of(doubts: Sequence[Doubt]) -> Mapping[tuple[str, str, str], list[Doubt]]:
    """(field, label, proposed) → the suspects, the most frequent pair first."""
    pairs: dict[tuple[str, str, str], list[Doubt]] = {}
    for doubt in doubts:
        if doubt.check and doubt.proposed:
            pairs.setdefault((doubt.field, doubt.label, doubt.proposed), []).append(doubt)
    return dict(sorted(pairs.items(), key=lambda pair: -len(pair[1])))
