"""The result that a step had in a run of the past."""

from finery.artifact.manifest import Result
from finery.builder.runs.reading import Run, find_run
from finery.errors import UsageError
from finery.recipe.graph import Graph
from finery.store.database import Store
from finery.util.paths import recipe_id


def run_of(graph: Graph, store: Store, word: str) -> Run:
    """The run of the graph's recipe that a word names. Raises `UsageError` if there is none."""
    recipe = graph.recipe
    return find_run(store.root, recipe_id(recipe.path, store.root), recipe.name, word)


def result_in(graph: Graph, store: Store, step: str, word: str) -> Result:
    """A step's result in a run. Raises `UsageError` where the store doesn't have it."""
    run = run_of(graph, store, word)
    record = run.steps.get(step)
    if record is None or not record.key:
        raise UsageError(
            f"run {run.id} has no result of '{step}'{_why(run, step)}",
            where="--run",
            fix="see finery runs for what it built",
        )
    result = store.lookup(record.key)
    if result is None:
        raise UsageError(
            f"the outputs of '{step}' in run {run.id} are no longer in the store",
            where="--run",
            fix="build that revision of the recipe again",
        )
    return result


def _why(run: Run, step: str) -> str:
    record = run.steps.get(step)
    if record is None:
        return ": it didn't build this step"
    if record.state in ("cached", "ran"):
        return ": an earlier version of finery recorded it"
    return f": it was {record.state}"
