"""From a recipe file to its graph and store, as all commands need them."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from blake3 import blake3

from finery.artifact.manifest import Manifest, Result, encode
from finery.builder.code.steps import StepCode
from finery.builder.keys import FORMAT
from finery.config import load_config
from finery.errors import PluginError, UsageError
from finery.plugin.manager import Plugins, load_plugins
from finery.recipe.document import Recipe, check_file, load
from finery.recipe.graph import Graph, build_graph
from finery.recipe.releases import RELEASES_FILE
from finery.recipe.requires import PROVISION_VARIABLE, check_requires
from finery.recipe.validate import raise_all
from finery.step.inspect import SECTIONS
from finery.store.database import Store
from finery.util.files import check_plain, hash_file
from finery.util.paths import plain_path, store_folder
from finery.util.text import did_you_mean

if TYPE_CHECKING:
    from finery.plugin.history import Results


def open_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Plugins]:
    """The recipe, and all plugins including its plugin files.

    Raises the errors of `requires:`, and that of a broken plugin that the recipe needs.
    """
    recipe = load(path, overrides)
    unmet = [*check_requires(recipe)]
    if unmet and os.environ.pop(PROVISION_VARIABLE, ""):
        provision(recipe)
    raise_all(unmet)
    plugins = plugins_of(recipe)
    plugins.raise_broken(_types_in(recipe.data))
    return recipe, plugins


def provision(recipe: Recipe) -> NoReturn:
    """Run this command again in an environment with finery and what the recipe requires.

    uv makes it, or pip, in the recipe's store. Raises `StepError` if it can't be made.
    """
    from finery.execute.venv import ensure, resolve_environment, variables_in

    def report(event: Mapping[str, Any]) -> None:
        if event["event"] == "log":
            print(event["message"], file=sys.stderr, flush=True)

    wheels = load_config(recipe.path, reads=True).wheels_folder(recipe.path)
    environment = resolve_environment("requires", recipe.data["requires"], None, wheels)
    python = ensure(environment, store_folder(recipe.path), report)
    command = [str(python), "-P", "-m", "finery", *sys.argv[1:]]
    os.execve(python, command, variables_in(python, os.environ))


def plugins_of(recipe: Recipe) -> Plugins:
    """All plugins including the recipe's plugin files, broken or not."""
    return load_plugins(_local_plugins(recipe))


def open_graph(
    path: Path, overrides: Sequence[str] = (), store: Store | None = None, **options: bool
) -> Graph:
    """The checked graph of a recipe. options: of `build_graph`, without a store.

    With a store, a recipe that was valid before with the same step types isn't validated again,
    since that takes longer than the rest of a build with nothing to do.
    """
    recipe, plugins = open_recipe(path, overrides)
    if store is None:
        return build_graph(recipe, plugins, **options)
    try:
        code = StepCode(recipe, plugins, store)
        digest = _check_digest(recipe, plugins, code)
    except PluginError:
        return build_graph(recipe, plugins)
    validated = store.fact(digest) is not None
    graph = build_graph(recipe, plugins, validated=validated)
    graph.code = code
    if not validated:
        store.keep_facts({digest: b""})
    return graph


def open_store(path: Path) -> Store:
    """The store of a recipe's project, which is created if it is missing.

    Raises `UsageError` if the recipe isn't a file.
    """
    check_file(path)
    store = Store(store_folder(path))
    store.shared.configured = lambda: load_config(path, reads=True).remote
    return store


