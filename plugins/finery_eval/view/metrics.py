"""The view of `Metrics`: scores, the evaluator's tables, confusion, wrong answers."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from finery import Detail, Manifest, Metrics, Output, View, counted, print_labelled
from finery_eval.view.answers import answer_of, compact, reasons
from finery_eval.view.scores import (
    comparable,
    confusion_table,
    plain_table,
    print_interval_note,
    print_scores,
)

if TYPE_CHECKING:
    from rich.console import Console

MARKS = {True: ("✓ right", "green"), False: ("✗ wrong", "red")}


class MetricsView(View):
    """How evaluations look."""

    def brief(self, manifest: Manifest) -> str:
        """How many rows the models were judged on."""
        return counted(manifest.meta["rows"], "row")

    def data(self, output: Output, detail: Detail) -> dict[str, Any]:
        """What `metrics.json` holds."""
        return {"metrics": _metrics_of(output).report()}

    def print(self, console: "Console", output: Output, detail: Detail) -> None:
        """Print all that the evaluator found out, and the first wrong answers."""
        metrics = _metrics_of(output)
        report = metrics.report()
        print_scores(console, {"": report})
        print_interval_note(console, {"": report})
        for table in report["details"].get("tables", []):
            console.print(plain_table(table))
        for model, fields in report["details"].get("confusion", {}).items():
            for name, matrix in fields.items():
                console.print(confusion_table(model, name, matrix))
        wrong = (p for p in metrics.predictions() if p.get("correct") is False)
        _print_wrong(console, list(islice(wrong, detail.rows)))

    def print_together(self, console: "Console", outputs: Sequence[Output]) -> None:
        """Print a table of all models that were judged; several where metrics differ."""
        reports = {output.title: _metrics_of(output).report() for output in outputs}
        for group in comparable(reports):
            print_scores(console, group)
        print_interval_note(console, reports)

    def row_event(self, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """A model's answer, right or wrong, what was expected, and why it is wrong."""
        correct = facts.get("correct")
        yield str(facts.get("model", "")), "bold"
        if isinstance(correct, bool):
            yield MARKS[correct]
        if "answer" in facts:
            yield answer_of(facts), ""
        if correct is False and "expected" in facts:
            yield f"(expected {compact(facts['expected'])})", "dim"
        for reason in reasons(facts):
            yield f"why: {reason}", "dim"


def _metrics_of(output: Output) -> Metrics:
    assert isinstance(output.artifact, Metrics)
    return output.artifact


def _print_wrong(console: "Console", predictions: Sequence[Mapping[str, Any]]) -> None:
    if not predictions:
        return
    console.print("wrong answers:", style="dim")
    for prediction in predictions:
        print_labelled(console, str(prediction.get("model", ""))[:9], str(prediction["id"]))
        if "expected" in prediction:
            print_labelled(console, "expected", compact(prediction["expected"]))
        if "answer" in prediction:
            print_labelled(console, "answered", answer_of(prediction), "red")
        why = "\n".join(reasons(prediction))
        if why:
            print_labelled(console, "why", why)
    console.print("(finery show --row ID: where a row comes from)", style="dim")
