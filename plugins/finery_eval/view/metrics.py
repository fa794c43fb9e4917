"""The view of `Metrics`: scores, tables, confusion, exported files, and every answer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from finery import Artifact, Metrics, UsageError
from finery.advanced import Graph, Manifest, counted, did_you_mean, some_of
from finery.rows.report import Report
from finery.views import (
    Column,
    Context,
    Detail,
    Finding,
    Hint,
    Output,
    Part,
    Quantity,
    Record,
    Remark,
    Section,
    Table,
    Text,
    Verdict,
    View,
)
from finery_eval.steps.classification import confusion_of
from finery_eval.steps.curve import TITLES
from finery_eval.steps.speed import TIMED
from finery_eval.view import answers, tables
from finery_eval.view.doubtful import doubtful_finding, doubtful_parts
from finery_eval.view.findings import CLASSES, data_problems, findings, remarks_on
from finery_eval.view.judgements import Judgement, comparisons_of, judgements
from finery_eval.view.releases import since_release
from finery_eval.view.shipping import verdict_on

MOST_LINES = 40
"""Most lines of per-model tables that a terminal shows for all models."""
MOST_DOUBTFUL = 100
"""Most rows with doubtful labels that a page shows."""


class MetricsView(View):
    """The view of evaluations."""

    def brief(self, manifest: Manifest) -> str:
        """The number of rows that the models were judged on."""
        return counted(manifest.meta["rows"], "row")

    def data(self, output: Output, detail: Detail) -> dict[str, Any]:
        """The content of `metrics.json`, and the measured speeds of files."""
        metrics = _metrics_of(output)
        return {"metrics": metrics.report().data(), **metrics.runtime}

    def describe(self, outputs: Sequence[Output], context: Context) -> Iterator[Section]:
        """Scores with intervals and tests, tables, confused classes, and every answer.

        In a summary, a table of all models that were judged; several where metrics differ.
        """
        if context.scope == "summary":
            reports = {output.title: _metrics_of(output).report() for output in outputs}
            scores = [part for group in tables.comparable(reports) for part in tables.scores(group)]
            further = [part for output in outputs for part in _more_in_summary(output, context)]
            notes = tables.interval_notes(reports.values())
            changes = [part for output in outputs for part in since_release(output, context)]
            verdicts = _verdicts(outputs, None, context)
            yield Section("Scores", chain(scores, notes, further, changes, verdicts), rank=10)
        else:
            node = context.graph.nodes.get(outputs[0].step)
            evaluator = f" by {node.use}" if node and context.scope == "output" else ""
            yield Section(f"Scores and answers{evaluator}", _parts(outputs, context), rank=10)

    def compare(self, before: Output, after: Output, context: Context) -> Iterator[Section]:
        """The scores side by side, and the first answers that flipped each way."""
        from finery_eval.view.difference import changed_parts, compared_parts

        data = self.difference(before, after)
        parts = compared_parts(data, context.detail.rows)
        changed = changed_parts(*(_metrics_of(output).report() for output in (before, after)))
        yield Section("Scores and answers", [*parts, *changed])

    def difference(self, before: Output, after: Output) -> dict[str, Any]:
        """Scores with paired tests, and the answers that flipped."""
        from finery_eval.view.difference import difference_of

        return difference_of(_metrics_of(before), _metrics_of(after))

    def remarks(self, output: Output) -> Iterator[Remark]:
        """Exported files and the exported model against others, and the evaluator's remarks."""
        report = _metrics_of(output).report()
        node = output.graph.nodes.get(output.step) if output.graph is not None else None
        is_variant = node is not None and node.variant  # of which there may be many
        if output.graph is not None:
            has_answers = any(report.truncated.values())
            judged = judgements([output], output.graph, answers=has_answers)
            mend = _mend(output.graph, output.built)
            verdicts = remarks_on(judged, has_training=output.graph.has_training, mend=mend)
            yield from (r for r in verdicts if r.severity == "warning" or not is_variant)
        yield from (*tables.export_remarks(report), *report.remarks)
        for doubt in node.doubts({"": output.artifact}) if node and not is_variant else ():
            yield Remark(doubt, severity="warning")

    def records(self, output: Output, context: Context) -> Iterator[Record]:
        """The wrong answers of a model, with their rows and the nearest training rows."""
        metrics = _metrics_of(output)
        report = metrics.report()
        model = _chosen(output.title, report, context.detail)
        answers_of_model = (a for a in metrics.predictions() if a.get("model") == model)
        if not any(isinstance(facts.get("correct"), bool) for facts in answers_of_model):
            metric = tables.headline(report)[0]
            raise UsageError(
                f"{output.title} doesn't say which answers of {model} are wrong: its first metric, "
                f"'{metric}', isn't True or False for any answer",
                where="--wrong",
                fix="name an evaluator whose first metric says whether an answer is right",
            )
        return answers.wrong_answers(metrics, output.step, model, context)

    def event(self, facts: Mapping[str, Any]) -> Iterator[Text]:
        """A model's answer, right or wrong, what was expected, and why it is wrong."""
        correct = facts.get("correct")
        yield Text(str(facts.get("model", "")), "strong")
        if "turn" in facts:
            yield Text(answers.turn_of(facts), "soft")
        if "context" in facts:
            yield Text(answers.context_of(facts), "soft")
        if isinstance(correct, bool):
            yield Text("✓ right", "good") if correct else Text("✗ wrong", "bad")
        if "answer" in facts:
            yield Text(answers.answer_of(facts))
        if correct is False and "expected" in facts:
            yield Text(f"(expected {answers.compact(facts['expected'])})", "soft")
        for reason in answers.reasons(facts):
            yield Text(f"why: {reason}", "soft")


