"""`data.dedup`: keep only the first of copies and near copies."""

from collections.abc import Iterator
from typing import Literal

from finery import Job, setting
from finery.rows import Row
from finery.rows.dropped import Drops
from finery.rows.near import NEAR_SIMILARITY, NearIndex, common_pieces, row_entry
from finery.rows.parts import read_numbered, row_id_of
from finery_data.duplicates import crowd_note
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
