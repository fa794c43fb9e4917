"""Describes what was lost: the comparison of each model with the first."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from finery.util.text import in_points, percent, range_in_points
from finery_eval.tables import remark, table

SOLVED = "solved"
PROBABILITY = "byte_probability"
UNBOUNDED: Mapping[str, Literal["higher", "lower"]] = {
    "bits_per_byte": "lower",
    "perplexity": "lower",
}
"""The metrics that aren't shares → which of their values are better."""
NOUNS = {SOLVED: "tasks", PROBABILITY: "text"}
Verdict = Literal["kept", "lost", "unclear"]
TRAIN_LESS = (
    "Train it less (a lower learning rate, fewer epochs, a smaller rank), or add general rows to "
    "its training."
)


class Finding(NamedTuple):
    """A model next to the first one, in one metric. value, low, high: the difference."""

    model: str
    baseline: str
    metric: str
    value: float
    low: float
    high: float
    p_value: float
    verdict: Verdict

    @property
    def points(self) -> str:
        """The difference and its interval in points."""
        interval = range_in_points((self.low, self.high))
        return f"{in_points(self.value)} points (95 % CI {interval})"


def findings(pairs: Sequence[Mapping[str, Any]], first: str, margin: float) -> list[Finding]:
    """Each model compared with the first. pairs: see `finery_eval.measure.pairs_of`.

    lost: the interval of the difference is below 0 by more than the margin. kept: a loss as large
    as the margin is outside the interval (non-inferiority).
    """
    return [
        _finding(pair, metric, facts, margin)
        for pair in pairs
        if pair["baseline"] == first
        for metric, facts in pair["metrics"].items()
    ]


def _finding(
    pair: Mapping[str, Any], metric: str, facts: Mapping[str, Any], margin: float
) -> Finding:
    low, high = facts["interval"]
    verdict: Verdict = "lost" if high < -margin else "kept" if low > -margin else "unclear"
    value, p_value = facts["difference"], facts["p_value"]
    return Finding(pair["model"], pair["baseline"], metric, value, low, high, p_value, verdict)


def finding_tables(found: Sequence[Finding], margin: float) -> list[dict[str, Any]]:
    """The table of the findings; empty if there is only one model."""
    if not found:
        return []
    words = {"kept": "kept", "lost": "lost", "unclear": "unclear: too few items"}
    columns = ["model", "on", "points", "95 % CI low", "95 % CI high", "p", "verdict"]
    rows = [
        [f.model, NOUNS[f.metric], f.value, f.low, f.high, f.p_value, words[f.verdict]]
        for f in found
    ]
    units = {**dict.fromkeys(columns[2:5], "difference"), "p": "p"}
    title = f"Compared with {found[0].baseline}; a loss of up to {100 * margin:g} points is allowed"
    return [table(title, columns, rows, units=units)]  # type: ignore[arg-type]


def remarks(
    found: Sequence[Finding], scores: Mapping[str, Mapping[str, float]], first: str, margin: float
) -> Iterator[dict[str, str]]:
    """A remark on each loss, on inconclusive results, and on tasks that no model can solve.

    Each has its `verdict`, `lost` or `unclear`, on which the report's answer is based.
    """
    solved = scores[first].get(SOLVED)
    if solved is not None and solved <= margin:
        yield _unclear(
            f"{first} solves only {percent(solved)} of the tasks, so they can't show a loss",
            "Choose other `tasks`, or rely on the text.",
        )
    for finding in found:
        if finding.verdict == "lost":
            yield remark(_lost(finding, scores), TRAIN_LESS) | {"verdict": finding.verdict}
        elif finding.verdict == "unclear":
            yield _unclear(
                f"it is unclear from the {NOUNS[finding.metric]} whether {finding.model} forgot: "
                f"{finding.points} against {finding.baseline}",
                "Raise `items`." if finding.metric == SOLVED else "Name a longer `text`.",
            )


def _unclear(text: str, advice: str) -> dict[str, str]:
    return remark(text, advice, warning=False) | {"verdict": "unclear"}


def _lost(finding: Finding, scores: Mapping[str, Mapping[str, float]]) -> str:
    own, base = scores[finding.model], scores[finding.baseline]
    if finding.metric == SOLVED:
        return (
            f"{finding.model} forgot: it solves {percent(own[SOLVED])} of the general tasks, "
            f"{finding.baseline} {percent(base[SOLVED])}: {finding.points}"
        )
    return (
        f"{finding.model} forgot: its perplexity on general text is {own['perplexity']:,.1f}, "
        f"that of {finding.baseline} {base['perplexity']:,.1f}; probability of a byte "
        f"{finding.points}"
    )


def in_words(finding: Finding) -> str:
    """A line for the log."""
    words = {
        "kept": "kept what it knew",
        "lost": "forgot",
        "unclear": "may have forgotten: too few items to tell",
    }
    about = f"{NOUNS[finding.metric]}, {finding.points} against {finding.baseline}"
    return f"{finding.model} {words[finding.verdict]} ({about})"
