"""The note `no-decisions`: the file of a `review.apply` doesn't exist."""

from collections.abc import Iterator
from pathlib import Path

from finery import About, DataError, Graph, Node, Note, nearest
from finery_review.apply import Apply

NAME = "no-decisions"
ABOUT = {
    NAME: About(
        when="the file of decisions of a `review.apply` doesn't exist",
        why="Before the first decision, this is normal. Afterwards, the name is wrong, and rows go "
        "on as if nobody had reviewed them.",
    )
}


def notes_on(graph: Graph) -> list[Note]:
    """A note for each `review.apply` without decisions."""
    return list(_notes(graph))


def _notes(graph: Graph) -> Iterator[Note]:
    for node in graph.nodes.values():
        if not isinstance(node.step, Apply):
            continue
        path = reviews_file(graph, node)
        if not path.exists():
            yield Note(
                name=NAME,
                text=f"{node.step.reviews} doesn't exist yet: all rows of {node.step.rows.ref} are "
                "undecided",
                fix=_fix(path, node.step.rows.ref),
                step=node.name,
                place=(*node.place, "reviews"),
            )


def _fix(path: Path, rows: str) -> str:
    others = [p.name for p in path.parent.glob("*.jsonl")] if path.parent.is_dir() else []
    near = nearest(path.name, others)
    return f"did you mean {near}? Else: finery review {rows}" if near else f"finery review {rows}"


def reviews_file(graph: Graph, node: Node) -> Path:
    """The file of decisions that a `review.apply` takes."""
    step = node.step
    assert isinstance(step, Apply)
    folder, path = graph.recipe.folder.absolute(), Path(step.reviews.patterns[0])
    try:
        return folder / path.expanduser()
    except RuntimeError:
        raise DataError(f"there is no user {path.parts[0]}", fix="write the whole path") from None
