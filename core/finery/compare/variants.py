"""The scores of a matrix's variants, by what the evaluators of each of them say, and in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from finery.artifact.kinds import Metrics, Model
from finery.artifact.manifest import Result
from finery.recipe.graph import Graph, Node
from finery.recipe.matrix.axes import SEED_LABEL, Value, Variant, axes_summary
from finery.rows.repeats import Repeats, summarise
from finery.rows.report import Report, Unit
from finery.store.database import Store
from finery.util.text import counted, in_points, signed
from finery.views.parts import Cell, Column, Quantity, Table, Text, Tone, number_text

if TYPE_CHECKING:
    from finery.recipe.matrix.expand import Expanded


@dataclass
class Score:
    """A metric of a variant. values: one for each seed. rows_interval: of the only one, 95 %.

    is_trained: whether it is of a model that the recipe trains. is_share: whether it is a share.
    """

    values: list[float] = field(default_factory=list)
    rows_interval: tuple[float, float] | None = None
    is_trained: bool = True
    is_share: bool = True

    @classmethod
    def of(cls, report: Report, model: str, metric: str) -> "Score | None":
        """What a report has of a metric; None if it has nothing."""
        score = report.score(model, metric)
        if score is None:
            return None
        return cls([score.value], score.interval, is_share=report.is_share(metric))

    @property
    def repeats(self) -> Repeats:
        """Mean, spread and interval over the seeds."""
        return summarise(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Over the seeds if there are several, else over the rows."""
        return self.repeats.interval if len(self.values) > 1 else self.rows_interval

    def data(self) -> dict[str, Any]:
        """For `--json`."""
        mean, deviation, _, count = self.repeats
        spread = {"deviation": deviation, "seeds": count} if count > 1 else {}
        return {"value": mean, "interval": self.interval, **spread}


@dataclass
class Line:
    """A variant with all its repeats. axes: label → value. scores: `test.sft.accuracy` → score.

    states: of the steps that score it and aren't built, e.g. `failed`.
    """

    name: str
    axes: Mapping[str, str]
    variants: list[str] = field(default_factory=list)
    scores: dict[str, Score] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    chosen: bool = False


def lines_of(
    graph: Graph, store: Store, results: Mapping[str, Result | None], failed: Mapping[str, str]
) -> list[Line]:
    """A line for each variant, best first by the first column; those without a score come last.

    failed: step → `failed` or `blocked`, in a build.
    """
    matrix = graph.matrix
    assert matrix is not None
    full_graph = graph.whole or graph
    lines: dict[str, Line] = {}
    scored: set[tuple[str, str, Outputs]] = set()
    for variant in matrix.variants:
        axes = {
            axis: _shown(v) for axis, v in variant.values.items() if axis not in (SEED_LABEL, "")
        }
        line = lines.setdefault(variant.combination, Line(variant.combination, axes))
        line.variants.append(variant.name)
        for judged in _judged(full_graph, matrix, variant):
            result = results.get(judged.step)
            if result is None:
                line.states.append(failed.get(judged.step, "not built"))
                continue
            if not store.shared.reach(result.outputs.values()):
                line.states.append("not here")
                continue
            identity = line.name, judged.name, judged.outputs
            if identity in scored:  # a model that the seeds don't reach
                continue
            scored.add(identity)
            _take(line, full_graph, report_of(store, result), judged)
    choice = choice_of(graph, results)
    for line in lines.values():
        line.chosen = choice is not None and choice["chosen"] in line.variants
    return _ranked(graph, list(lines.values()))


def report_of(store: Store, result: Result) -> Report:
    """What the `Metrics` hold that a step made."""
    (manifest,) = result.outputs.values()
    artifact = store.artifact(manifest)
    assert isinstance(artifact, Metrics)
    return artifact.report()


def columns_of(lines: Sequence[Line]) -> list[str]:
    """All scores, those of trained models first, otherwise in order. The first one ranks."""
    trained: dict[str, bool] = {}
    for line in lines:
        for name, score in line.scores.items():
            trained[name] = trained.get(name, False) or score.is_trained
    return sorted(trained, key=lambda name: not trained[name])


def _shown(value: Value) -> str:
    """A value as a table shows it: a number with its dot, which names can't have."""
    number = isinstance(value.written, int | float)
    return value.label.replace("_", ".") if number else value.label


