"""The road from a recipe file to its graph and store, as every command walks it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3

from finery.artifact.manifest import Result
from finery.build.code import code_of
from finery.build.keys import FORMAT
from finery.errors import PluginError, UsageError
from finery.plugin.manager import Plugins, load_plugins
from finery.recipe.document import Recipe, load
from finery.recipe.graph import Graph, build_graph
from finery.step.inspect import SECTIONS
from finery.store.database import Store
from finery.util.canonical import encode
from finery.util.paths import store_folder
from finery.util.text import did_you_mean


def open_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Plugins]:
    """The recipe, and all plugins with those it names beside it.

    Raises the error of a broken plugin that the recipe can't do without.
    """
    recipe = load(path, overrides)
    plugins = plugins_of(recipe)
    plugins.raise_broken(_step_types_in(recipe.data))
    return recipe, plugins


def plugins_of(recipe: Recipe) -> Plugins:
    """All plugins with those that the recipe names beside it, broken or not."""
    return load_plugins(_local_plugins(recipe))


def _step_types_in(data: Any) -> Iterator[str]:
    """The step types that a recipe uses, those of steps inside others too."""
    if isinstance(data, dict):
        if isinstance(data.get("use"), str):
            yield data["use"]
        for value in data.values():
            yield from _step_types_in(value)


def open_graph(path: Path, overrides: Sequence[str] = (), store: Store | None = None) -> Graph:
    """The checked graph of a recipe.

    With a store, a recipe that passed its check before, with the same step types, isn't held
    against its schema again: that takes longer than all the rest of a build with nothing to do.
    """
    recipe, plugins = open_recipe(path, overrides)
    if store is None:
        return build_graph(recipe, plugins)
    digest = _check_digest(recipe, plugins, store)
    if digest is None:
        return build_graph(recipe, plugins)
    if store.was_checked(digest):
        return build_graph(recipe, plugins, validated=True)
    graph = build_graph(recipe, plugins)
    store.mark_checked(digest)
    return graph


def open_store(path: Path) -> Store:
    """The store of a recipe's project, made when there is none."""
    return Store(store_folder(path))


def result_of(graph: Graph, store: Store, name: str) -> tuple[Result, bool]:
    """A step's result with the recipe as it is, else that of its last build; whether it is the one.

    Outside files may be gone since it was built. Raises `UsageError` where it never was.
    """
    from finery.build.plan import Planner, make_plan

    planner = Planner(graph.select([name]), store)
    plan = next(p for p in make_plan(planner, without_files=True) if p.node.name == name)
    if plan.result is not None:
        return plan.result, True
    last = planner.latest.get(name)
    result = store.lookup(last[0]) if last else None
    if result is None:
        raise UsageError(f"step '{name}' isn't built yet", fix=f"finery build --step {name}")
    return result, False


def _local_plugins(recipe: Recipe) -> tuple[Path, ...]:
    named = recipe.data.get("plugins") or []
    if not isinstance(named, list) or not all(isinstance(n, str) for n in named):
        raise recipe.error(
            "'plugins' is a list of files", ["plugins"], fix="plugins: [./checks.py]"
        )
    found = []
    for index, name in enumerate(named):
        path = recipe.folder.absolute() / name
        if not path.is_file():
            near = path.parent.glob("*.py")
            raise recipe.error(
                f"there is no plugin file {name}",
                ["plugins", index],
                fix=did_you_mean(path.name, [p.name for p in near])
                or "name a .py file; paths are relative to the recipe's folder",
            )
        found.append(path)
    return tuple(found)


def _check_digest(recipe: Recipe, plugins: Plugins, store: Store) -> str | None:
    """A digest of all that decides whether the check passes; None where that can't be told."""
    used: set[str] = set()
    for section in SECTIONS:
        steps = recipe.data.get(section)
        if not isinstance(steps, dict):
            continue
        used.update(
            s["use"]
            for s in steps.values()
            if isinstance(s, dict) and isinstance(s.get("use"), str)
        )
    packages = {p.module.__name__.partition(".")[0] for p in plugins.plugins}
    code = {}
    for use in sorted(used):
        try:
            code[use] = code_of(plugins.step_type(use), packages, store.parsed)
        except PluginError:
            return None
    return blake3(encode([FORMAT, recipe.data, code])).hexdigest()