def _mend(graph: Graph, built: Callable[[str], Artifact | None]) -> str:
    """What to do about the rows of a training before all else; empty if nothing is known."""
    return next((mend for *_, mend in data_problems(graph, built)), "")


def _verdicts(
    outputs: Sequence[Output], judged: Sequence[Judgement] | None, context: Context
) -> Iterator[Verdict]:
    """What to ship, if that is asked for."""
    if context.gates is not None:
        verdict = verdict_on(judged or judgements(outputs, context.graph), context)
        yield from [verdict] if verdict else []


def _more_in_summary(output: Output, context: Context) -> Iterator[Part]:
    """The evaluator's remarks, and its plots and tables, folded.

    In a terminal, where a build prints remarks, how to see the others, for evaluators of others:
    users know where finery's own are.
    """
    title, report = output.title, _metrics_of(output).report()
    if context.medium != "terminal":
        yield from (replace(remark, text=f"{title}: {remark.text}") for remark in report.remarks)
        parts: list[Part] = [*report.plots, *report.tables]
        yield Section(f"Tables and plots of {title}", parts, is_folded=True)
        return
    node = context.graph.nodes.get(output.step)
    if node and context.graph.plugins.step_types[node.use][1].is_own:
        return
    titles = [part.title for part in report.plots] + [
        part.title for part in tables.own_tables(report)
    ]
    if titles:
        yield Hint(f"{title} also has: {some_of(titles)} (finery show {title})")


def _parts(outputs: Sequence[Output], context: Context) -> Iterator[Part]:
    """The findings, each evaluation, then tests and answers of all of them.

    A terminal has remarks in place of the findings, and only one evaluation.
    """
    judged = judgements(outputs, context.graph)
    by_answer = [each for each in judged if not each.is_timed]
    if context.medium != "terminal":
        yield from _findings(judged, context)
    for output in outputs:
        own = [each for each in judged if each.step == output.step]
        parts = _evaluation(output, own, context) if own else ()
        if context.scope == "output":
            yield from parts
        elif own:
            yield Section(output.title, parts, note=own[0].use)
    if context.scope != "output":
        yield from tables.interval_notes(each.report for each in judged)
    if context.medium != "terminal" and (tests := _tests(by_answer)):
        yield Section("On the same rows", [tests])
    if context.scope == "output":
        yield from _answers_of_one(outputs[0], by_answer, context)
    else:
        yield from answers.browsers(by_answer, context)
    yield from _verdicts(outputs, judged, context)


def _findings(judged: Sequence[Judgement], context: Context) -> Iterator[Finding]:
    yield from findings(judged, has_training=context.graph.has_training)
    for question, text, _ in data_problems(context.graph, context.built):
        yield Finding(question, f"{'No' if question == CLASSES else 'Yes'}. {text}.", "bad", 2)
    yield from doubtful_finding([each for each in judged if not each.is_timed])