Outputs = tuple[tuple[str, str], ...]
"""(step, output) of each input."""


class _Judged(NamedTuple):
    """A model that an evaluator judges. step: the evaluator. name: the evaluator's in the file.

    model: as the recipe writes it. outputs: the model, then the rows.
    """

    step: str
    name: str
    model: str
    outputs: Outputs
    is_trained: bool


def _judged(graph: Graph, matrix: "Expanded", variant: Variant) -> Iterator[_Judged]:
    """All models of a variant that are judged."""
    for origin, step in matrix.steps[variant.name].items():
        node = graph.nodes.get(step)
        if node is None or not node.evaluates:
            continue
        for source in node.sources_of(Model):
            maker = graph.nodes.get(source.step)
            if maker is not None and maker.variant:
                outputs = tuple((s.step, s.output) for s in (source, *node.row_sources))
                yield _Judged(step, origin, source.ref, outputs, _is_trained(graph, maker))


def _is_trained(graph: Graph, node: Node) -> bool:
    """Whether a model comes out of a training of the recipe, at once or by way of other steps."""
    return node.trains or any(_is_trained(graph, graph.nodes[s.step]) for s in node.base_models)


def _take(line: Line, graph: Graph, report: Report, judged: _Judged) -> None:
    headline = report.headline or list(report.scores.get(judged.model, {}))
    select = graph.select_by
    metric = select.metric if select is not None else next(iter(headline), "")
    found = Score.of(report, judged.model, metric)
    if found is None:
        return
    name = f"{judged.name}.{judged.model}.{metric}"
    kind = Score(is_trained=judged.is_trained, is_share=found.is_share)
    score = line.scores.setdefault(name, kind)
    score.values += found.values
    score.rows_interval = found.rows_interval


def choice_of(graph: Graph, results: Mapping[str, Result | None]) -> dict[str, Any] | None:
    """The facts about what was chosen; None if nothing is."""
    nodes = graph.nodes.values()
    name = next((n.chosen_by for n in nodes if n.chosen_by and not n.variant), "")
    result = results.get(name)
    if result is None:
        return None
    (made,) = result.outputs.values()
    return made.meta


def _ranked(graph: Graph, lines: list[Line]) -> list[Line]:
    columns = columns_of(lines)
    if not columns:
        return lines
    lowest = graph.select_by is not None and graph.select_by.best == "lowest"

    def rank(line: Line) -> tuple[bool, bool, float]:
        score = line.scores.get(columns[0])
        if score is None:
            return True, False, 0.0
        mean = score.repeats.mean * (1 if lowest else -1)
        return False, not line.chosen, mean

    return sorted(lines, key=rank)


def title_of(graph: Graph) -> str:
    """`12 variants: 3 learning_rate × 2 r × 2 rows`."""
    assert graph.matrix is not None
    variants = counted(len(graph.matrix.variants), "variant")
    axes = axes_summary(graph.matrix.axes)
    return f"{variants}: {axes}" if axes else variants


def head_of(graph: Graph, column: str) -> str:
    """The head of a score's column: `test.sft.accuracy on split.validation`, by its rows."""
    select = graph.select_by
    if select is None or select.own_rows or not column.startswith(f"{select.evaluator}."):
        return column
    return f"{column} on {select.rows}"


def choice_in_words(choice: Mapping[str, Any], lines: Sequence[Line]) -> str:
    """What was chosen and how far it is ahead."""
    parts = [f"chosen: {choice['chosen']}"]
    if repeats := choice.get("repeats"):  # of which one is shipped and tested
        unit: Unit = "share" if _ranks_by_shares(lines) else ""
        numbers = repeats[choice["chosen"]], choice["score"]
        score, mean = (number_text(value, unit) for value in numbers)
        parts.append(f"the best of {counted(len(repeats), 'seed')}: {score}, the mean is {mean}")
    if ahead := lead_in_words(choice, lines):
        parts.append(f"{ahead}{': too close to call' if is_close(choice) else ''}")
    return "; ".join(parts)


