"""Preferences as tokens: a better and a worse answer to the same prompt, or rated answers.

They are verified like rows with one answer: both answers extend the exact prompt used at inference,
both have loss, and both end their turn. The two answers must also differ.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from finery import DataError, outside_key
from finery.advanced import some_of
from finery.rows import Row, Turns, is_preference
from finery_trl.rows.example import Answer, Proven
from finery_trl.rows.tokens import Reading, examples_of

RATINGS = {True: True, False: False, "true": True, "false": False}
"""A row's label → whether its completion is good. The labels of a Dataset are text."""


@dataclass(frozen=True, slots=True)
class Pair(Proven):
    """A preference as tokens: `chosen` and `rejected` each follow `prompt`."""

    row_id: str
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def sequences(self) -> int:
        """The prompt with each answer."""
        return 2

    @property
    def size(self) -> int:
        """Tokens of the longer sequence."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    @property
    def total_tokens(self) -> int:
        """Tokens of both sequences."""
        return 2 * len(self.prompt) + self.loss_tokens

    @property
    def loss_tokens(self) -> int:
        """Tokens of both answers."""
        return len(self.chosen) + len(self.rejected)

    def answers(self) -> list[Answer]:
        """The better answer, then the worse one."""
        return [
            Answer(self.prompt, self.chosen, "chosen"),
            Answer(self.prompt, self.rejected, "rejected"),
        ]

    def columns(self) -> dict[str, Any]:
        """The columns of TRL's collator for preferences."""
        return {
            "prompt_ids": self.prompt,
            "chosen_ids": self.chosen,
            "rejected_ids": self.rejected,
        }


@dataclass(frozen=True, slots=True)
class Rating(Proven):
    """A rated answer as tokens: whether the model should give it more or less often."""

    row_id: str
    prompt: list[int]
    completion: list[int]
    desirable: bool

    @property
    def size(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.completion)

    @property
    def loss_tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.completion)

    def answers(self) -> list[Answer]:
        """The answer with its rating."""
        rating = "desirable" if self.desirable else "undesirable"
        return [Answer(self.prompt, self.completion, rating)]

    def columns(self) -> dict[str, Any]:
        """The columns of TRL's collator for ratings."""
        return {
            "prompt_ids": self.prompt,
            "completion_ids": self.completion,
            "label": self.desirable,
        }


def pairs_of(rows: Iterable[Row], reading: Reading) -> list[Pair]:
    """Every preference as tokens, verified.

    Raises the errors of `examples_of`, and `DataError` with the rows that aren't preferences or
    have two equal answers, and if each preference has an answer that is too long.
    """
    pairs = list(rows)
    unpaired = [r for r in pairs if not is_preference(r)]
    _refuse(unpaired, "no chosen and rejected answer", _PREFERENCE_FIX, reading.what)
    chosen, rejected = _proven(pairs, "chosen", reading), _proven(pairs, "rejected", reading)
    same = [r for r in pairs if chosen.get(r["id"]) == rejected.get(r["id"], "")]
    _refuse(same, "equal chosen and rejected answers", "remove them", reading.what)
    # A preference needs both answers: if one is too long, the row is dropped.
    fitting = [
        Pair(r["id"], *chosen[r["id"]], rejected[r["id"]][1])
        for r in pairs
        if r["id"] in chosen and r["id"] in rejected
    ]
    if not fitting:
        _refuse_all_longer(pairs, reading)
    return fitting


def ratings_of(rows: Iterable[Row], reading: Reading) -> list[Rating]:
    """Every rated answer as tokens, verified. A preference yields two of them.

    Raises the errors of `examples_of`, and `DataError` with the rows without a rating.
    """
    rated = list(rows)
    unrated = [
        r
        for r in rated
        if not is_preference(r)
        and not (r.get("prompt") and "completion" in r and r.get("label") in RATINGS)
    ]
    _refuse(unrated, "no rating", _RATING_FIX, reading.what)
    sides = {"chosen": True, "rejected": False, "completion": None}
    proven = {
        side: _proven([r for r in rated if side in r], side, reading)
        for side in sides
        if any(side in r for r in rated)
    }
    return [
        Rating(r["id"], *examples[r["id"]], RATINGS[r["label"]] if good is None else good)
        for r in rated
        for side, good in sides.items()
        if side in r and r["id"] in (examples := proven[side])
    ]


def _proven(
    rows: Sequence[Row], side: str, reading: Reading
) -> dict[str, tuple[list[int], list[int]]]:
    """Row id → (prompt, answer) as tokens, for one of the answers of each row."""
    shared = ("id", "prompt", "tools")
    answered = [{k: r[k] for k in shared if k in r} | {"completion": r[side]} for r in rows]
    if side != "completion":
        reading = reading._replace(what=f"{reading.what} ({side})")
    several = [r for r in answered if len(Turns.of(r).answer) > 1]
    _refuse(several, "an answer of several turns", _TURNS_FIX, reading.what)
    return {
        example.row_id: (list(answer.prompt), list(answer.tokens))
        for example in examples_of(answered, reading)
        for (answer,) in [example.answers()]
    }


@outside_key
def _refuse_all_longer(pairs: Sequence[Row], reading: Reading) -> None:
    """Raise the error for preferences that all have an answer that is too long."""
    unlimited = reading._replace(max_length=sys.maxsize)
    sides = [_proven(pairs, side, unlimited) for side in ("chosen", "rejected")]
    longest = max(len(prompt) + len(answer) for side in sides for prompt, answer in side.values())
    raise DataError(
        f"{reading.what}: {len(pairs):,} of {len(pairs):,} rows are longer than "
        f"{reading.max_length} tokens with one of their answers: "
        f"{some_of([str(r['id']) for r in pairs])}",
        where="max_length",
        fix=f"max_length: {longest}, or shorter answers",
    )


@outside_key
def _refuse(rows: Sequence[Row], fault: str, fix: str, subject: str) -> None:
    """Raise `DataError` if there are any rows with a fault."""
    if rows:
        ids = some_of([str(row["id"]) for row in rows])
        raise DataError(f"{subject}: {len(rows)} rows have {fault}: {ids}", fix=fix)


_TURNS_FIX = (
    "move all turns but the last into the prompt, since the answers of tools and users in it would "
    "be learned too"
)
_PREFERENCE_FIX = (
    "add a prompt, a chosen and a rejected answer to each; data.file reads them with "
    "`format: preference`"
)
_RATING_FIX = (
    "add a prompt, a completion and `label: true` or `false` to each, or a chosen and a rejected "
    "answer; data.file reads them with `format: rating` or `format: preference`"
)
