"""How users name the sides of a comparison: a run, a variant, a git revision, or `now`."""

from finery.builder.runs.git import commit_of
from finery.builder.runs.reading import LAST, PREVIOUS
from finery.compare.sides import NOW, Side, named_run, now, of_revision, of_run, runs_named
from finery.compare.variant_sides import check_pair, default_side, of_variant, some_of
from finery.errors import UsageError
from finery.recipe.graph import Graph
from finery.store.database import Store


def sides_of(graph: Graph, store: Store, first: str, second: str | None) -> tuple[Side, Side]:
    """Both sides. Without a second word, a variant is compared with the winner, others with `now`.

    Raises `UsageError` for a word that names nothing, and for sides that don't compare.
    """
    other = second or default_side(graph, first) or NOW
    sides = side_of(graph, store, first), side_of(graph, store, other)
    check_pair(graph, *sides)
    return sides


def side_of(graph: Graph, store: Store, word: str) -> Side:
    """The side that a word names. Raises `UsageError` if it names nothing."""
    if word == NOW:
        return now(graph, store)
    run = named_run(graph, store, word)
    if run is not None:
        return of_run(run, store)
    variant = of_variant(graph, store, word)
    if variant is not None:
        return variant
    folder = graph.recipe.path.absolute().parent
    commit = commit_of(folder, word)
    if commit is None:
        raise _unknown(graph, store, word)
    return of_revision(graph, store, word, commit)


def _unknown(graph: Graph, store: Store, word: str) -> UsageError:
    known = [NOW, LAST, PREVIOUS, *(run.id for run in runs_named(graph, store))]
    fix = f"write one of: {', '.join(known[:8])}; or a commit, branch or tag"
    if graph.matrix is not None:
        return UsageError(
            f"'{word}' is neither a run of this recipe, nor a variant, nor a git revision",
            fix=f"write a variant, such as {some_of(graph)}; or {fix.removeprefix('write ')}",
        )
    if "=" in word:
        fix = f"the recipe has no `matrix:`; add one, or --matrix; or {fix}"
    return UsageError(f"'{word}' is neither a run of this recipe nor a git revision", fix=fix)
