"""The sentence that a report, the end of a build and `finery show` begin with: what to ship.

Views decide about what is built, see `finery.views.Verdict`. What no view can see is said here.
"""

from collections.abc import Collection, Iterable

from finery.artifact.kinds import Model
from finery.builder.checks import blocked_by
from finery.recipe.graph import Graph
from finery.util.text import counted, some_of
from finery.views.parts import Section, Verdict, every_part

NOT_YET = "don't ship yet: "


def verdict_of(
    graph: Graph, built: Collection[str], gates: Collection[str], sections: Iterable[Section]
) -> Verdict | None:
    """What to ship of a whole recipe that is about models; None of another one.

    built: the steps with a result. gates: those at which a build fails although they have one.
    sections: of the views, with `Context.gates`.
    """
    judges = [node for node in graph.nodes.values() if node.evaluates and node.sources_of(Model)]
    if graph.whole is not None or not (graph.has_training or judges):
        return None
    waiting = blocked_by(graph, gates)  # which the verdict of a view is about
    missing = [name for name in graph.nodes if name not in built and name not in waiting]
    if missing:
        missing = [n for n in missing if not {*graph.nodes[n].upstream()} & {*missing}]
        reasons = [f"{some_of([*gates])} didn't meet what is required"] if gates else []
        reasons += [f"{some_of(missing)} {'isn' if len(missing) == 1 else 'aren'}'t built"]
        return Verdict(f"{NOT_YET}{', and '.join(reasons)}", "bad")
    if graph.matrix is not None and graph.select_by is None and len(graph.matrix.variants) > 1:
        variants = counted(len(graph.matrix.variants), "variant")
        text = f"the recipe chooses none of its {variants} (add `select` to the matrix)"
        return Verdict(f"{NOT_YET}{text}, and the best of several scores is partly luck", "bad")
    parts = (part for section in sections for part in every_part(section.parts))
    verdict = next((part for part in parts if isinstance(part, Verdict)), None)
    return verdict or Verdict(f"{NOT_YET}no evaluator judged a model", "bad")