def lead_in_words(choice: Mapping[str, Any], lines: Sequence[Line]) -> str:
    """The lead over the next, in percentage points if the score is a share; empty without one."""
    margin, is_share = choice["margin"], _ranks_by_shares(lines)
    if margin is None:
        return ""
    values = (margin["difference"], *(margin["interval"] or ()))
    lead, *ends = (in_points(value) if is_share else signed(value, ".4g") for value in values)
    text = f"{lead}{' points' if is_share else ''} against {margin['over']}"
    if not ends:
        return f"{text}; there is no paired test for this metric"
    return f"{text} (95 % CI {' to '.join(ends)})"


def _ranks_by_shares(lines: Sequence[Line]) -> bool:
    return all(are_shares(lines, name) for name in columns_of(lines)[:1])


def is_close(choice: Mapping[str, Any]) -> bool:
    """Whether the second best may be as good, according to the interval."""
    margin = choice["margin"]
    return bool(
        margin and margin["interval"] and margin["interval"][0] <= 0 <= margin["interval"][1]
    )


def are_shares(lines: Sequence[Line], name: str) -> bool:
    """Whether all values of a score are between 0 and 1, so that percentages are appropriate."""
    scores = [line.scores[name] for line in lines if name in line.scores]
    return all(s.is_share and 0 <= value <= 1 for s in scores for value in s.values)


def in_unit(score: Score, is_share: bool) -> Quantity:
    """The mean of a score with its interval. is_share: see `are_shares`."""
    mean, interval = score.repeats.mean, score.interval
    if not is_share:
        return Quantity(mean, "", interval)
    low, high = interval or (0.0, 1.0)
    return Quantity(mean, "share", (max(0.0, low), min(1.0, high)) if interval else None)


def table_of(graph: Graph, lines: Sequence[Line], times: Mapping[str, str]) -> Table:
    """A row for each variant, best first. times: line → how long its trainings took.

    Where there is little room, the first scores stay.
    """
    axes = list(dict.fromkeys(axis for line in lines for axis in line.axes))
    is_named = any(not line.axes for line in lines)
    columns = [Column(""), *([Column("variant")] if is_named else []), *map(Column, axes)]
    rows: list[list[Cell]] = []
    for line in lines:
        named = [line.name if not line.axes else ""] if is_named else []
        mark = Text("✓" if line.chosen else "", "good")
        rows.append([mark, *named, *(line.axes.get(axis, "") for axis in axes)])
    for number, name in enumerate(columns_of(lines), 1):
        columns.append(Column(head_of(graph, name), number, has_bars=True))
        is_share = are_shares(lines, name)
        scores = [line.scores.get(name) for line in lines]
        for row, line, score in zip(rows, lines, scores, strict=True):
            state = next(iter(line.states), "—")
            missing = Text(state, "bad" if state == "failed" else "")
            row.append(missing if score is None else in_unit(score, is_share))
        if any(score is not None and len(score.values) > 1 for score in scores):
            columns.append(Column("± sd (seeds)", number))
            for row, score in zip(rows, scores, strict=True):
                row.append(_spread(score, is_share) if score else "")
    if not columns_of(lines):
        columns.append(Column("state"))
        for row, line in zip(rows, lines, strict=True):
            row.append(next(iter(line.states), "—"))
    if any(times.values()):
        columns.append(Column("training", len(columns)))
        for row, line in zip(rows, lines, strict=True):
            row.append(times[line.name])
    tones: list[Tone] = ["strong" if line.chosen else "" for line in lines]
    return Table(columns, rows, title_of(graph), tones=tones)


def _spread(score: Score, is_share: bool) -> str:
    deviation, seeds = score.repeats.deviation, len(score.values)
    unit: Unit = "share" if is_share else ""
    return "" if deviation is None else f"± {number_text(deviation, unit)} ({seeds})"


def remarks_on(lines: Sequence[Line]) -> list[str]:
    """What the intervals account for."""
    scores = [score for line in lines for score in line.scores.values()]
    remarks = []
    if any(len(score.values) > 1 for score in scores):
        remarks.append("95 % CI: Student's interval of the mean over seeds, on the same rows")
    if any(len(score.values) == 1 and score.interval for score in scores):
        single = "95 % CI of a score that isn't repeated" if remarks else "95 % CI"
        remarks.append(f"{single}: covers the choice of rows only, not the seed of a training")
    return remarks
