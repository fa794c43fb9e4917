"""The section of a matrix: its variants with their scores, best first, and which one is best."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finery.artifact.manifest import Result
from finery.compare.variants import (
    Line,
    Score,
    are_shares,
    choice_of,
    columns_of,
    in_unit,
    is_close,
    lead_in_words,
    lines_of,
    remarks_on,
    report_of,
    table_of,
)
from finery.recipe.graph import Graph
from finery.recipe.matrix.choose import WINNER
from finery.report.steps import ReportedStep
from finery.store.database import Store
from finery.util.text import counted, duration
from finery.views.parts import Finding, Section, Text, as_text

QUESTION = "Which variant is best?"


class Variants(NamedTuple):
    """The variants of a matrix in a report.

    lines: best first. choice: of `select`, once it is built. shown: the variant that the other
    sections describe; empty for the chosen one, whose steps have their own names. tested: the score
    of the chosen one on the evaluator's own rows, if it was chosen on others.
    """

    graph: Graph
    steps: Sequence[ReportedStep]
    lines: Sequence[Line]
    choice: Mapping[str, Any] | None
    shown: str
    tested: Score | None = None


def variants_of(graph: Graph, store: Store, steps: Sequence[ReportedStep]) -> Variants | None:
    """The variants of a recipe's matrix; None of a recipe without one."""
    if graph.matrix is None:
        return None
    results: dict[str, Result | None] = {step.node.name: step.result for step in steps}
    states = {step.node.name: step.state for step in steps}
    failed = {name: str(state) for name, state in states.items() if state in ("failed", "blocked")}
    lines = lines_of(graph, store, results, failed)
    choice = choice_of(graph, results)
    first = lines[0].variants[0] if lines and choice is None else ""
    return Variants(graph, steps, lines, choice, first, _tested(graph, store, results))


def steps_shown(variants: Variants | None, steps: Sequence[ReportedStep]) -> list[ReportedStep]:
    """The steps that the other sections are about: of all variants, those of the best one.

    The step that chooses isn't among them, since the table of variants has all that it says.
    """
    if variants is None:
        return list(steps)
    assert variants.graph.matrix is not None
    own_steps = variants.graph.matrix.steps.get(variants.shown, {}).values()
    return [
        step
        for step in steps
        if step.node.name != WINNER and (not step.node.variant or step.node.name in own_steps)
    ]


def names_shown(variants: Variants | None) -> Mapping[str, str]:
    """Name in the file → the step of the variant that is shown."""
    if variants is None or not variants.shown or variants.graph.matrix is None:
        return {}
    return variants.graph.matrix.steps[variants.shown]


def section_of(variants: Variants) -> Section:
    """The table, and who won by how much."""
    lines = variants.lines
    is_repeated = any(len(line.variants) > 1 for line in lines)
    times = {line.name: _training(variants, line) for line in lines}
    remarks = [Text(text, "soft") for text in _remarks(variants, repeated=is_repeated)]
    table = table_of(variants.graph, lines, times)
    return Section("Variants", [_finding(variants), table, *remarks], rank=8)


def _training(variants: Variants, line: Line) -> str:
    """The mean time of a variant's trainings, over its seeds."""
    times = {
        step.node.name: step.result.seconds
        for step in variants.steps
        if step.result and step.node.trains
    }
    assert variants.graph.matrix is not None
    variant_steps = [variants.graph.matrix.steps[variant].values() for variant in line.variants]
    seconds = [sum(times.get(name, 0.0) for name in {*names}) for names in variant_steps]
    return duration(sum(seconds) / len(seconds)) if any(seconds) else ""


def _finding(variants: Variants) -> Finding:
    choice, lines = variants.choice, variants.lines
    columns = columns_of(lines)
    if not columns:
        return Finding(QUESTION, "Not measured: no variant is judged.", "open", 0)
    best, name = lines[0], columns[0]
    select, score = variants.graph.select_by, best.scores[name]
    seeds = f" over {counted(len(score.values), 'seed')}" if len(score.values) > 1 else ""
    on = f"{seeds} on {select.rows}" if select else seeds
    what = f"{best.name}: {name} {as_text(in_unit(score, are_shares(lines, name)))}{on}"
    if choice is None:
        why = "The recipe chooses none (`select`), and the best of many scores is partly luck. "
        why += "Highest"
        if select is not None:
            missing = sum(not line.scores for line in lines)
            why = f"Not chosen yet: {missing} of {len(lines)} aren't judged. So far"
        return Finding(QUESTION, f"{why} {what}", "open", 0)
    ahead = lead_in_words(choice, lines)
    tested = f" {text}" if (text := _tested_in_words(variants)) else ""
    if is_close(choice):
        text = f"{what}. Too close to call: {ahead}.{tested}"
        return Finding(QUESTION, text, "open", 0)
    tone: Any = "good" if choice["margin"] and choice["margin"]["interval"] else "open"
    return Finding(QUESTION, f"{what}{f', {ahead}' if ahead else ''}.{tested}", tone, 0)


def _tested(graph: Graph, store: Store, results: Mapping[str, Result | None]) -> Score | None:
    select = graph.select_by
    result = results.get(select.evaluator) if select is not None else None
    if select is None or select.own_rows or result is None:
        return None
    return Score.of(report_of(store, result), select.model, select.metric)


def _tested_in_words(variants: Variants) -> str:
    """The score of the winner on the rows that it wasn't chosen by."""
    select = variants.graph.select_by
    if select is None or select.own_rows:
        return ""
    if variants.tested is None:
        return f"Chosen on {select.rows}; not judged on the test rows."
    shares = are_shares(variants.lines, columns_of(variants.lines)[0])
    value = as_text(in_unit(variants.tested, shares))
    return f"On the test rows, which it wasn't chosen by: {value}."


def _remarks(variants: Variants, *, repeated: bool) -> Iterator[str]:
    yield from (f"{text}." for text in remarks_on(variants.lines))
    if variants.choice is not None and len(variants.lines) > 2:
        yield (
            "The difference to the next variant is one comparison. Its interval isn't corrected "
            f"for choosing the best of {len(variants.lines)}."
        )
    if repeated and variants.choice is not None:
        yield (
            "Variants are compared by their means over the seeds. Of the winner, the seed with the "
            "best score on these rows is shipped and tested; its test score is that of one "
            "training, not a mean."
        )
    yield (
        f"The sections below are about {variants.shown}, the first in this table."
        if variants.shown
        else "The sections below are about the chosen variant."
    )
