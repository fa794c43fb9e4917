"""The models that a build judged, each in its role, and the paired tests between them.

Input: `Metrics` and the graph. Output: what `findings` puts into words, and the tests of a page.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from finery import Metrics, Model, Step
from finery.advanced import (
    Graph,
    Node,
    in_points,
    p_text,
    percent,
    quantity,
    range_in_points,
    signed,
)
from finery.rows.report import Difference, Report
from finery.views import Output
from finery_eval.evaluator import BatchEvaluator, Gate
from finery_eval.planning import training_of
from finery_eval.predictions import Facts, by_model, difference_between, paired
from finery_eval.steps.select import CHOSEN
from finery_eval.steps.speed import TIMED
from finery_eval.tables import against, verdict_of
from finery_eval.view.tables import headline

Role = Literal["baseline", "base", "tuned", "shipped", "variant", "reference"]
"""`reference`: what others are only compared with: answers that an evaluator adds, e.g. those of
finery's engine, and a released model."""
ORDER: Mapping[str, int] = {
    "baseline": 0, "base": 0, "variant": 0, "reference": 0, "tuned": 1, "shipped": 2,
}  # fmt: skip
UNRELATED = ("models", "rows", "require", "slices")
"""Settings of evaluators that don't decide about an answer."""


class Judgement(NamedTuple):
    """A model as one step judged it.

    source: of a trained or shipped one, the training; of an untrained one, the model that it is
    made from, e.g. by a prompt. evaluator: what judged it; `judge` of a check of a server.
    exported: whether the recipe exports its training.
    """

    model: str
    role: Role
    source: str
    step: str
    use: str
    report: Report
    answers: Sequence[Facts]
    evaluator: Step | None = None
    exported: bool = False

    @property
    def is_timed(self) -> bool:
        """Whether its speed was measured instead of its answers."""
        return TIMED in self.report.extra

    @property
    def cut_off(self) -> int:
        """The number of answers that were cut off at `max_tokens` and aren't right."""
        cut = (each for each in self.answers if each.get("finish_reason") == "length")
        return sum(each.get("correct") is not True for each in cut)

    @property
    def metric(self) -> str:
        """The first metric."""
        return next(iter(headline(self.report)), "")

    def sign(self, metric: str) -> int:
        """-1 if lower values of a metric are better, else 1."""
        unbounded = self.evaluator.unbounded() if isinstance(self.evaluator, Gate) else {}
        return -1 if unbounded.get(metric) == "lower" else 1

    def in_words(self) -> str:
        """The first metric's value: `75.9 %`."""
        if self.report.is_share(self.metric):
            return percent(self.score or 0.0)
        return quantity(self.score or 0.0, self.report.units.get(self.metric))

    @property
    def score(self) -> float | None:
        """The first metric's value, None if it applies to no row."""
        score = self.report.score(self.model, self.metric)
        return None if score is None else score.value


def judgements(outputs: Sequence[Output], graph: Graph, *, answers: bool = True) -> list[Judgement]:
    """Every model as each step judged it, in order. answers: whether to read their answers."""
    exports = (node for node in graph.nodes.values() if node.section == "export")
    exported = {source for node in exports for role, source in [_role_of(node.name, graph)]
                if role not in ("base", "baseline")}  # fmt: skip
    judged = []
    for output in outputs:
        assert isinstance(output.artifact, Metrics)
        report = output.artifact.report()
        lines = by_model(output.artifact.predictions()) if answers else {}
        node = graph.nodes.get(output.step)
        use, evaluator = (node.use, _evaluator_of(node.step)) if node else ("", None)
        named = {source.ref: source.step for source in node.sources_of(Model)} if node else {}
        for model in report.scores:
            role, source = _role_of(named.get(model, model), graph)
            if role == "base" and model in report.baselines:
                role = "baseline"
            step = graph.nodes.get(named.get(model, model))
            if model in report.references or (step is not None and step.release is not None):
                role = "reference"
            if CHOSEN in report.extra:  # a step that ranks variants of a model
                role = "variant"
            rows, is_exported = lines.get(model, []), source in exported
            judged.append(
                Judgement(
                    model, role, source, output.step, use, report, rows, evaluator, is_exported
                )
            )
    return judged


def _role_of(model: str, graph: Graph) -> tuple[Role, str]:
    """(role, source) of a model. model: a step, which may be a variant.

    A classifier of the section `train` is a baseline if the recipe also trains a language model.
    """
    node = graph.nodes.get(model) or graph.nodes.get(model.partition(".")[0])
    if node is None:
        return "base", ""
    if len(node.base_models) > 1:  # a cascade is none of its models
        return "base", ""
    trained = training_of(graph, node)
    if trained is None and (cheap := _classifier_of(graph, node)) is not None:
        if cheap.section != "train" or graph.has_training:
            return "baseline", ""
        trained = cheap
    if trained is None:
        return "base", node.base_models[0].ref if node.base_models else ""
    source = trained.origin if trained.variant else trained.name
    return ("tuned" if node is trained else "shipped"), source


def _classifier_of(graph: Graph, node: Node) -> Node | None:
    """The cheap model that a model is or was exported from; None for a language model."""
    if getattr(type(node.step), "is_baseline", False):
        return node
    earlier = (_classifier_of(graph, graph.nodes[source.step]) for source in node.base_models)
    return next((cheap for cheap in earlier if cheap is not None), None)


