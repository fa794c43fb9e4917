"""Metrics over documents, and the tables and log lines that both evaluators share.

Input: values of questions, scores and differences. Output: measures in which questions about one
document count together, and tables for a report.
"""

from collections.abc import Mapping, Sequence

from finery import Job
from finery.advanced import counted, range_in_points
from finery.rows.report import Difference, Pair, ReportTable
from finery_eval import stats
from finery_eval.measure import Measure, Value, scores_of

INTERVAL_COLUMN = "95 % CI"
"""A column of intervals in words: two columns wouldn't fit in a terminal of 80."""
FEW_DOCUMENTS = 10
"""Documents below which intervals are rough."""


def log_clusters(job: Job, documents: Sequence[str]) -> None:
    """Log that questions about one document count together, where some do.

    documents: that of each question.
    """
    n = len(set(documents))
    if n == len(documents):
        return
    clusters = f"{counted(len(documents), 'question')} about {counted(n, 'document')}"
    job.log(f"{clusters}: those about one document count together in intervals and tests")
    if n < FEW_DOCUMENTS:
        job.log(f"intervals are rough with so few documents: {n}")


def intervals_table(
    title: str, names: Sequence[str], measures: Mapping[str, Measure]
) -> ReportTable:
    """Every metric of every model or index, with its interval."""
    scores = scores_of(names, measures)
    rows = [
        [
            metric,
            name,
            scores[name][metric].value,
            share_interval(scores[name][metric].interval or ()),
        ]
        for metric in dict.fromkeys(
            metric for metrics_of_name in scores.values() for metric in metrics_of_name
        )
        for name in names
        if metric in scores[name]
    ]
    return ReportTable(
        title, ["metric", "of", "score", INTERVAL_COLUMN], rows, units={"score": "share"}
    )


def share_interval(interval: Sequence[float]) -> str:
    """The interval of a share in percent: `51.0 to 100.0`."""
    return " to ".join(f"{100 * end:.1f}" for end in interval)


def pairs_tables(pairs: Sequence[Pair], metrics: Sequence[str]) -> list[ReportTable]:
    """Everything compared with the first model or index, a table; none if there is only one.

    The p-values of a table are adjusted for their number (Holm 1979).
    """
    if not pairs:
        return []
    baseline = pairs[0].baseline
    differences = [
        (metric, pair.model, pair.metrics[metric])
        for metric in metrics
        for pair in pairs
        if pair.baseline == baseline and metric in pair.metrics
    ]
    return [differences_table(f"Compared with {baseline}", ["metric", "of"], differences)]


def differences_table(
    title: str, columns: Sequence[str], compared: Sequence[tuple[str, str, Difference]]
) -> ReportTable:
    """Differences with intervals and adjusted p-values. columns: of the two texts of each."""
    adjusted = stats.holm([d.p_value for _, _, d in compared])
    rows = [
        [first_text, second_text, d.value, range_in_points(d.interval), p]
        for (first_text, second_text, d), p in zip(compared, adjusted, strict=True)
    ]
    names = [*columns, "points", INTERVAL_COLUMN, "p (Holm)"]
    return ReportTable(title, names, rows, units={"points": "difference", "p (Holm)": "p"})


def measure_over_documents(
    values: Mapping[str, Sequence[Value]], documents: Sequence[str]
) -> Measure:
    """A metric. values: name of a model or index → its value of each question, from 0 to 1.

    documents: that of each question. They are drawn; if each question is about a document of its
    own, questions are independent.
    """
    questions_by_document: dict[str, list[int]] = {}
    for number, document in enumerate(documents):
        questions_by_document.setdefault(document, []).append(number)
    if len(questions_by_document) == len(documents):
        return Measure(values)
    counts = [
        any(numbers[i] is not None for numbers in values.values()) for i in range(len(documents))
    ]
    return Measure(
        values,
        [numbers for numbers in questions_by_document.values() if any(counts[i] for i in numbers)],
    )
