"""Text as blocks of tokens, for continued pre-training: whole documents, each ended by EOS."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from finery import DataError, Job, StepError, outside_key
from finery.advanced import counted, some_of
from finery.rows import Row
from finery_trl.rows.example import NO_LOSS, Answer, Example, Proven

if TYPE_CHECKING:
    from finery_trl.rows.tokens import Reading, Tokens

FEWEST = 10
"""Characters that chunks share at least if they overlap."""
NEEDS_TEXT = (
    "name rows with a column `text`, e.g. those of docs.files, or of data.file with keep: [text]; "
    "rows with answers are for trl.sft"
)


@dataclass(frozen=True, slots=True)
class Block(Proven):
    """A sequence of documents, or of parts of documents, that don't attend to each other.

    row_id: of the first part.
    """

    row_id: str
    parts: Sequence[Example]

    @property
    def sequences(self) -> int:
        """The number of parts."""
        return len(self.parts)

    @property
    def size(self) -> int:
        """Tokens of the block."""
        return sum(part.size for part in self.parts)

    @property
    def loss_tokens(self) -> int:
        """All but the first token of each part, which nothing precedes."""
        return sum(part.loss_tokens for part in self.parts)

    def answers(self) -> list[Answer]:
        """Each part, after its first token."""
        return [answer for part in self.parts for answer in part.answers()]

    def columns(self) -> dict[str, Any]:
        """The columns of TRL's collator for packed sequences."""
        return {
            "input_ids": [token for part in self.parts for token in part.tokens],
            "labels": [label for part in self.parts for label in part.labels],
            "seq_lengths": [part.size for part in self.parts],
        }


def blocks_of(rows: Iterable[Row], reading: "Reading", *, packing: bool) -> list[Block]:
    """The documents in `rows` as blocks of at most `max_length` tokens.

    A document that is longer is split. Each further part begins with the last token of the part
    before it, so that every token is learned exactly once. packing: put several short parts into a
    block. Raises `DataError` without rows, and for rows without a text.
    """
    tokens, job, subject, max_length, _ = reading
    read: list[Row] = []
    parts: list[Example] = []
    documents = 0
    for row_id, text in _documents(_with_text(rows, subject, read), job, subject):
        documents += 1
        ids = _ids(text, tokens)
        for number, start in enumerate(range(0, len(ids) - 1, max_length - 1)):
            part = ids[start : start + max_length]
            parts.append(Example(row_id, part, [NO_LOSS, *part[1:]], number))
    if not parts:
        raise DataError(f"{subject}: there are no rows", fix="check the step that they come from")
    blocks = (
        _packed(parts, max_length) if packing else [Block(part.row_id, [part]) for part in parts]
    )
    _note_repeats(read, job, subject)
    job.log(
        f"{subject}: {counted(len(read), 'row')} with {counted(documents, 'document')} in "
        f"{counted(len(blocks), 'block')} of up to {max_length:,} tokens"
    )
    return blocks


def _with_text(rows: Iterable[Row], subject: str, read: list[Row]) -> Iterator[Row]:
    """The rows, which are added to `read`. `DataError` after the last if some have no text."""
    bad = []
    for row in rows:
        read.append(row)
        if isinstance(row.get("text"), str) and row["text"].strip():
            yield row
        else:
            bad.append(row["id"])
    if bad:
        raise DataError(
            f"{subject}: no `text` in {len(bad):,} of {len(read):,} rows: {some_of(bad)}",
            fix=NEEDS_TEXT,
        )


def _documents(rows: Iterable[Row], job: Job, subject: str) -> Iterator[tuple[str, str]]:
    """(id of the first row, text) of each document.

    Chunks of a document that follow each other, as `docs.files` writes them, are joined, without
    what a chunk repeats of the one before it. Any other row is a document.
    """
    repeated = 0
    for _, group in groupby(enumerate(rows), _document):
        row_id, text = "", ""
        for _, row in group:
            row_id = row_id or row["id"]
            overlap = _overlap(text, row["text"])
            repeated += overlap
            text += row["text"][overlap:] if overlap or not text else f"\n\n{row['text']}"
        yield row_id, text
    if repeated:
        job.log(f"{subject}: left out {repeated:,} characters that overlapping chunks repeat")


def _document(numbered: tuple[int, Row]) -> Any:
    """What the chunks of a document share: its file. Any other row has its own number."""
    number, row = numbered
    is_chunk = "heading" in row and ("line" in row or "page" in row)
    return ("", row["source"]) if is_chunk and "source" in row else number


def _overlap(before: str, text: str) -> int:
    """The length of the longest beginning of `text` that `before` ends with."""
    sizes = range(min(len(before), len(text)), FEWEST - 1, -1)
    return next((size for size in sizes if before.endswith(text[:size])), 0)


def _ids(text: str, tokens: "Tokens") -> list[int]:
    """The tokens of a document: with the BOS that the tokenizer adds to texts, and one EOS.

    A `<|im_end|>` that a document quotes is text, since it ends no turn there.
    """
    end = tokens.tokenizer.eos_token_id
    if end is None:
        raise StepError(
            "the model's tokenizer has no end-of-sequence token, which ends a document",
            fix="set eos_token in its tokenizer_config.json",
        )
    ids = list(tokens.tokenizer(text, split_special_tokens=True)["input_ids"])
    return ids if ids[-1:] == [end] else [*ids, end]


def _packed(parts: Sequence[Example], size: int) -> list[Block]:
    """Blocks of at most `size` tokens, each part in the fullest that has room, longest parts first.

    (Best-fit decreasing, Ding et al. 2024, https://arxiv.org/abs/2404.10830.)
    """
    blocks: list[list[Example]] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, number of the block), sorted
    for part in sorted(parts, key=lambda part: -part.size):
        at = bisect_left(rooms, (part.size, 0))
        room, number = rooms.pop(at) if at < len(rooms) else (size, len(blocks))
        if number == len(blocks):
            blocks.append([])
        blocks[number].append(part)
        insort(rooms, (room - part.size, number))
    return [Block(block[0].row_id, block) for block in blocks]


@outside_key
def _note_repeats(rows: Sequence[Row], job: Job, subject: str) -> None:
    """Log the rows whose text another row has, too."""
    first: dict[str, str] = {}
    again = [row["id"] for row in rows if first.setdefault(row["text"], row["id"]) != row["id"]]
    if again:
        job.log(
            f"{subject}: {counted(len(again), 'row')} repeat the text of another row, which is "
            f"then learned several times; data.dedup drops them: {some_of(again)}"
        )
