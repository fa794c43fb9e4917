"""Tables of scores."""

from typing import Any

from finery.cli.tables import comparable


def report(rows: int, *metrics: str) -> dict[str, Any]:
    """An evaluator's report of one model."""
    scores = {"base": dict.fromkeys(metrics, 0.5)}
    return {"rows": rows, "scores": scores, "intervals": {}, "details": {}}


def test_the_same_metrics_on_as_many_rows_share_a_table() -> None:
    reports = {"test": report(8, "accuracy"), "exported": report(8, "accuracy")}
    assert comparable(reports) == [reports]


def test_no_evaluator_is_lost_when_only_its_metrics_differ() -> None:
    reports = {"test": report(8, "accuracy", "macro_f1"), "exact": report(8, "accuracy")}
    assert [list(group) for group in comparable(reports)] == [["test"], ["exact"]]
