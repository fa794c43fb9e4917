"""What changed since a release: which answers got better, and which are broken."""

from collections.abc import Iterator

from finery import Metrics, Model
from finery.advanced import counted
from finery.views import Cell, Context, Output, Part, Quantity, Section, Table
from finery_eval.flips import BROKEN, Flips, flips_between
from finery_eval.view.difference import flip, flipped
from finery_eval.view.judgements import judgements

MOST_IDS = 200
"""Rows of each kind that Markdown names: a comment of a pull request has limited room."""


def since_release(output: Output, context: Context) -> Iterator[Section]:
    """How each model but the base of a training differs from each release.

    Markdown, which has no text of rows, names the rows by their ids.
    """
    node = context.graph.nodes.get(output.step)
    steps = {source.ref: source.step for source in node.sources_of(Model)} if node else {}
    released = [ref for ref, step in steps.items() if context.graph.nodes[step].release is not None]
    if not released:
        return
    judged = judgements([output], context.graph, answers=False)
    others = [each for each in judged if each.model in steps and each.model not in released]
    made = [each for each in others if each.role != "base"] or others
    assert isinstance(output.artifact, Metrics)
    lines = [*output.artifact.predictions()]
    for earlier in released:
        names = [each.model for each in made]
        flips = {m: f for m in names if (f := flips_between(lines, earlier, m)) is not None}
        if flips:
            rows: list[list[Cell]] = [
                [
                    m,
                    len(f.better),
                    len(f.broken),
                    Quantity(f.score.value, "share", f.score.interval),
                ]
                for m, f in flips.items()
            ]
            note = f"{BROKEN}: right with the release and wrong now"
            parts: list[Part] = [Table(["model", "better", "worse", BROKEN], rows, note=note)]
            for model, flips_of_model in flips.items():
                parts += _rows(earlier, model, flips_of_model, context)
            yield Section(f"{output.title}: what changed since {earlier}", parts)


def _rows(earlier: str, model: str, flips: Flips, context: Context) -> Iterator[Part]:
    kinds = {"lost": flips.broken, "gained": flips.better}
    if context.medium == "page":
        facts = {kind: [flip(*pair) for pair in pairs] for kind, pairs in kinds.items()}
        yield from flipped(model, facts, context.detail.rows, (earlier, model))
    for kind, pairs in kinds.items() if context.medium == "markdown" else ():
        cells = [[str(after.get("id", ""))] for _, after in pairs[:MOST_IDS]]
        more = f", the first {MOST_IDS}" if len(pairs) > MOST_IDS else ""
        note = f"{counted(len(pairs), 'row')}{more}; finery show --row ID"
        title = f"{model}: {BROKEN if kind == 'lost' else 'better'}"
        yield from [Section(title, [Table(["row"], cells)], note=note, is_folded=True)] * bool(
            pairs
        )