def _evaluation(output: Output, judged: Sequence[Judgement], context: Context) -> Iterator[Part]:
    """Scores, what the evaluator says, its tables, and confused classes of one evaluation.

    Of many tables a model, a terminal only has those of the best model, unless one is picked.
    """
    metrics, detail = _metrics_of(output), context.detail
    report = metrics.report()
    best = _chosen(output.title, report, detail)
    is_terminal = context.medium == "terminal"
    only = best if detail.model or (is_terminal and _per_model_lines(report) > MOST_LINES) else ""
    yield from tables.scores({"": report}, {each.model: each.role for each in judged})
    if context.scope == "output":
        yield from tables.interval_notes([report])
    yield from (Text(f"{text}.", "strong") for text in report.words)
    yield from report.plots
    yield from tables.exports(report, metrics.runtime)
    if is_terminal:
        has_training, mend = context.graph.has_training, _mend(context.graph, context.built)
        yield from remarks_on(judged, has_training=has_training, mend=mend)
    yield from report.remarks
    # What readers ask for: a learning curve, a verdict on a baseline, or slices.
    tuned = [each.model for each in judged if each.role == "tuned"]
    starts = (*TITLES, *(f"{model} against the baseline " for model in tuned))
    stored = [t for t in report.tables if not only or t.model in (only, UNSET)]
    first = [t for t in stored if t.title.startswith(starts) or t.columns[0] in report.slices]
    yield from first
    if remaining := [t for t in stored if t not in first]:
        if is_terminal:  # which folds nothing
            yield from remaining
        else:
            titles = some_of([t.title for t in remaining])
            yield Section("More tables", remaining, note=titles, is_folded=True)
    by_model = {each.model: each.answers for each in judged}
    yield from doubtful_parts(judged, detail.rows if is_terminal else MOST_DOUBTFUL)
    if confused := list(tables.matrices(report, by_model, only)):
        yield Section("Confused classes", confused, is_folded=True)
    yield from since_release(output, context)
    hidden = [model for model in report.scores if model != best]
    if only and hidden and not detail.model:
        hint = f"finery show {output.title} --model {hidden[0]}"
        yield Hint(f"(tables of {', '.join(hidden)}: {hint})")


def _answers_of_one(
    output: Output, judged: Sequence[Judgement], context: Context
) -> Iterator[Part]:
    """The answers of an evaluation. If the model that is looked at has no wrong ones, which other
    has some."""
    report, title = _metrics_of(output).report(), output.title
    model = _chosen(title, report, context.detail)
    wrong = {
        each.model: sum(facts.get("correct") is False for facts in each.answers) for each in judged
    }
    rivals = [name for name in wrong if name != model]
    count = wrong.get(model, 0)
    if not count and context.detail.rows and (rival := next(filter(wrong.get, rivals), "")):
        hint = f"those of {rival}: finery show {title} --model {rival}"
        yield Hint(f"({model} has no wrong answers; {hint})")
    hints = [f"-n {count}: all"] if count > context.detail.rows else []
    hints += [f"--model {rivals[0]}: of another model"] if rivals else []
    hints += ["--wrong: with the nearest training rows", "--row ID: where a row comes from"]
    for records in answers.browsers(judged, context, model):
        yield records._replace(more=f"(finery show {title} {'; '.join(hints)})")


def _tests(judged: Sequence[Judgement]) -> Table | None:
    """The paired tests of models in different roles, of all evaluations."""
    rows: list[list[Any]] = [
        [
            models,
            test.metric,
            test.rows,
            Quantity(test.difference.value, "difference", test.difference.interval),
            Quantity(test.difference.p_value, "p"),
            Quantity(test.p_holm, "p"),
        ]
        for models, test in comparisons_of(judged)
    ]
    note = (
        "Paired by row. p is of each comparison by itself; p (Holm) is adjusted as in the tables "
        "of the evaluators: of the metric that decides, for the number of models that are compared "
        "with the first one; of the other metrics of two models, for their number."
    )
    columns = ("models", "metric", Column("answers", 2), "points", Column("p", 2), "p (Holm)")
    return Table(columns, rows, note=note) if rows else None


def _metrics_of(output: Output) -> Metrics:
    assert isinstance(output.artifact, Metrics)
    return output.artifact


def _chosen(title: str, report: Report, detail: Detail) -> str:
    """The model to show: that of `--model`, else the best."""
    chosen = detail.model or best_model(report)
    if chosen not in report.scores:
        raise UsageError(
            f"{title} judged no model '{chosen}'",
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
    metric, *_ = tables.headline(report)
    judged = [name for name in report.scores if name not in report.references]
    models = [name for name in judged if name not in report.baselines] or judged
    sign = -1 if TIMED in report.extra else 1

    def value(model: str) -> float:
        score = report.score(model, metric)
        return sign * score.value if score else 0.0

    return max(reversed(models), key=value)


def _per_model_lines(report: Report) -> int:
    """Lines of the tables that are about one model."""
    lines = sum(len(t.rows) for t in report.tables if t.model)
    confused = (matrix for m in confusion_of(report).values() for matrix in m.values())
    return lines + sum(len(matrix.labels) for matrix in confused)
