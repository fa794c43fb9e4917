"""What judged models are: cheap, not trained, trained, made from a trained one, or a variant."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from finery import Graph, Metrics, Model, Node, Output, base_models, sources_of, trains
from finery_eval.predictions import Facts, by_model
from finery_eval.view.scores import Report, headline

Role = Literal["baseline", "base", "tuned", "shipped", "variant"]


class Judgement(NamedTuple):
    """A model as one step judged it. source: of a shipped one, the step that trained it."""

    model: str
    role: Role
    source: str
    step: str
    use: str
    report: Report
    answers: Sequence[Facts]

    @property
    def metric(self) -> str:
        """The first metric."""
        return next(iter(headline(self.report)), "")

    @property
    def score(self) -> float | None:
        """The first metric's value, None if it applies to no row."""
        value = self.report["scores"][self.model].get(self.metric)
        return None if value is None else float(value)


def judgements(outputs: Sequence[Output], graph: Graph) -> list[Judgement]:
    """Every model as each step judged it, in order."""
    return [each for output in outputs for each in _of_output(output, graph)]


def _of_output(output: Output, graph: Graph) -> Iterator[Judgement]:
    assert isinstance(output.artifact, Metrics)
    report = output.artifact.report()
    answers: Mapping[str, Sequence[Facts]] = by_model(output.artifact.predictions())
    node = graph.nodes.get(output.step)
    named = {source.ref: source.step for source in sources_of(node, Model)} if node else {}
    for model in report["scores"]:
        role, source = role_of(named.get(model, model), graph)
        if model in report["details"].get("baselines", ()):
            role = "baseline"
        if "chosen" in report["details"]:  # a step that ranks variants of a model
            role = "variant"
        use = node.use if node else ""
        yield Judgement(model, role, source, output.step, use, report, answers.get(model, []))


def role_of(model: str, graph: Graph) -> tuple[Role, str]:
    """(role, the step that trained it, if one did). model: a step, which may be a variant."""
    node = graph.nodes.get(model) or graph.nodes.get(model.partition(".")[0])
    trained = _trained(graph, node) if node is not None else ""
    if node is None or not trained:
        return "base", ""
    return ("tuned" if trains(node) else "shipped"), trained


def _trained(graph: Graph, node: Node) -> str:
    """The training that a model comes from, itself or an earlier one."""
    while not trains(node):
        before = base_models(node)
        if not before:
            return ""
        node = graph.nodes[before[0].step]
    return node.origin if node.variant else node.name
