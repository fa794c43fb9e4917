"""Prints the keys of a recipe's steps in a temporary folder. Runs as a separate process.

`python -m finery.compare.revision [TREE, TOP, RECIPE, STORE]`, a JSON list: the folder with the
files of a revision, that of the working tree, the recipe's path in both, and the store.
"""

import glob
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finery.builder.plan import Planner, make_plan
from finery.builder.project import open_graph
from finery.builder.runs import ask
from finery.errors import FineryError
from finery.recipe.graph import Graph
from finery.recipe.lock import Lock
from finery.step.inspect import files_of
from finery.store.database import Store


def main() -> None:
    """Print one line of JSON: `steps` and `linked`, or `error`."""
    tree, top, recipe, store = json.loads(sys.argv[1])
    out, sys.stdout = sys.stdout, sys.stderr  # plugin files may print
    try:
        answer = planned(Path(tree), Path(top), recipe, Path(store))
    except FineryError as error:
        answer = {"error": error.to_dict()}
    print(json.dumps(answer, default=str), file=out)


def planned(tree: Path, top: Path, recipe: str, root: Path) -> dict[str, Any]:
    """The steps with their keys, and the files that git doesn't have."""
    store = Store(root)
    lock = os.path.join(os.path.dirname(recipe), Lock(Path(recipe)).path.name)
    linked = [lock] if _link(tree, top, lock) else []
    graph = open_graph(tree / recipe, (), store)
    named = dict.fromkeys(_named(graph, top, recipe))
    linked += [name for name in named if _link(tree, top, name)]
    steps = [
        {"name": p.node.name, "use": p.node.use, "key": p.result_key, "parts": p.all_parts}
        | {"reason": p.reason}
        for p in make_plan(Planner(graph, store), without_files=True)
    ]
    return {"steps": steps, "linked": linked}


def _named(graph: Graph, top: Path, recipe: str) -> Iterator[str]:
    """Files of the working tree that settings name, by their path in it."""
    folder = top / os.path.dirname(recipe)
    for node in graph.nodes.values():
        for files in files_of(node.step).values():
            for pattern in files.patterns:
                name = str(Path(pattern))
                for match in sorted(glob.glob(name, root_dir=folder, recursive=True)):
                    path = os.path.normpath(folder / match)
                    if path.startswith(f"{top}{os.sep}"):
                        yield os.path.relpath(path, top)


def _link(tree: Path, top: Path, name: str) -> bool:
    """Put a file in the tree that git has in no revision; False if there is nothing to do."""
    target, source = tree / name, top / name
    if target.exists() or not source.exists() or ask(top, "ls-files", "--", name):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)
    return True


if __name__ == "__main__":
    main()
