"""Steps that wait, and their preparation: as tasks, or to answer questions about them here."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from finery.artifact.manifest import Manifest, Result, with_references
from finery.builder.plan import Planner, StepPlan
from finery.execute.environment import secrets_for_all
from finery.execute.executor import Executor, Expects, Need, Task
from finery.execute.routing import Router
from finery.fields import Files, Settings
from finery.inference.records import SqliteRecords
from finery.plugin.discovery import Plugin
from finery.plugin.manager import Plugins
from finery.recipe.document import Recipe
from finery.recipe.graph import Graph, Node, Source
from finery.recipe.releases import Releases
from finery.step.inspect import (
    inputs_of,
    nested_fields,
    part_at,
    steps_inside,
    tag_of,
)
from finery.step.job import Job, Report
from finery.step.released import Released
from finery.step.step import Step
from finery.store.database import Store
from finery.util.installed import package_version
from finery.util.paths import PINNED_FOLDER, plain_path


def task_of(
    plan: StepPlan, planner: Planner, results: Mapping[str, Result], log: Path, project: Path
) -> Task:
    """The task of a step whose inputs are built.

    log: the file for its output. project: the project folder. Raises `RecipeError` if an
    environment variable that the step needs isn't set, and for a release, whose files are gone.
    """
    node, spec, graph = plan.node, type(plan.node.step).__spec__, planner.graph
    if node.release is not None and isinstance(node.step, Released):
        problem, fix = Releases(graph.recipe.path).lost(node.release, node.step.tag)
        raise graph.recipe.error(problem, node.place, key=True, fix=fix)
    inputs: dict[str, list[tuple[str, Manifest]]] = {}
    for (name, _), manifest in planner.inputs(node, results).items():
        refs = [s.ref for s in node.sources if s.field == name]
        inputs.setdefault(name, []).append((refs[len(inputs.get(name, []))], manifest))
    written = graph.recipe.data[node.section][node.name]
    nested = {  # outer ones first
        path: (part_at(written, path)["use"], _settings(within))
        for path, within in steps_inside(node.step)
    }
    uses = [node.use, *(use for use, _ in nested.values())]
    plugins = _plugins(plan, uses, graph.plugins)
    environment = plan.environment
    if environment is not None:
        environment = msgspec.structs.replace(environment, wheels=planner.wheels)
    out, scratch = planner.store.work(plan.key)
    return Task(
        **msgspec.structs.asdict(need_of(plan)),
        expects=_expects(plan),
        settings=_settings(node.step),
        nested=nested,
        inputs=inputs,
        files={
            setting: [(name, str(path)) for name, path in files]
            for setting, files in plan.files.items()
        },
        seed=node.seed if plan.own.seeded else None,
        pinned=plan.pinned,
        provenance=plan.provenance,
        env=_environment(graph.recipe, node, results, spec.engines),
        engines=plan.engines,
        plugins=[str(plugin.path) for plugin in plugins if plugin.path],
        entry_points=[plugin.name for plugin in plugins if not plugin.path],
        store=str(planner.store.root),
        out=str(out),
        scratch=str(scratch),
        log=str(log),
        gpu_names=node.gpus,
        project=str(project),
        recipe=str(plain_path(graph.recipe.folder)),
        code=sorted(plan.code_files),
        left_out=plan.left_out,
        environment=environment,
    )


def _plugins(plan: StepPlan, uses: Iterable[str], plugins: Plugins) -> list[Plugin]:
    """The plugins in a step's key, besides finery's own: its process loads no others.

    Those of its step types, of its engines and of what their `cache_key` names, and those that act
    on every step: by a wrapper or in the environment of workers.
    """
    needed = [plugins.step_types[use][1].name for use in uses]
    needed += [plugins.engines[name][1].name for name in plan.engines]
    hooks = (plugins.hook.finery_run_step, plugins.hook.finery_worker_environment)
    acting = [each.plugin for hook in hooks for each in hook.get_hookimpls()]
    modules = (str(getattr(code, "__module__", code)) for code in plan.own.code)
    names = {module.partition(":")[0].partition(".")[0] for module in modules}
    return [
        plugin for plugin in plugins.plugins
        if not plugin.is_own and (
            plugin.name in needed or plugin.module in acting
            or plugin.module.__name__.partition(".")[0] in names
        )
    ]  # fmt: skip


def need_of(plan: StepPlan) -> Need:
    """What decides where and when a step may start."""
    node = plan.node
    return Need(
        key=plan.key, step=node.name, use=node.use, section=node.section, origin=node.origin,
        isolated=plan.isolated, alone=type(node.step).__spec__.alone, gpus=plan.gpus,
        nodes=node.step.resources().nodes, resources=node.resources,
    )  # fmt: skip


def _expects(plan: StepPlan) -> Expects:
    """What the environment that runs a step must have, according to its key."""
    parts, prefix = dict(plan.parts), "package "
    named = {p.removeprefix(prefix): v for p, v in parts.items() if p.startswith(prefix)}
    packages = {"finery": package_version("finery")} | named
    return Expects(python=parts["python"], packages=packages)


def _settings(step: Settings) -> dict[str, Any]:
    """The step's settings as plain data, with placeholders for inputs and outside files."""
    inputs = inputs_of(type(step)) if isinstance(step, Step) else {}
    nested = nested_fields(type(step)) if isinstance(step, Step) else {}
    settings: dict[str, Any] = {}
    for name in type(step).__struct_fields__:
        value = getattr(step, name)
        if name in inputs:
            settings[name] = [] if inputs[name].many else None if value is None else ""
        elif name in nested:
            continue  # a task has nested steps apart
        elif isinstance(value, Settings):
            settings[name] = tag_of(value) | _settings(value)
        elif isinstance(value, Files):
            settings[name] = value.patterns
        else:
            settings[name] = msgspec.to_builtins(value)
    return settings


