"""The view of `Metrics`: scores, tables, confusion, exported files, wrong answers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from finery import Manifest, Metrics, UsageError
from finery.rows.report import Export, Report
from finery.util.text import counted, did_you_mean, in_points, percent, range_in_points, size
from finery.views import (
    Detail,
    Output,
    Page,
    PageContext,
    PageSection,
    Remark,
    View,
    print_labelled,
    render_sections,
)
from finery_eval.evaluation import SPEED
from finery_eval.steps.classification import confusion_of
from finery_eval.steps.speed import TIMED
from finery_eval.tables import WORSE, verdict_of
from finery_eval.view.answers import (
    answer_of,
    compact,
    context_of,
    print_question,
    reasons,
    record_lines,
    turn_of,
    wrong_records,
)
from finery_eval.view.confusion import print_confusion
from finery_eval.view.findings import remarks_on
from finery_eval.view.judgements import judgements
from finery_eval.view.learning import learned, plotted
from finery_eval.view.tables import (
    Column,
    comparable,
    headline,
    own_words,
    p_text,
    print_columns,
    print_interval_note,
    print_scores,
    print_table,
)

if TYPE_CHECKING:
    from rich.console import Console

# -- exported files next to the trained model, and the best model next to cheap baselines ---------


UNKNOWN = "–"


def is_worse(export: Export) -> bool:
    """Whether a file is significantly worse than the model that it was exported from."""
    test = export.comparison
    return test is not None and verdict_of(test.value, test.p_value) == WORSE


def print_exports(console: "Console", report: Report, runtime: Mapping[str, Any]) -> None:
    """Print a row for each exported file, and what to know about the differences.

    runtime: that of the metrics, with the measured speeds.
    """
    exports = report.exports
    if not exports:
        return
    metric, *_ = headline(report)
    rows, missing = [], []
    for export in exports:
        name, difference = export.model, (UNKNOWN, "", "")
        if test := export.comparison:
            points = f"{in_points(test.value)} ({test.baseline})"
            difference = points, range_in_points(test.interval), p_text(test.p_value)
        else:
            missing.append(name)
        score, speed = report.score(name, metric), runtime.get(SPEED, {}).get(name)
        speed_text = UNKNOWN if speed is None else f"{speed:,.0f}"
        score_text = UNKNOWN if score is None else percent(score.value)
        rows.append((name, size(export.size), speed_text, score_text, *difference))
    heads = ("model", "size", "tokens/s", metric, "to the trained model", "95 % CI", "p")
    columns = [
        Column(head, list(cells), is_number=head != "model")
        for head, cells in zip(heads, zip(*rows, strict=True), strict=True)
    ]
    styles = ["yellow" if is_worse(export) else "" for export in exports]
    print_columns(console, "Exported files", columns, styles)
    if len(missing) < len(exports):
        text = "to the trained model: points of the same rows, paired"
        console.print(text, style="dim", markup=False)
    if missing:
        text = f"To compare {', '.join(missing)} with the trained model, add that to `models`: its "
        console.print(f"{text}answers to these rows are cached", style="dim", markup=False)
    for remark in export_remarks(report):
        console.print(f"{remark.text}. {remark.advice}", style="yellow", markup=False)


def export_remarks(report: Report) -> Iterator[Remark]:
    """A warning for each file that is significantly worse than the model it was exported from."""
    for export in report.exports:
        if (test := export.comparison) and is_worse(export):
            yield Remark(
                f"{export.model} is significantly worse than {test.baseline}: "
                f"{in_points(test.value)} points (95 % CI {range_in_points(test.interval)})",
                "Ship a file with more bits.",
                "warning",
            )


# -- the view -------------------------------------------------------------------------------------


MOST_LINES = 40
"""Most lines of per-model tables that are printed for all models."""
THINKING = 300
"""Characters that are shown of what a model thought before a wrong answer."""
MARKS = {True: ("✓ right", "green"), False: ("✗ wrong", "red")}


class MetricsView(View):
    """The view of evaluations."""

    def brief(self, manifest: Manifest) -> str:
        """The number of rows that the models were judged on."""
        return counted(manifest.meta["rows"], "row")

    def data(self, output: Output, detail: Detail) -> dict[str, Any]:
        """The content of `metrics.json`, and the measured speeds of files."""
        metrics = _metrics_of(output)
        return {"metrics": metrics.report().data(), **metrics.runtime}

    def section(self, outputs: Sequence[Output], context: PageContext) -> PageSection:
        """Scores with intervals and tests, tables, and every answer with filters."""
        from finery_eval.view.section import section_of

        return section_of(outputs, context)

    def page(self, outputs: Sequence[Output], context: PageContext) -> Page:
        """The same about one evaluation, as a page."""
        section = self.section(outputs, context)
        return Page(render_sections(context.title, [section], findings=section.findings))

    def difference(self, before: Output, after: Output) -> dict[str, Any]:
        """Scores with paired tests, and the answers that flipped."""
        from finery_eval.view.difference import difference_of

        return difference_of(_metrics_of(before), _metrics_of(after))

    def print_difference(
        self, console: "Console", before: Output, after: Output, data: Mapping[str, Any], most: int
    ) -> None:
        """Print the scores side by side, and the first answers that flipped each way."""
        from finery_eval.view.difference import print_difference

        print_difference(console, data, most)

    def remarks(self, output: Output) -> Iterator[Remark]:
        """Exported files and the exported model against others, and the evaluator's remarks."""
        report = _metrics_of(output).report()
        node = output.graph.nodes.get(output.step) if output.graph is not None else None
        is_variant = node is not None and node.variant  # of which there may be many
        yield from (r for r in _verdicts(output) if r.severity == "warning" or not is_variant)
        yield from (*export_remarks(report), *own_remarks(report))
        for doubt in node.step.doubts({"": output.artifact}) if node and not is_variant else ():
            yield Remark(doubt, severity="warning")

    def print(self, console: "Console", output: Output, detail: Detail) -> None:
        """Print scores, the evaluator's tables, confused classes and the first wrong answers.

        Of many tables a model, only those of the best model are printed, unless one is picked.
        """
        metrics = _metrics_of(output)
        report = metrics.report()
        best = _chosen(output, report, detail)
        print_scores(console, {"": report})
        only = best if detail.model or _per_model_lines(report) > MOST_LINES else None
        print_interval_note(console, {"": report})
        for text in own_words(report):
            console.print(f"{text}.", style="yellow", markup=False, highlight=False)
        curve = learned(report)
        for line in plotted(curve, console.width) if curve is not None else ():
            console.print(line, no_wrap=True, overflow="crop")
        print_exports(console, report, metrics.runtime)
        for remark in (*_verdicts(output), *own_remarks(report)):
            style = "yellow" if remark.severity == "warning" else ""
            console.print(f"{remark.text}. {remark.advice}".strip(), style=style, markup=False)
        for table in report.tables:
            if only is None or table.model in (only, UNSET):
                print_table(console, table)
        for model, fields in confusion_of(report).items():
            if only not in (model, None):
                continue
            for name, matrix in fields.items():
                print_confusion(console, model, name, matrix, _of(metrics, model))
        others = [model for model in report.scores if model != best]
        if only and others and not detail.model:
            hint = f"finery show {output.title} --model {others[0]}"
            _print_dim(console, f"(tables of {', '.join(others)}: {hint})")
        _print_wrong(console, output.title, best, metrics, detail.rows, others)

    def records(
        self, output: Output, detail: Detail, context: PageContext
    ) -> Iterator[dict[str, Any]]:
        """The wrong answers of a model, with their rows and the nearest training rows."""
        metrics = _metrics_of(output)
        report = metrics.report()
        model = _chosen(output, report, detail)
        return wrong_records(metrics, output.step, model, context)

    def record_lines(self, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """A wrong answer, line by line."""
        return record_lines(record)

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
        if "turn" in facts:
            yield turn_of(facts), "dim"
        if "context" in facts:
            yield context_of(facts), "dim"
        if isinstance(correct, bool):
            yield MARKS[correct]
        if "answer" in facts:
            yield answer_of(facts), ""
        if correct is False and "expected" in facts:
            yield f"(expected {compact(facts['expected'])})", "dim"
        for reason in reasons(facts):
            yield f"why: {reason}", "dim"


def own_remarks(report: Report) -> Iterator[Remark]:
    """What the evaluator itself remarks, see `finery_eval.tables.remark`."""
    for remark in report.remarks:
        yield Remark(remark.text, remark.advice, remark.severity)


def _verdicts(output: Output) -> Iterator[Remark]:
    """The exported model against the others, if it is known which one that is."""
    if output.graph is not None:
        cut = _metrics_of(output).report().truncated
        judged = judgements([output], output.graph, answers=any(cut.values()))
        learns = any(node.trains for node in output.graph.nodes.values())
        yield from remarks_on(judged, has_training=learns)


def _metrics_of(output: Output) -> Metrics:
    assert isinstance(output.artifact, Metrics)
    return output.artifact


def _chosen(output: Output, report: Report, detail: Detail) -> str:
    """The model to show: that of `--model`, else the best."""
    chosen = detail.model or best_model(report)
    if chosen not in report.scores:
        raise UsageError(
            f"{output.title} judged no model '{chosen}'",
            where="--model",
            fix=did_you_mean(chosen, report.scores),
        )
    return chosen


def best_model(report: Report) -> str:
    """The model with the best value of the first metric; the last of equally good ones.

    Of models that were timed, it is the fastest one. A cheap baseline only counts if nothing else
    is judged. A reference that an evaluator adds, such as the model before it was served, never
    counts.
    """
    metric, *_ = headline(report)
    judged = [name for name in report.scores if name not in report.references]
    models = [name for name in judged if name not in report.baselines] or judged
    sign = -1 if TIMED in report.extra else 1

    def value(model: str) -> float:
        score = report.score(model, metric)
        return sign * score.value if score else 0.0

    return max(reversed(models), key=value)


def _of(metrics: Metrics, model: str) -> Iterator[Mapping[str, Any]]:
    """The answers of a model."""
    return (p for p in metrics.predictions() if p.get("model") == model)


def _per_model_lines(report: Report) -> int:
    """Lines of the tables that are about one model."""
    lines = sum(len(table.rows) for table in report.tables if table.model)
    matrices = (matrix for of in confusion_of(report).values() for matrix in of.values())
    return lines + sum(len(matrix.labels) for matrix in matrices)


def _print_wrong(
    console: "Console", title: str, model: str, metrics: Metrics, most: int, others: Sequence[str]
) -> None:
    """Print the first wrong answers of a model and where to see more.

    If it has none, print which other model has some.
    """

    def wrong_answers(model: str) -> list[Mapping[str, Any]]:
        return [p for p in _of(metrics, model) if p.get("correct") is False]

    wrong = wrong_answers(model) if most else []
    if not wrong:
        other = next(filter(wrong_answers, others), None) if most else None
        if other is not None:
            hint = f"those of {other}: finery show {title} --model {other}"
            _print_dim(console, f"({model} has no wrong answers; {hint})")
        return
    _print_dim(console, f"wrong answers of {model}, {min(most, len(wrong))} of {len(wrong):,}:")
    for prediction in wrong[:most]:
        print_question(console, prediction)
        if thinking := str(prediction.get("reasoning") or ""):
            cut = thinking if len(thinking) <= THINKING else f"{thinking[: THINKING - 1]}…"
            print_labelled(console, "thought", cut, "dim")
        if "answer" in prediction:
            print_labelled(console, "answered", answer_of(prediction), "red")
        if why := "\n".join(reasons(prediction)):
            print_labelled(console, "why", why)
    hints = [f"-n {len(wrong)}: all"] if len(wrong) > most else []
    hints += [f"--model {others[0]}: of another model"] if others else []
    hints += ["--wrong: with the nearest training rows", "--row ID: where a row comes from"]
    _print_dim(console, f"(finery show {title} {'; '.join(hints)})")


def _print_dim(console: "Console", text: str) -> None:
    console.print(text, style="dim", markup=False, soft_wrap=True)
