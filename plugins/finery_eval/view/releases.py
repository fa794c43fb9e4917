"""What changed since a release: which answers got better, and which are broken."""

from collections.abc import Iterator

from finery import Metrics, Model
from finery.advanced import counted
from finery.views import (
    Cell,
    Context,
    Field,
    Output,
    Part,
    Quantity,
    Record,
    Records,
    Section,
    Table,
)
from finery_eval.flips import BROKEN, Flips, flips_between
from finery_eval.predictions import Facts
from finery_eval.view.answers import answer_of, question_fields
from finery_eval.view.judgements import judgements

MOST_IDS = 200
"""Rows of each kind that Markdown names: a comment of a pull request has limited room."""


def since_release(output: Output, context: Context) -> Iterator[Section]:
    """How each result of the training, or each model if there is none, differs from each release.

    Markdown, which has no text of rows, names the rows by their ids.
    """
    judged = judgements([output], context.graph, answers=False)
    node = context.graph.nodes.get(output.step)
    steps = {source.ref: source.step for source in node.sources_of(Model)} if node else {}
    released = [ref for ref, step in steps.items() if context.graph.nodes[step].release is not None]
    others = [each for each in judged if each.model in steps and each.model not in released]
    made = [each for each in others if each.role in ("tuned", "shipped")] or others
    assert isinstance(output.artifact, Metrics)
    lines = [*output.artifact.predictions()] if released else []
    for earlier in released:
        names = [each.model for each in made]
        flips = {m: f for m in names if (f := flips_between(lines, earlier, m)) is not None}
        if flips:
            parts = [_table(flips), *_rows(earlier, flips, context)]
            yield Section(f"{output.title}: what changed since {earlier}", parts)


def _table(flips: dict[str, Flips]) -> Table:
    rows: list[list[Cell]] = [
        [name, len(f.better), len(f.broken), Quantity(f.score.value, "share", f.score.interval)]
        for name, f in flips.items()
    ]
    note = f"{BROKEN}: right with the release and wrong now"
    return Table(["model", "better", "worse", BROKEN], rows, note=note)


def _rows(earlier: str, flips: dict[str, Flips], context: Context) -> Iterator[Part]:
    for name, of in flips.items():
        for pairs, tone in ((of.broken, "bad"), (of.better, "good")):
            title = f"{name}: {'broken' if tone == 'bad' else 'better'}"
            if context.medium == "markdown":
                cells = [[str(after.get("id", ""))] for _, after in pairs[:MOST_IDS]]
                more = f", the first {MOST_IDS}" if len(pairs) > MOST_IDS else ""
                note = f"{counted(len(pairs), 'row')}{more}; finery show --row ID"
                table = Table(["row"], cells)
                yield from [Section(title, [table], note=note, is_folded=True)] if pairs else []
            elif context.medium == "page":
                records = [_record(earlier, name, *pair) for pair in pairs]
                yield Records(records, len(records), title, context.detail.rows)


def _record(earlier: str, name: str, before: Facts, after: Facts) -> Record:
    fields = [
        Field(model, answer_of(facts), "good" if facts["correct"] else "bad")
        for model, facts in ((earlier, before), (name, after))
    ]
    return Record([*question_fields({"id": "", **after}), *fields])
