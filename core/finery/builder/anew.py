"""Builds a step again in a store of its own, without publishing anything.

That store gets the inputs as links to the blobs of the real one. It has no answers of models,
unless they come from a server: those would cost money again.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

from finery.artifact.manifest import Result
from finery.builder.garbage import blob_sizes
from finery.builder.outputs import OutputLinks
from finery.builder.plan import StepPlan
from finery.builder.runs import Outcome
from finery.builder.scheduler import Build
from finery.execute.executor import Executor
from finery.recipe.graph import Graph
from finery.store.blobs import blob_path
from finery.store.database import Store
from finery.store.uses import held_folder
from finery.util.events import Listener, new_run_id
from finery.util.paths import PINNED_FOLDER


@contextmanager
def temporary_store(store: Store) -> Iterator[Store]:
    """A store for builds that aren't published, removed afterwards.

    Meanwhile, nothing is removed from `store`.
    """
    store.check_writable()
    store.hold(new_run_id())
    with held_folder(store.root) as folder:
        (folder / PINNED_FOLDER).symlink_to(store.root / PINNED_FOLDER)
        with closing(Store(folder)) as temporary:
            yield temporary


def build_anew(
    graph: Graph, plans: Mapping[str, StepPlan], names: Sequence[str], store: Store, empty: Store,
    executor: Executor, listeners: Sequence[Listener],
) -> Outcome:  # fmt: skip
    """Run the steps `names` in the store `empty`, with the inputs that they have in `store`."""
    subgraph = graph.select(names)
    input_results: list[Result] = []
    for name in subgraph.nodes.keys() - {*names}:
        result = plans[name].result
        assert result is not None
        input_results.append(result)
        store.shared.bring(result.outputs.values())
        for digest in blob_sizes(result.outputs):
            path = blob_path(empty.objects, digest)
            path.parent.mkdir(exist_ok=True)
            if not os.path.lexists(path):
                path.symlink_to(store.blob(digest).absolute())
    empty.commit(input_results, run="")
    if any(plans[name].engines and not plans[name].has_local_engine for name in names):
        with closing(sqlite3.connect(empty.database)) as db:
            db.execute("ATTACH ? AS real", [str(store.database)])
            db.execute("INSERT OR IGNORE INTO records SELECT * FROM real.records")
            db.commit()
    build = Build(subgraph, empty, executor, listeners)
    build.planner.unbuilt = "once more, to compare its output"
    build.folder = empty.root / "build"
    build.outputs = OutputLinks(empty, build.folder, {})
    return build.run()
