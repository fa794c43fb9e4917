"""Training rows as the texts of an importance matrix: token ids as in the training."""

import heapq
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from finery import DataError
from finery.rows import Row, split_turns
from finery_transformers.chat import PromptDiffers, end_of_turn, row_tokens, tokens_of

if TYPE_CHECKING:
    from finery_transformers.frozen.template import FrozenTemplate

LONGEST = 8192
"""Tokens of a row that are evaluated at most; more would take more memory than they are worth."""


class Calibration(NamedTuple):
    """texts: token ids of rows, none empty. given: the number of rows that they were chosen from.
    cut: how many of them were cut off.
    """

    texts: list[list[int]]
    given: int
    cut: int


def calibration(
    rows: Iterable[Row], frozen: "FrozenTemplate", *, tokens: int, context: int
) -> Calibration:
    """Prompts with their answers, as the model was trained on them, up to a number of tokens.

    Rows are taken in the order of their ids. These are hashes, so the rows are a random sample,
    and the same one for rows in another order. context: of the model, in tokens; longer rows are
    cut off.
    Raises `DataError` if there are no rows, and for rows without an answer or that the chat
    template refuses.
    """
    given = 0

    def counted() -> Iterable[Row]:
        nonlocal given
        for given, row in enumerate(rows, 1):  # noqa: B007  (it is read below)
            yield row

    # Each row has at least one token, so these are enough.
    chosen = heapq.nsmallest(tokens, counted(), key=lambda row: str(row["id"]))
    if not chosen:
        raise DataError(
            "`imatrix` has no rows", where="imatrix", fix="check the step that makes them"
        )
    ends = end_of_turn(frozen.tokenizer, frozen.arguments)
    longest = min(context or LONGEST, LONGEST)
    texts: list[list[int]] = []
    cut, left = 0, tokens
    for row in chosen:
        text = _text(row, frozen, ends)
        cut += len(text) > longest
        texts.append(text[:longest])
        left -= len(texts[-1])
        if left <= 0:
            break
    return Calibration(texts, given, cut)


def _text(row: Row, frozen: "FrozenTemplate", ends: set[int]) -> list[int]:
    """The token ids of a row's conversation up to the end of its last turn."""
    prompt, completion = split_turns(row)
    if not completion:
        raise DataError(
            f"row {row['id']} of `imatrix` has no answer",
            where="imatrix",
            fix="name the rows that the model was trained on, e.g. imatrix: split.train",
        )
    try:
        _, whole = row_tokens(
            frozen.tokenizer, prompt, completion, ends,
            tools=row.get("tools"), arguments=frozen.arguments,
        )  # fmt: skip
    except PromptDiffers as error:  # e.g. without the thinking of earlier turns
        return tokens_of(frozen.tokenizer, error.whole)
    except DataError as error:
        raise DataError(
            f"row {row['id']} of `imatrix`: {error.what}",
            where="imatrix", details=error.details, fix=error.fix,
        ) from error  # fmt: skip
    return whole
