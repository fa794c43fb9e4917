"""`data.decontaminate`: no test row, nor a near copy of one, in what trains."""

from collections.abc import Iterator

from finery import Dataset, Forecast, Inputs, Job, Step, setting, takes
from finery.rows import Row
from finery.rows.dropped import Drops
from finery.rows.near import NEAR_SIMILARITY, common_pieces, prompt_entry
from finery.rows.parts import read_numbered, row_id_of
from finery_data.duplicates import HeldOut, Leak, crowd_note


class Decontaminate(Step, seeded=False, packages=("rensa",), version="1"):
    """Drop rows that leak test rows: copies and near copies of their prompts.

    A row is dropped if its prompt equals that of a row of `against`, ignoring case, punctuation and
    spaces (`copy`), is similar to it (`near-copy`), or contains it completely (`contains-copy`, for
    test prompts of at least 50 letters and digits). It is also dropped if it was made from a row of
    `against` (`made-from-test`, by its `parents`). Similarity is the Jaccard similarity of the
    prompts' sets of five-letter pieces (Broder 1997), found with MinHash. Pieces that a fifth of
    the prompts share don't count, and short prompts that differ in a number are different. The
    prompts of `against` are in memory, at 2 to 3 KB a row; `rows` is streamed twice.
    """

    rows: list[Dataset] = takes(help="Rows to clean, in this order.")
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

    def run(self, job: Job) -> Dataset:
        """Write the rows that are left, and why the others aren't."""
        surveyed = read_numbered(job, [*self.against, *self.rows], "rows surveyed")
        common = common_pieces(prompt_entry(row) for _, row in surveyed)
        held, ids = HeldOut("test", self.threshold, job.scratch, common), set[str]()
        for _, row in read_numbered(job, self.against, "test rows"):
            held.add(row, prompt_entry(row))
            ids.add(row_id_of(row))
        with Drops(job.out) as drops:
            dataset = Dataset.write(job.out, self._clean(job, held, ids, drops))
        drops.refuse_nothing_left(len(dataset), "check the steps that `rows` and `against` name")
        job.log(f"{drops.summary(len(dataset))} against {len(held):,} test rows")
        if held.crowded:
            job.log(crowd_note(held.crowded))
        dataset.meta |= drops.meta()
        return dataset

    def _clean(self, job: Job, held: HeldOut, ids: set[str], drops: Drops) -> Iterator[Row]:
        for _, row in read_numbered(job, self.rows):
            parent = next((p for p in row.get("parents") or () if p in ids), None)
            leak = held.leak(prompt_entry(row))
            if parent:
                leak = Leak("made-from-test", f"was made from the test row {parent}")
            if leak is None:
                yield row
            else:
                drops.add(row, leak.reason, leak.detail)

    def forecast(self, inputs: Inputs) -> Forecast:
        """Rows that are kept stay as they are."""
        return Forecast(passes=("rows",))
