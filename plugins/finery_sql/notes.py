"""The note `unordered-query`: queries whose rows may come in any order."""

from finery import About, Graph, Node, Note, check_plain
from finery_sql.query import SqlQuery
from finery_sql.statement import is_ordered

NAME = "unordered-query"
ABOUT = {
    NAME: About(
        when="the query of a `sql.query` has no ORDER BY",
        why="Without it, a database may return rows in any order, for example another one after "
        "an update or on another server. The order is part of the result, so another order reruns "
        "all steps after the query.",
    )
}


def notes_on(graph: Graph) -> list[Note]:
    """A note for each query that says nothing of the rows' order."""
    return [
        Note(
            name=NAME,
            text=f"the query of {node.name} has no ORDER BY, so its rows may come in any order",
            fix="order by a column with unique values, e.g. ORDER BY id",
            step=node.name,
            place=(*node.place, "query_file" if node.step.query is None else "query"),
        )
        for node in graph.nodes.values()
        if isinstance(node.step, SqlQuery) and not is_ordered(_text(graph, node) or "order by")
    ]


def _text(graph: Graph, node: Node) -> str | None:
    """The query; None where its file can't be read, which is an error told elsewhere."""
    step = node.step
    assert isinstance(step, SqlQuery)
    if step.query is not None or step.query_file is None:
        return step.query
    try:
        path = graph.recipe.folder / step.query_file.patterns[0]
        check_plain(path)
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
