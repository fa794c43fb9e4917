"""`review.apply`: rows with people's decisions applied."""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from finery import (
    DataError,
    Dataset,
    Files,
    Inputs,
    Job,
    Key,
    Note,
    Step,
    UsageError,
    setting,
    takes,
)
from finery.advanced import About, Graph, Node, nearest, shown
from finery.rows import Row
from finery.rows.dropped import Drops, Findings
from finery.rows.parts import read_numbered, row_id_of, row_label
from finery_data.checks.labels import CONFLICT, contradictions
from finery_review.decisions import (
    Decision,
    Earlier,
    Standing,
    apply_decision,
    on_rows_gone,
    parents_of,
    parse,
    prompt_hash,
)

WORDS = {"accept": "accepted", "reject": "rejected", "edit": "edited", "swap": "swapped"}
LISTED = 5
"""Undecided rows that an error lists."""


class Apply(Step, seeded=False, version="1"):
    """Apply the decisions made in `finery review`: drop rejected rows, apply edits.

    `finery review STEP`, where STEP is the step in `rows`, writes the decisions to `reviews`.
    Accepted rows stay as they are. Rejected rows are dropped, with who rejected them and why. An
    edited row replaces the old one, which becomes its parent. In a swapped preference, `chosen` and
    `rejected` change places. If a row has changed since its decision, the decision doesn't count:
    the row is undecided again, and the log says so. Rows whose labels still contradict those of
    similar rows are found as by `data.validate`.
    """

    rows: Dataset = takes(help="The reviewed rows.", uses_name=True)
    reviews: Files = setting(
        may_be="missing",
        help="The file of decisions, in JSON lines. It needn't exist before the first decision.",
        examples=["reviews/candidates.jsonl"],
    )
    undecided: Literal["keep", "drop", "stop"] = setting(
        "keep",
        help="What happens to undecided rows. keep: they stay, and a review removes "
        "bad rows. drop: only accepted or edited rows stay. stop: an error lists them.",
    )

    def check(self) -> None:
        """Raise `UsageError` unless `reviews` is one file of JSON lines."""
        patterns = self.reviews.patterns
        one = len(patterns) == 1 and not set(patterns[0]) & set("*?[")
        # Where a folder is named, the files in it are found.
        if not one or not patterns[0].endswith(".jsonl") or len(self.reviews.paths) > 1:
            raise UsageError(
                "`reviews` must be one file of JSON lines",
                where="reviews",
                fix=f"reviews: reviews/{self.rows.ref or 'rows'}.jsonl",
            )

    def run(self, job: Job) -> Dataset:
        """Write the rows with decisions applied, and the rejected rows."""
        review = _Review(self, job)
        with Drops(job.out) as drops:
            dataset = Dataset.write(job.out, review.decided(job, drops))
        if self.undecided == "stop" and review.open:
            raise review.error()
        drops.refuse_nothing_left(len(dataset), f"review more rows: finery review {self.rows.name}")
        job.log(review.summary())
        job.log(drops.summary(len(dataset)))
        dataset.meta |= drops.meta()
        with Findings(job.out) as findings:
            for number, row, what in contradictions(dataset, job.scratch):
                findings.add(number, row, [(CONFLICT, what)])
        dataset.meta |= findings.meta()
        return dataset

    def cache_key(self) -> Key:
        """What compares the prompts."""
        return Key(packages=("rensa",))

    def trace_rows(self, ids: Collection[str], job: Job) -> Iterator[tuple[str, str]]:
        """The line of the decision on each row with one of `ids`, and what it says."""
        for path in self.reviews.paths:
            for number, line in enumerate(path.read_bytes().splitlines(), 1):
                for decision in parse(line + b"\n", shown(path), number - 1)[0]:
                    if decision.id in ids:
                        by = f" by {decision.by}" if decision.by else ""
                        yield decision.id, f"{shown(path)}:{number} ({decision.do}{by})"

    def advise(self, inputs: Inputs) -> Iterator[Note]:
        """A note if there are no decisions."""
        path = reviews_file(inputs.graph, inputs.node)
        if path.exists():
            return
        others = [p.name for p in path.parent.glob("*.jsonl")] if path.parent.is_dir() else []
        near = nearest(path.name, others)
        if not near and inputs.graph.nodes[self.rows.ref.partition(".")[0]].use == "data.audit":
            return  # the note `suspect-labels` says which rows are undecided
        yield Note(
            name="no-decisions",
            text=f"{self.reviews} doesn't exist yet: all rows of {self.rows.ref} are undecided",
            fix=f"{f'did you mean {near}? Else: ' if near else ''}finery review {self.rows.ref}",
            place=(*inputs.node.place, "reviews"),
        )


