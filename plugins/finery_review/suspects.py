"""The note on rows that `data.audit` suspects, and that nobody has decided on."""

from collections.abc import Iterator

from finery import Dataset, FineryError, Note
from finery.advanced import About, Graph, Results, counted
from finery_data.checks.audits import read_audit
from finery_review.apply import Apply, default_file, reviews_file
from finery_review.decisions import Standing, parse

NAME = "suspect-labels"
ABOUT = {
    NAME: About(
        when="a built `data.audit` suspects rows, and `finery review` has no decision on some of "
        "them",
        why="A model learns wrong labels, and a test counts right answers as wrong. A few percent "
        "of wrong labels often cost more than any setting of a training gains. Accept a row whose "
        "label is right.",
    )
}


def notes_on(graph: Graph, results: Results) -> Iterator[Note]:
    """A note for each audit with suspects that are undecided."""
    for node in graph.nodes.values():
        if (results.meta(node.name) or {}).get("format") != "audit":
            continue
        audited = results.artifact(node.name)
        assert isinstance(audited, Dataset)
        suspects = {doubt.id for doubt in read_audit(audited) if doubt.check}
        open_rows = suspects - _decided(graph, node.name)
        if open_rows:
            decided = len(suspects) - len(open_rows)
            rest = f"; {decided:,} others are decided" if decided else ""
            yield Note(
                name=NAME,
                text=f"{counted(len(open_rows), 'row')} of {node.name} probably "
                f"{'has a wrong label' if len(open_rows) == 1 else 'have wrong labels'}{rest}",
                fix=f"finery review {node.name}",
                step=node.name,
                place=node.place,
            )


def _decided(graph: Graph, ref: str) -> set[str]:
    """The rows with a decision. A file that can't be read has none; the build reports it."""
    steps = [node for node in graph.nodes.values() if isinstance(node.step, Apply)]
    files = {reviews_file(graph, node) for node in steps if node.step.rows.ref == ref}  # type: ignore[attr-defined]
    decided = set[str]()
    for path in files or {default_file(graph, ref)}:
        try:
            standing = Standing(parse(path.read_bytes(), path.name)[0]) if path.is_file() else ()
        except (FineryError, OSError):
            continue
        decided |= {decision.id for decision in standing if decision.decides}
    return decided
