"""`data.dedup` and `data.decontaminate`: drop copies and near copies, of rows or of test rows."""

from collections.abc import Iterator
from typing import Literal

from finery import Dataset, Job, setting, takes
from finery.rows import Row
from finery.rows.dropped import Drops
from finery.rows.near import NEAR_SIMILARITY, NearIndex, common_pieces, prompt_entry, row_entry
from finery.rows.parts import read_numbered, row_id_of
from finery_data.duplicates import HeldOut, Leak, crowd_note
from finery_data.steps.filter import RowFilter


class Dedup(RowFilter, packages=("rensa",), version="1"):
    """Keep the first of several copies or near copies.

    A row is dropped if it equals an earlier row that was kept, ignoring case, punctuation and
    spaces (`duplicate`), or is similar to it (`near-duplicate`). Similarity is the Jaccard
    similarity of the texts' sets of five-letter pieces (Broder 1997), found with MinHash. Pieces
    that a fifth of the rows share don't count, and short texts that differ in a number are
    different. System prompts aren't compared. Rows are streamed twice. Each row that is kept takes
    2 to 3 KB of memory.
    """

    on: Literal["row", "prompt"] = setting(
        "row",
        help="What is compared. row: prompt and answer must both be similar, and label and tools "
        "equal. prompt: only the prompt.",
    )
    threshold: float = setting(
        NEAR_SIMILARITY,
        ge=0.5,
        le=1,
        help="Lowest similarity of near copies. 1: only rows that are equal apart from case, "
        "punctuation and spaces.",
    )

    def kept(self, job: Job, drops: Drops) -> Iterator[Row]:
        """The first of the rows that repeat each other."""
        surveyed = read_numbered(job, self.rows, "rows surveyed")
        common = common_pieces(row_entry(row, self.on) for _, row in surveyed)
        index, ids = NearIndex(self.threshold, job.scratch, common), list[str]()
        for _, row in read_numbered(job, self.rows):
            entry = row_entry(row, self.on)
            match = index.find(entry)
            if match is None:
                index.add(len(ids), entry)
                ids.append(row_id_of(row))
                yield row
            elif match.exact:
                drops.add(row, "duplicate", f"repeats the row {ids[match.number]}")
            else:
                detail = f"is {match.similarity:.2f} similar to the row {ids[match.number]}"
                drops.add(row, "near-duplicate", detail)
        if index.crowded:
            job.log(crowd_note(index.crowded))


class Decontaminate(RowFilter, packages=("rensa",), version="1"):
    """Drop rows that leak test rows: copies and near copies of their prompts.

    A row is dropped if its prompt equals that of a row of `against`, ignoring case, punctuation and
    spaces (`copy`), is similar to it (`near-copy`), or contains it completely (`contains-copy`, for
    test prompts of at least 50 letters and digits). It is also dropped if it was made from a row of
    `against` (`made-from-test`, by its `parents`). Similarity is the Jaccard similarity of the
    prompts' sets of five-letter pieces (Broder 1997), found with MinHash. Pieces that a fifth of
    the prompts share don't count, and short prompts that differ in a number are different. The
    prompts of `against` are in memory, at 2 to 3 KB a row; `rows` is streamed twice.
    """

    NOTHING_LEFT = "check the steps that `rows` and `against` name"

    against: list[Dataset] = takes(
        role="compare", help="Rows that must not be trained on, e.g. split.test."
    )
    threshold: float = setting(
        NEAR_SIMILARITY,
        ge=0.5,
        le=1,
        help="Lowest similarity of near copies. 1: only prompts that are equal apart from case, "
        "punctuation and spaces.",
    )

    def kept(self, job: Job, drops: Drops) -> Iterator[Row]:
        """The rows that leak none of `against`."""
        surveyed = read_numbered(job, [*self.against, *self.rows], "rows surveyed")
        common = common_pieces(prompt_entry(row) for _, row in surveyed)
        held, ids = HeldOut("test", self.threshold, job.scratch, common), set[str]()
        for _, row in read_numbered(job, self.against, "test rows"):
            held.add(row, prompt_entry(row))
            ids.add(row_id_of(row))
        for _, row in read_numbered(job, self.rows):
            parent = next((p for p in row.get("parents") or () if p in ids), None)
            leak = held.leak(prompt_entry(row))
            if parent:
                leak = Leak("made-from-test", f"was made from the test row {parent}")
            if leak is None:
                yield row
            else:
                drops.add(row, leak.reason, leak.detail)
        job.log(f"compared with {len(held):,} test rows")
        if held.crowded:
            job.log(crowd_note(held.crowded))