class _Review:
    """The decisions of one run and their effect. open: the first undecided rows."""

    def __init__(self, step: Apply, job: Job) -> None:
        self._step = step
        self._standing = _standing(step.reviews, job)
        wanted = {decision.id for decision in self._standing}
        rows = map(row_id_of, self._step.rows) if wanted else ()
        there = {row for row in rows if row in wanted}
        self._earlier = Earlier(decision for decision in self._standing if decision.id not in there)
        self._counts = Counter[str]()
        self.open: list[str] = []

    def decided(self, job: Job, drops: Drops) -> Iterator[Row]:
        """The remaining rows with decisions applied."""
        for number, row in read_numbered(job, [self._step.rows]):
            decision = self._standing.of(row_id_of(row))
            if decision is None or not decision.decides:
                stale = (
                    self._earlier.count > 0
                    and self._earlier.of(parents_of(row), prompt_hash(row)) is not None
                )
                self._counts["undecided"] += 1
                self._counts["stale"] += stale
                if self._step.undecided == "keep":
                    yield row
                elif self._step.undecided == "drop":
                    drops.add(row, "undecided", "has changed since its decision" if stale else "")
                elif len(self.open) < LISTED:
                    changed = ", which has changed since its decision" if stale else ""
                    self.open.append(f"{row_label(number, row)}{changed}")
                continue
            self._counts[decision.do] += 1
            decided = self._applied(number, row, decision)
            if decided is not None:
                yield decided
            else:
                by = f"by {decision.by}" if decision.by else ""
                drops.add(
                    row, "rejected", ": ".join(text for text in (by, decision.reason) if text)
                )

    def _applied(self, number: int, row: Row, decision: Decision) -> Row | None:
        try:
            return apply_decision(row, decision)
        except DataError as error:
            raise DataError(
                f"its decision ({decision.do}) doesn't fit: {error.what}",
                where=row_label(number, row),
                fix=f"decide again: finery review {self._step.rows.name}",
            ) from error

    def error(self) -> DataError:
        """The error for undecided rows."""
        total = self._counts["undecided"]
        more = [f"… and {total - LISTED:,} more"] if total > LISTED else []
        return DataError(
            f"{total:,} of {len(self._step.rows):,} rows are undecided",
            details=[*self.open, *more],
            fix=f"finery review {self._step.rows.name}, or undecided: keep | drop",
        )

    def summary(self) -> str:
        """A line for the log: decisions by kind, and how many rows are undecided."""
        counts = self._counts
        parts = [f"{counts[do]:,} {word}" for do, word in WORDS.items() if counts[do]]
        parts += [f"{counts['undecided']:,} undecided ({self._step.undecided})"]
        if counts["stale"]:
            parts.append(f"{counts['stale']:,} of these have changed since their decision")
        gone = self._earlier.count
        about = f"; {on_rows_gone(gone)}" if gone else ""
        return f"rows: {', '.join(parts)}{about}"


def _standing(reviews: Files, job: Job) -> Standing:
    if not reviews.paths:
        job.log(f"no decisions yet: there is no {reviews}")
        return Standing()
    decisions, rest = parse(reviews.paths[0].read_bytes(), str(reviews))
    if rest:
        job.log(f"the last line of {reviews} is incomplete ({len(rest):,} bytes) and was ignored")
    return Standing(decisions)


ABOUT = {
    "no-decisions": About(
        when="the file of decisions of a `review.apply` doesn't exist, unless it takes the rows of "
        "a `data.audit`, for which there is the note `suspect-labels`",
        why="Before the first decision, this is normal. Afterwards, the name is wrong, and all "
        "rows are undecided: `undecided` says whether they go on.",
    )
}


def reviews_file(graph: Graph, node: Node) -> Path:
    """The file of decisions that a `review.apply` takes."""
    step = node.step
    assert isinstance(step, Apply)
    folder, path = graph.recipe.folder.absolute(), Path(step.reviews.patterns[0])
    try:
        return folder / path.expanduser()
    except RuntimeError:
        raise DataError(f"there is no user {path.parts[0]}", fix="write the whole path") from None


def default_file(graph: Graph, ref: str) -> Path:
    """The file of decisions on rows that no `review.apply` takes."""
    return graph.recipe.folder.absolute() / "reviews" / f"{ref}.jsonl"
