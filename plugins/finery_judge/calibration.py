"""Human decisions: the answers that people judged, and what follows for the judge."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from finery import Dataset, OptionalFiles
from finery.rows import Row
from finery.util.text import counted
from finery_eval.tables import remark, table
from finery_judge.agreement import SUBSTANTIAL, Agreement, Score, corrected, in_words
from finery_review.decisions import Standing, parse

GOOD = {"accept": True, "reject": False, "edit": False}
"""The verdict of a decision on the unchanged row. A comment or a swap has none."""


class Decided(NamedTuple):
    """A row with an answer that a person judged."""

    row: Row
    is_good: bool


def decided(rows: Dataset, reviews: OptionalFiles) -> list[Decided]:
    """The reviewed rows that people accepted, rejected or edited, in the order of the rows.

    An edited row counts as bad, since its answer had to be changed. Raises `DataError` for a broken
    file of decisions.
    """
    contents = [path.read_bytes() for path in reviews.paths]
    standing = Standing(d for content in contents for d in parse(content, str(reviews))[0])
    found = []
    for row in rows:
        decision = standing.of(row["id"])
        if decision is not None and decision.do in GOOD:
            found.append(Decided(row, GOOD[decision.do]))
    return found


def corrected_scores(
    passed: Mapping[str, tuple[int, int]], judge: Agreement | None, effective: float | None = None
) -> dict[str, Score]:
    """Model → corrected share of good answers. passed: model → (passed answers, all answers).

    effective: the number of independent answers that they count as; None for all.
    """
    if judge is None:
        return {}
    counts = {name: (n, rows, (effective or rows) / rows) for name, (n, rows) in passed.items()}
    scores = {
        name: corrected(part * n, part * rows, judge) for name, (n, rows, part) in counts.items()
    }
    return {name: score for name, score in scores.items() if score is not None}


def tables(
    judge: Agreement | None, shares: Mapping[str, float], scores: Mapping[str, Score]
) -> Iterator[dict[str, Any]]:
    """The judge next to people, and the models' shares corrected for its errors."""
    if judge is None:
        return
    columns = ["the judge against people", "value", "95 % CI low", "95 % CI high", "answers"]
    counts = {"sensitivity": judge.accepted, "specificity": judge.rejected}
    rows: list[list[Any]] = [
        [name, value, *interval, counts.get(name, judge.rows)]
        for name, (value, interval) in judge.scores().items()
    ]
    yield table("Calibration", columns, rows)
    if scores:
        columns = ["model", "passed", "corrected", "95 % CI low", "95 % CI high"]
        rows = [[name, shares[name], value, *ci] for name, (value, ci) in scores.items()]
        units: Any = dict.fromkeys(columns[1:], "share")
        yield table("Corrected for the judge's errors (Rogan-Gladen)", columns, rows, units=units)


def remarks(judge: Agreement | None, unread: int) -> Iterator[dict[str, str]]:
    """Remarks on the judge that people must know. unread: reviewed answers without a verdict."""
    if unread:
        yield remark(f"{counted(unread, 'reviewed answer')} got no readable verdict of the judge")
    if judge is None:
        yield remark(
            "the judge isn't calibrated: no reviewed row has a human decision yet",
            "Review some answers: finery review STEP.",
        )
        return
    if judge.kappa is None:
        yield remark(
            f"the judge can't be calibrated: people {_one_sided(judge)} "
            f"all {counted(judge.rows, 'answer')}",
            "Review answers of both kinds.",
        )
        return
    value, (low, high) = judge.kappa
    about = (
        f"kappa {value:z.2f} (95 % CI {low:z.2f} to {high:z.2f}, {counted(judge.rows, 'answer')})"
    )
    if value < SUBSTANTIAL:
        yield remark(
            f"the judge doesn't agree enough with people to be trusted: {in_words(value)} "
            f"agreement, {about}",
            "Make the rubric more precise, show it a `reference`, or name a stronger judge.",
        )
    elif low < SUBSTANTIAL:
        yield remark(
            f"the judge agrees with people ({in_words(value)}), but few decisions show it: {about}",
            "Review more answers.",
            warning=False,
        )


def _one_sided(judge: Agreement) -> str:
    return "rejected" if not judge.accepted else "accepted"


def log_line(judge: Agreement) -> str:
    """A line for the log: the judge's agreement with people."""
    parts = [f"{name} {value:z.2f}" for name, (value, _) in judge.scores().items()]
    return f"the judge against people on {counted(judge.rows, 'answer')}: {', '.join(parts)}"