def _environment(
    recipe: Recipe, node: Node, results: Mapping[str, Result], engines: bool
) -> dict[str, str]:
    """The variables that the recipe passes to a step or that its models need."""
    for index, name in enumerate(node.env):
        if name not in os.environ:
            raise recipe.error(
                f"the environment variable {name}, which step '{node.name}' needs, isn't set",
                (*node.place, "env", index),
                fix=f"export {name}=…",
            )
    variables = secrets_for_all(os.environ) | {name: os.environ[name] for name in node.env}
    for source in node.sources if engines else ():
        needed = with_references(_input(source, results))
        for name in {name for model in needed for name in model.runtime.get("env", [])}:
            if name not in os.environ:
                raise recipe.error(
                    f"the environment variable {name}, which the model '{source.ref}' needs, "
                    "isn't set",
                    node.place,
                    key=True,
                    fix=f"export {name}=…",
                )
            variables[name] = os.environ[name]
    return variables


def must_wait(plan: StepPlan, running: Iterable[StepPlan], results: Mapping[str, Result]) -> bool:
    """Whether a running step has the same key or shares a model that limits requests.

    Then they run one at a time. So the limit holds for both, and a request that they share is sent
    once.
    """
    models = _limited_models(plan.node, results)
    return any(
        other.key == plan.key or not models.isdisjoint(_limited_models(other.node, results))
        for other in running
    )


def _limited_models(node: Node, results: Mapping[str, Result]) -> frozenset[str]:
    """Digests of a step's models that limit concurrent requests in their runtime facts."""
    if not type(node.step).__spec__.engines:
        return frozenset()
    inputs = (m for s in node.sources for m in with_references(_input(s, results)))
    return frozenset(m.digest for m in inputs if "concurrency" in m.runtime)


def _input(source: Source, results: Mapping[str, Result]) -> Manifest:
    return results[source.step].outputs[source.output]


def job_without_run(
    node: Node, folder: Path, store: Store | None = None, *, pinned: str | None = None,
    report: Report = lambda event: None,
) -> Job:  # fmt: skip
    """A job without engines. folder: an empty folder that the caller removes.

    store: with cached answers, which get the step's variables of the environment; None: neither.
    """
    (folder / "out").mkdir()
    variables = {name: os.environ[name] for name in node.env if name in os.environ}
    return Job(
        out=folder / "out",
        scratch=folder / "scratch",
        seed=node.seed if node.is_seeded else None,
        report=report,
        records=SqliteRecords(store.database) if store else None,
        secrets=(secrets_for_all(os.environ) | variables) if store else None,
        pinned=pinned,
        kept=store.root / PINNED_FOLDER if store else None,
    )


# -- steps that wait ------------------------------------------------------------------------------


class Order:
    """Which steps have all their inputs.

    ready: those that were neither looked up nor blocked yet; the last comes first.
    """

    def __init__(self, graph: Graph) -> None:
        self.ready: list[str] = []
        self._graph = graph
        self._missing: dict[str, int] = {}
        self._downstream: dict[str, list[str]] = {n: [] for n in graph.nodes}
        for name, node in graph.nodes.items():
            for upstream in node.upstream():
                self._downstream[upstream].append(name)

    def restart(self, failed: Collection[str]) -> None:
        """Begin with the steps that wait for no other, except failed ones."""
        nodes = self._graph.nodes
        self._missing = {n: len(node.upstream()) for n, node in nodes.items()}
        self.ready = [n for n in reversed(nodes) if self._missing[n] == 0 and n not in failed]

    def settle(self, step: str, is_out: Collection[str]) -> None:
        """Release the steps that wait only for this one. is_out: those that can't run."""
        for name in self._downstream[step]:
            self._missing[name] -= 1
            if self._missing[name] == 0 and name not in is_out:
                self.ready.append(name)

    def last(self) -> list[str]:
        """The steps whose outputs no other takes."""
        return [name for name, after in self._downstream.items() if not after]

    def downstream(self, step: str) -> Iterator[str]:
        """The steps that wait for this one, directly or through others."""
        visited, stack = {step}, list(self._downstream[step])
        while stack:
            name = stack.pop()
            if name not in visited:
                visited.add(name)
                yield name
                stack.extend(self._downstream[name])


class Queues:
    """Steps with all their inputs that wait for room, in one queue for each place to run."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        # By executor and whether a step is isolated: each kind waits for another place.
        self._queues: dict[tuple[str, bool], dict[str, StepPlan]] = {}

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def add(self, plan: StepPlan) -> None:
        """Let a step wait."""
        router = self._executor
        where = router.name_for(need_of(plan)) if isinstance(router, Router) else ""
        self._queues.setdefault((where, plan.isolated), {})[plan.node.name] = plan

    def clear(self) -> None:
        """Let no step wait any more."""
        self._queues.clear()

    def take(self) -> Iterator[StepPlan]:
        """Remove the steps that there is room for, each while there is."""
        for _, queue in sorted(self._queues.items()):
            while (name := self._first(queue)) is not None:
                yield queue.pop(name)

    def _first(self, queue: Mapping[str, StepPlan]) -> str | None:
        """The first step of a queue that there is room for.

        Only steps that need no GPU pass one that waits for its GPUs, so that it gets them.
        """
        waits = False
        for name, plan in queue.items():
            if plan.gpus and waits:
                continue
            if self._executor.has_room(need_of(plan)):
                return name
            if not plan.gpus:
                return None
            waits = True
        return None