def _evaluator_of(step: Step) -> Step:
    """The evaluator that judges the answers, which may be in a setting of the step."""
    settings = (getattr(step, name) for name in step.__struct_fields__)
    return next((value for value in settings if isinstance(value, BatchEvaluator)), step)


def results_of_training(judged: Sequence[Judgement]) -> list[Judgement]:
    """The models that are judged as the result of the training, best first.

    These are the exported ones; all that are trained if none of those is judged; or shipped files.
    """
    tuned = [each for each in judged if each.role == "tuned"]
    exported = [each for each in tuned if each.exported]
    return best_first(exported or tuned or [each for each in judged if each.role == "shipped"])


def best_first(judged: Iterable[Judgement]) -> list[Judgement]:
    """The models by their first metric; last, those that it doesn't apply to."""
    return sorted(
        judged, key=lambda j: math.inf if j.score is None else -j.sign(j.metric) * j.score
    )


# -- paired tests ----------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """A metric of a second model against a first one.

    rows: that both answered. p_holm: adjusted as in the tables of the evaluator, see `against`.
    verdict: whether the second one is better. sign: -1 if lower values are.
    """

    rows: int
    metric: str
    difference: Difference
    p_holm: float
    verdict: str
    sign: int = 1
    is_share: bool = True

    @property
    def gains(self) -> tuple[float, float, float]:
        """How much better the second one is, and the ends of the 95 % interval."""
        value, (low, high) = self.difference.value, self.difference.interval
        return (value, low, high) if self.sign > 0 else (-value, -high, -low)

    def in_words(self, *, with_p: bool = True) -> str:
        """`+2.5 points (95 % CI +0.1 to +4.8, p = 0.062)`."""
        d = self.difference
        value, interval = f"{in_points(d.value)} points", range_in_points(d.interval)
        if not self.is_share:
            value, *ends = (signed(number, ".4g") for number in (d.value, *d.interval))
            interval = " to ".join(ends)
        p_value = p_text(self.p_holm)
        p_value = f", p {p_value}" if p_value.startswith("<") else f", p = {p_value}"
        after = "" if self.p_holm == d.p_value else " after Holm"
        return f"{value} (95 % CI {interval}{f'{p_value}{after}' if with_p else ''})"


def compared(first: Judgement, second: Judgement) -> list[Comparison]:
    """The tests of two models on the same rows, the first metric first; empty if there are none.

    Of models that one evaluation judged, its own tests of all displayed metrics. Of others, if
    their evaluators have the same settings, a test of the first metric on the common rows.
    """
    pairs = paired(first.answers, second.answers)
    if first.step == second.step:
        differences = against(first.report, headline(first.report), second.model, first.model)
        answered = {m for pair_facts, _ in pairs.pairs for m in pair_facts.get("values", ())}
        tests = [
            _comparison(
                d.rows or (len(pairs.pairs) if metric in answered else first.report.rows),
                second, metric, d, p_holm,
            )
            for metric, d, p_holm, _ in differences
        ]  # fmt: skip
        if tests:
            return tests
    if first.metric != second.metric or not _same_settings(first, second):
        return []
    d = difference_between(pairs, second.metric, first.report, second.report)
    if d is None:
        return []
    return [_comparison(d.rows or len(pairs.pairs), second, second.metric, d, d.p_value)]


def _comparison(
    rows: int, second: Judgement, metric: str, d: Difference, p_holm: float
) -> Comparison:
    sign, is_share = second.sign(metric), second.report.is_share(metric)
    return Comparison(rows, metric, d, p_holm, verdict_of(sign * d.value, p_holm), sign, is_share)


def _same_settings(first: Judgement, second: Judgement) -> bool:
    """Whether two steps judge an answer alike."""
    first_use, second_use = first.evaluator, second.evaluator
    if first_use is None or type(first_use) is not type(second_use):
        return first.step == second.step
    names = (name for name in first_use.__struct_fields__ if name not in UNRELATED)
    return all(getattr(first_use, name) == getattr(second_use, name) for name in names)


def first_test(first: Judgement, second: Judgement) -> Comparison | None:
    """The test of the first metric."""
    return next((test for test in compared(first, second) if test.metric == second.metric), None)


def comparisons_of(judged: Sequence[Judgement]) -> list[tuple[str, Comparison]]:
    """(models, test) from cheap or untrained to tuned to shipped models, in all steps."""
    comparisons: dict[tuple[str, str], Comparison] = {}
    pairs = [(a, b) for a in judged for b in judged if _is_step(a, b)]
    pairs.sort(key=lambda pair: pair[0].step != pair[1].step)  # within an evaluation first
    for first, second in pairs:
        for test in compared(first, second):
            comparisons.setdefault((f"{first.model} → {second.model}", test.metric), test)
    return [(models, test) for (models, _), test in comparisons.items()]


def _is_step(first: Judgement, second: Judgement) -> bool:
    if "reference" in (first.role, second.role) or ORDER[second.role] <= ORDER[first.role]:
        return False
    return not (second.role == "shipped" and first.role == "tuned" and second.source != first.model)