class Project:
    """A recipe and the store with all that was built of it, for commands.

    graph: the recipe's checked graph. store: has the artifact of a manifest. Raises `UsageError` if
    the recipe isn't a file, and what is wrong in it as `RecipeError`.
    """

    def __init__(self, recipe: Path, overrides: Sequence[str] = ()) -> None:
        self.store = open_store(recipe)
        self.graph = open_graph(recipe, overrides, self.store)

    @cached_property
    def with_shared(self) -> dict[str, Result]:
        """The current results of steps, with those that the shared store has. Asks it once."""
        from finery.builder.plan import Planner
        from finery.builder.sharing import plans_with_shared

        planner = Planner(self.graph, self.store)
        config = load_config(self.graph.recipe.path, reads=True)
        plans = plans_with_shared(planner, config, without_files=True)
        return {plan.node.name: plan.result for plan in plans if plan.result is not None}

    def result(self, name: str) -> tuple[Result, bool]:
        """(A step's result, whether it is current). Otherwise it is the result of its last build.

        If the step was never built here, the shared store may have its result. Outside files may be
        missing by now. Raises `UsageError` if there is no result.
        """
        from finery.builder.plan import Planner, make_plan

        planner = Planner(self.graph.select([name]), self.store)
        plan = next(p for p in make_plan(planner, without_files=True) if p.node.name == name)
        if plan.result is not None:
            return plan.result, True
        last = planner.latest.get(name)
        result = self.store.lookup(last[0]) if last else None
        if result is None and (shared := self.with_shared.get(name)):
            return shared, True
        if result is None:
            fix = f"finery build {self.graph.recipe.argument}--step {name}"
            raise UsageError(f"step '{name}' isn't built yet", details=self._failure(name), fix=fix)
        return result, False

    def _failure(self, name: str) -> list[str]:
        """What stopped a step in the last build, in words."""
        from finery.builder.runs import runs_of

        run = next(runs_of(self.store.root, self.graph.recipe), None)
        own = run.steps.get(name) if run is not None else None
        stopped = run.steps.get(own.by, own) if run is not None and own is not None else None
        if stopped is None or not stopped.error:
            return []
        place = f"{where}: " if (where := stopped.error.get("where")) else ""
        return [f"{stopped.name} failed in the last build: {place}{stopped.error['what']}"]

    def output(self, result: Result, name: str, output: str, run_id: str | None = None) -> Manifest:
        """A step's output in a result. `UsageError` where the recipe got it after that build.

        run_id: of the build, if the user named one.
        """
        if output in result.outputs:
            return result.outputs[output]
        build = f"finery build {self.graph.recipe.argument}--step {name}"
        is_new = run_id is None and output in self.graph.nodes[name].outputs
        others = ", ".join(f"{name}.{other}" for other in result.outputs if other) or name
        raise UsageError(
            f"{'the last' if run_id is None else 'that'} build of '{name}' has no output "
            f"'{output}'",
            fix=build if is_new else f"name one that it has: {others}",
        )

    def results(self) -> "Results":
        """All outputs that are built for the current recipe."""
        from finery.builder.checks import results_of
        from finery.builder.plan import Planner, make_plan

        planner = Planner(self.graph, self.store)
        return results_of(planner, [*make_plan(planner, without_files=True)])


def _local_plugins(recipe: Recipe) -> tuple[Path, ...]:
    named = recipe.data.get("plugins") or []
    if not isinstance(named, list) or not all(isinstance(n, str) for n in named):
        raise recipe.error(
            "'plugins' must be a list of files", ["plugins"], fix="plugins: [./checks.py]"
        )
    paths = []
    for index, name in enumerate(named):
        path = plain_path(recipe.folder / name)
        try:
            check_plain(path)
        except FileNotFoundError:
            near = path.parent.glob("*.py")
            raise recipe.error(
                f"there is no plugin file {name}",
                ["plugins", index],
                fix=did_you_mean(path.name, [p.name for p in near])
                or "name a .py file; paths are relative to the recipe's folder",
            ) from None
        except OSError as error:
            raise recipe.error(
                f"can't read the plugin file {name[:80]}: {error.strerror}",
                ["plugins", index],
                fix="name a .py file; paths are relative to the recipe's folder",
            ) from None
        paths.append(path)
    return tuple(paths)


def _check_digest(recipe: Recipe, plugins: Plugins, code: StepCode) -> str:
    """The name in the store of a valid recipe: a digest of everything that the check depends on."""
    sections = {name: recipe.data.get(name) for name in SECTIONS}
    matrix = recipe.data.get("matrix")
    used = {*_types_in(sections), *_texts_in(matrix)}  # an axis may give a step another type
    notes = sorted(plugins.note_names) if recipe.data.get("silence") else []
    if isinstance(matrix, dict) and "select" in matrix:
        used.add(plugins.chooser)
    used &= plugins.step_types.keys()
    checks = code.check_dependencies(sorted(used))
    releases = recipe.path.parent / RELEASES_FILE  # which steps are left out depends on it
    released = hash_file(releases) if releases.is_file() else ""
    digest = blake3(encode([FORMAT, recipe.data, checks, notes, released])).hexdigest()
    return f"checked {digest}"


def _types_in(written: Mapping[str, Any]) -> Iterator[str]:
    """The step types in a part of a recipe, including nested steps."""
    use = written.get("use")
    if isinstance(use, str):
        yield use
    for value in written.values():
        if isinstance(value, dict):
            yield from _types_in(value)


def _texts_in(value: Any) -> Iterator[str]:
    """All texts in a value of a recipe, to any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts_in(each)
