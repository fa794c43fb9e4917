"""The plan: every step with its key, its state and the reason for it."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from inspect import getsourcefile, getsourcelines
from pathlib import Path
from typing import Any, Literal

import msgspec
from blake3 import blake3

from finery.artifact.kinds import Bundle, Model
from finery.artifact.manifest import (
    READ,
    Manifest,
    Parts,
    Result,
    encode,
    key_of,
    manifest,
    reads_in,
    result_key,
)
from finery.builder.code.closure import Closure
from finery.builder.code.index import Installed, read_installed
from finery.builder.code.steps import StepCode
from finery.builder.keys import (
    FORMAT_PART,
    NOT_BUILT,
    Acceptances,
    EngineKey,
    changes_between,
    differences,
    key_parts,
)
from finery.builder.reads import current_values, find_result, why_not_reusable
from finery.errors import FineryError, RecipeError, StepError
from finery.execute.entries import Places, entry_places
from finery.inference.engine import Identity
from finery.key import Key
from finery.plugin.history import Results
from finery.recipe.document import Recipe, RecipePath
from finery.recipe.environments import ENVIRONMENT_PIN, Environment, pin_text, pinned_environment
from finery.recipe.files import NamedFiles
from finery.recipe.graph import RELEASE, Graph, Node
from finery.recipe.lock import Lock
from finery.recipe.releases import release_parts
from finery.recipe.requires import plugin_pins
from finery.step.inspect import full_name, give_files, joint_key, steps_inside
from finery.step.step import Step, is_overridden
from finery.store.database import Store
from finery.util.installed import (
    is_finery_module,
    normalise_name,
    package_version,
    use_versions,
    version_of,
)
from finery.util.paths import PINNED_FOLDER, plain_path, project_folder, recipe_id, shown
from finery.util.text import some_of, suggest_nearest, visible

LOST = "can't be had from the shared store"
FEW = 3
"""Variants of a step that are named one by one."""
State = Literal["cached", "run", "pending"]


@dataclass
class StepPlan:
    """The state of one step in a plan, and the reason.

    key, parts: without what the step reads besides its inputs. reads: that of its result, otherwise
    the current values of what it read for the last one.
    """

    node: Node
    state: State
    reason: str = ""
    key: str = ""
    parts: Parts = field(default_factory=list)
    reads: Parts = field(default_factory=list)
    result: Result | None = None
    accepted: list[str] = field(default_factory=list)  # parts that differ from the result's
    same_as: str = ""  # an earlier step that runs with the same key: this one takes its output
    gone: str = ""  # the outside file that is missing
    files: NamedFiles = field(default_factory=dict)
    pinned: str | None = None
    environment: Environment | None = None  # the step's own, once recipe.lock has its packages
    provenance: dict[str, Any] = field(default_factory=dict)  # see `Step.provenance`
    # Model format → its engine in keys of records.
    engines: dict[str, Identity] = field(default_factory=dict)
    has_local_engine: bool = False
    engine_uses_gpu: bool = False
    own: Key = field(default_factory=Key)  # what the step and those inside it add to the key
    code: list[Closure] = field(default_factory=list)  # with its engines, and what wraps it

    @property
    def code_files(self) -> set[str]:
        """The files that its code depends on."""
        return {path for closure in self.code for path in closure.files}

    @property
    def left_out(self) -> dict[str, list[str]]:
        """Plugin file → step types in it that don't count: its process must not define them."""
        paths = {path for closure in self.code for path in closure.left_out}
        each = {p: [{*c.left_out.get(p, ())} for c in self.code if p in c.files] for p in paths}
        return {path: sorted(set.intersection(*names)) for path, names in each.items()}

    @property
    def all_parts(self) -> Parts:
        """The parts of the key, with what the step reads."""
        return [*self.parts, *self.reads]

    @property
    def result_key(self) -> str:
        """The key of its result, as far as that is known: it may be that of an accepted one."""
        if self.result is not None:
            return self.result.key
        return result_key(self.key, self.reads) if self.key else ""

    @property
    def acceptance(self) -> str:
        """Why a result under another key serves the step; empty if none does."""
        return f"accepted: {some_of(self.accepted)}" if self.accepted else ""

    @property
    def isolated(self) -> bool:
        """Whether the step needs its own process."""
        return type(self.node.step).__spec__.isolated or self.has_local_engine or self.gpus > 0

    @property
    def gpus(self) -> int:
        """How many GPUs the step uses, on a machine that has them.

        What `resources` asks for, which the graph has compared with the step's own number.
        """
        asks = self.node.resources
        return asks.gpus or self.own_gpus or int(asks.gpu_memory > 0)

    @property
    def own_gpus(self) -> int:
        """How many GPUs the step uses according to its step type; only they may affect its key."""
        count = max(self.node.step.resources().gpus, int(self.engine_uses_gpu))
        return min(count, len(self.node.gpus) or count)


class Planner:
    """Resolves steps one by one, as soon as their inputs are built."""

    def __init__(self, graph: Graph, store: Store, lock: Lock | None = None) -> None:
        self.graph = graph
        self.store = store
        self.recipe_id = recipe_id(graph.recipe.path, store.root)
        self.latest = store.latest(self.recipe_id)
        store.read_ahead(self.latest[name][0] for name in graph.nodes if name in self.latest)
        self.lock = lock or Lock(graph.recipe.path)
        self.acceptances = Acceptances(self.lock.accepted())
        self.unbuilt = "never built"  # the reason for steps without an earlier result
        self.code: StepCode = graph.code
        if graph.code is None or not self.code.is_current(store):
            self.code = StepCode(graph.recipe, graph.plugins, store)
        self._unresolvable: dict[str, RecipeError] = {}  # environments
        self.outside: set[str] = set()  # what the keys of steps and engines watch
        for node in graph.nodes.values():
            for each in (node, *node.candidates.values()):
                # now, since this process has just imported that code
                self.code.of_step(each.step, self._written(each), joint_key(each.step))

    def resolve(self, name: str, results: Mapping[str, Result | None]) -> StepPlan:
        """The plan of a step, given the results of earlier steps (None if not built)."""
        node = self.graph.nodes[name]
        choice = self.graph.choice_for(node, results)
        if choice is not None:  # it is of the variant that was chosen
            node = self.graph.settle(name, choice)
        missing = [step for step in self._needed(node) if not results.get(step)]
        inputs = {} if missing else self.inputs(node, results)
        plan = StepPlan(node, "pending", files=self.graph.files(node))
        give_files(node.step, plan.files)  # a floating name may depend on their content
        floating = node.step.floating_name()
        plan.pinned = self.lock.get(floating) if floating is not None else None
        if node.environment:
            plan.environment = pinned_environment(self.graph.recipe, node.environment, self.lock)
        if not missing:
            plan.provenance = self._provenance(node, results)
        with use_versions(versions_in(plan.environment)):
            plan.parts = self._parts(plan, inputs, results)
        if missing:
            own = {source.step for source in node.sources}
            nearest = [step for step in missing if step in own] or missing
            plan.reason = f"waits for {', '.join(self._in_words(nearest))}"
            if node.chosen_by in missing:
                plan.reason = f"waits for {node.chosen_by}"
                if self.graph.is_one_of_its_variants(node):
                    plan.same_as = self.graph.variants_of(node.origin)[0]
                    plan.reason = f"the variant that {node.chosen_by} chooses, built by then"
            return plan
        if floating is not None and not plan.pinned:
            plan.state = "run"
            plan.reason = f"{floating} isn't pinned in {self.lock.path.name} yet"
            return plan
        if node.environment and plan.environment is None:
            plan.state = "run"
            plan.reason = (
                f"environment '{node.environment}' isn't resolved in {self.lock.path.name} yet"
            )
            return plan
        plan.key = key_of(plan.parts)
        plan.result = self.lookup(plan, inputs)
        last = self.latest.get(name, ("",))[0]
        if plan.result is not None:
            plan.reads = reads_in(plan.result.parts)
        elif last and (before := reads_in(self.store.parts_of(last) or [])):
            names = [part for part, _ in before if part.startswith(READ)]
            plan.reads = current_values(self.store, self.places(plan), names)
        plan.state = "cached" if plan.result else "run"
        plan.reason = plan.acceptance if plan.result else self._reason(plan)
        return plan

    def lookup(self, plan: StepPlan, inputs: Mapping[tuple[str, int], Manifest]) -> Result | None:
        """The kept result of a step. One with other outputs than the step's is damaged."""
        for key, parts in self.keys(plan):
            every = [*inputs.values()]
            result = find_result(self.store, key, parts, every, lambda: self.places(plan))
            if result is not None and self.fits(plan, result.outputs):
                if plan.node.release is not None:
                    return _marked(result, plan.node.step)
                others = differences(parts, plan.parts) if key != plan.key else []
                plan.accepted = [visible(name) for name, *_ in others]
                return result
        return None

    def keys(self, plan: StepPlan) -> Iterator[tuple[str, Parts]]:
        """The keys whose results serve a step: its own, then those before accepted changes."""
        yield plan.key, plan.parts
        for parts in self.acceptances.earlier(plan.parts) if plan.node.release is None else ():
            yield key_of(parts), parts

    def places(self, plan: StepPlan) -> Places:
        """What the names of what a step reads mean."""
        recipe = self.graph.recipe
        folder, project = plain_path(recipe.folder), project_folder(recipe.path)
        code = tuple(sorted(plan.code_files))
        return entry_places(str(project), str(folder), str(self.store.root), code)

    @staticmethod
    def fits(plan: StepPlan, outputs: Mapping[str, Manifest]) -> bool:
        """Whether a step can have these outputs, by their names and kinds."""
        release = plan.node.release
        if release is not None and [made.digest for made in outputs.values()] != [release.digest]:
            return False
        expected = {name: kind.kind for name, kind in plan.node.outputs.items()}
        return {name: made.kind for name, made in outputs.items()} == expected

    def _needed(self, node: Node) -> list[str]:
        """The steps whose results the step's key depends on, in the order of the graph."""
        chosen = [node.chosen_by] if node.chosen_by else []
        if is_overridden(type(node.step), "provenance"):
            before = [name for name in self.graph.select([node.name]).nodes if name != node.name]
            return [*chosen, *before]
        return [*chosen, *(source.step for source in node.sources)]

    def _in_words(self, steps: Sequence[str]) -> Iterator[str]:
        """The steps, those with many variants once."""
        nodes = self.graph.nodes
        counts = Counter(nodes[step].origin for step in {*steps})
        seen: set[str] = set()
        for step in dict.fromkeys(steps):
            origin = nodes[step].origin
            if counts[origin] <= FEW:
                yield step
            elif origin not in seen:
                seen.add(origin)
                yield f"{counts[origin]} variants of {origin}"

    def _provenance(self, node: Node, results: Mapping[str, Result | None]) -> dict[str, Any]:
        """How the step's inputs were made, if it declares that it needs this."""
        if not is_overridden(type(node.step), "provenance"):
            return {}
        graph = self.graph.select([node.name])
        facts = node.step.provenance(node.name, graph, Results(self.store, results, self.latest))
        return dict(json.loads(json.dumps(facts)))

    def inputs(
        self, node: Node, results: Mapping[str, Result | None]
    ) -> dict[tuple[str, int], Manifest]:
        """(field, index) → manifest of each input. All inputs must be built."""
        inputs = {}
        for source in node.sources:
            result = results[source.step]
            assert result is not None
            inputs[source.field, source.index] = result.outputs[source.output]
        return inputs

    def forget_pins(self) -> None:
        """Treat the floating names of the selected steps, or of all, as unpinned."""
        names: list[str] | None = None
        if self.graph.whole is not None:
            for node in self.graph.nodes.values():
                give_files(node.step, self.graph.files(node))
            floating = (node.step.floating_name() for node in self.graph.nodes.values())
            names = [name for name in floating if name is not None]
            names += [
                f"{ENVIRONMENT_PIN}{n.environment}"
                for n in self.graph.nodes.values()
                if n.environment
            ]
            names += plugin_pins(self.graph)
        self.lock.forget(names)

    def pin_plugins(self) -> None:
        """Record the versions of plugins that the lock file doesn't have."""
        for name, version in plugin_pins(self.graph).items():
            if self.lock.get(name) is None:
                self.lock.set(name, version)

    def pin(self, node: Node) -> None:
        """Resolve the step's floating name and record the result in the lock file."""
        name = node.step.floating_name()
        if name is not None:
            self.lock.set(name, node.step.pin_name(self.store.root / PINNED_FOLDER))

    def resolve_environment(self, name: str) -> None:
        """Resolve the packages of an environment and record them in the lock file.

        Raises `RecipeError` with its line, again for each step if there are no such versions.
        """
        from finery.execute.venv import resolve_environment

        recipe = self.graph.recipe
        if name not in self._unresolvable:
            declared = recipe.data["environments"][name]
            packages, python = declared["packages"], declared.get("python")
            try:
                environment = resolve_environment(name, packages, python, self.wheels)
                self.lock.set(f"{ENVIRONMENT_PIN}{name}", pin_text(recipe, environment))
                return
            except StepError as error:
                named = [i for i, p in enumerate(packages) if re.split(r"\W", p)[0] in error.what]
                place: RecipePath = ("environments", name, "packages", *named[:1])
                self._unresolvable[name] = recipe.error(error.what, place, fix=error.fix)
        raise self._unresolvable[name]

    @cached_property
    def wheels(self) -> str:
        """The folder of wheels for environments, from the settings; empty if there is none."""
        from finery.config import load_config

        recipe = self.graph.recipe.path
        return load_config(recipe, reads=True).wheels_folder(recipe)

    def _parts(
        self,
        plan: StepPlan,
        inputs: Mapping[tuple[str, int], Manifest],
        results: Mapping[str, Result | None],
    ) -> Parts:
        node = plan.node
        if node.release is not None:
            return release_parts(node.release.digest)
        plan.own = own = joint_key(node.step)
        closure = self.code.of_step(node.step, self._written(node), own)
        plan.code, engines = [closure, *self.code.around], {}
        self.outside.update(own.watched)
        if type(node.step).__spec__.engines:
            known = self.graph.plugins.engines
            places = [(s.field, s.index) for s in node.sources if s.role != "tokenizer"]
            used = [inputs[place] for place in places if place in inputs]
            for model_format in sorted({f for m in used for f in _formats(m, known)}):
                engine = self.graph.plugins.engine(model_format)
                engine_key = engine.cache_key()
                code = self.code.of_engine(model_format, engine_key)
                plan.code.append(code)
                imported = sorted(code.packages)
                free_key = EngineKey(full_name(engine), code.code, engine_key, imported)
                more = Key(packages=engine.schema_packages if own.schemas else ())
                key = free_key._replace(own=engine_key | more)
                self.outside.update(key.own.watched)
                engines[model_format] = key
                plan.has_local_engine |= engine.local
                plan.engine_uses_gpu |= engine.uses_gpu()
                free = engine.version or _digest(free_key)
                held = engine.version or _digest(key)
                plan.engines[model_format] = Identity(free, held if own.schemas else None)
        if not all(map(version_of, own.packages)):
            for error in wrong_distributions(self.graph.recipe, node, self.lock):
                raise error
        digests = {}
        for source in node.sources:
            result = results.get(source.step)
            digests[source.field, source.index] = (
                result.outputs[source.output].digest if result else NOT_BUILT
            )
        return key_parts(
            node,
            own=own,
            code=closure.code,
            wrappers=self.code.wrappers,
            inputs=digests,
            files=self.store.digest_files(plan.files),
            pinned=plan.pinned,
            provenance=plan.provenance,
            engines=engines,
            gpus=plan.own_gpus,
            environment=plan.environment,
            imported=sorted(closure.packages),
            variables=self.code.variables(node.step, node.use),
        )

    def _written(self, node: Node) -> Mapping[str, Any]:
        step: Mapping[str, Any] = self.graph.recipe.data[node.section][node.name]
        return step

    def _reason(self, plan: StepPlan) -> str:
        if plan.node.release is not None:
            return "its files are neither here nor in a shared store"
        if any(self.store.seconds_of(key) is not None for key in (plan.key, plan.result_key)):
            lost = self.store.shared.lost
            return f"its files {'are missing or damaged' if not lost else LOST}"
        last, _ = self.latest.get(plan.node.name, ("", None))
        before = self.store.parts_of(last)
        if before is None:
            return self.unbuilt
        if last == plan.result_key:
            return "its result was lost with a damaged database"
        if why := why_not_reusable(before):
            return f"its last result can't be reused, since the step {why}"
        changes = changes_between(before, plan.all_parts, self.code.names)
        if any(change.part == FORMAT_PART for change in changes):
            return "this version of finery computes keys in another way: built once more"
        more = f" and {len(changes) - 2} more" if len(changes) > 2 else ""
        return "; ".join(map(str, changes[:2])) + more

    def explain(self, name: str) -> tuple[StepPlan, Parts | None, Parts | None]:
        """(the step's current plan, its parts at the last build, its parts at the build before)."""
        plan = next(p for p in make_plan(self) if p.node.name == name)
        keys = self.latest.get(name, ("", None))
        last, before = (self.store.parts_of(key or "") for key in keys)
        return plan, last, before


def make_plan(planner: Planner, *, without_files: bool = False) -> Iterator[StepPlan]:
    """The plan of every step, in the order of the graph.

    without_files: for commands that only show results. If outside files are missing, the step is
    pending and `gone` names them. By default, that raises `RecipeError`.
    """
    results: dict[str, Result | None] = {}
    running: dict[str, str] = {}
    for name in planner.graph.nodes:
        node = planner.graph.nodes[name]
        try:
            plan = planner.resolve(name, results)
        except RecipeError as error:
            if not without_files:
                raise
            plan = StepPlan(node, "pending", reason=error.what, gone=error.what)
        results[name] = plan.result
        if plan.state == "run" and plan.key:
            first = running.setdefault(plan.key, name)
            if first != name:
                plan.same_as, plan.reason = first, f"equal to {first}: built once"
        yield plan


def _marked(result: Result, step: Step) -> Result:
    """The result with the tag of a release among its facts, by which evaluators know it."""
    facts = {RELEASE: getattr(step, "tag", "")}
    outputs = {
        name: manifest(
            m.kind, m.meta, m.files, m.refs, m.external, {**m.runtime, **facts}, m.executable
        )
        for name, m in result.outputs.items()
    }
    return msgspec.structs.replace(result, outputs=outputs)


def _digest(engine: EngineKey) -> str:
    """An engine in keys of records."""
    packages = (*engine.own.packages, *engine.imported)
    versions = {package: package_version(package) for package in packages}
    facts = [dict(engine.own.facts)] if engine.own.facts else []
    return blake3(encode([engine.name, dict(engine.code), versions, *facts])).hexdigest()


def _formats(manifest: Manifest, known: Collection[str]) -> Iterator[str]:
    """The formats of a model and of all models that it refers to.

    Also that of a bundle, if an engine with the name (`known`) runs the same program.
    """
    written = str(manifest.meta.get("format", ""))
    if manifest.kind == Model.kind or (manifest.kind == Bundle.kind and written in known):
        yield written
    for ref in manifest.refs.values():
        yield from _formats(ref, known)


def wrong_distributions(recipe: Recipe, node: Node, lock: Lock) -> Iterator[FineryError]:
    """An error for each name in `packages=` of a step that no distribution has.

    finery's own step types also name those of extras that aren't installed. Nothing is wrong yet in
    an environment that isn't resolved.
    """
    environment = pinned_environment(recipe, node.environment, lock) if node.environment else None
    if node.environment and environment is None:
        return
    with use_versions(versions_in(environment)):
        absent = [
            (path, type(step), name) for path, step in (("", node.step), *steps_inside(node.step))
            for name in step.cache_key().packages
            if version_of(name) is None and not is_finery_module(type(step).__module__)
        ]  # fmt: skip
    installed = read_installed() if absent else Installed({}, {}, {})
    extras = {name for name, _, _ in installed.requires.get("finery", ())}
    for path, cls, name in [each for each in absent if normalise_name(each[-1]) not in extras]:
        owner = next(iter(installed.owners.get(name, ())), None)
        meant = f"did you mean '{owner}'?" if owner else suggest_nearest(name, installed.requires)
        error = recipe.error(
            f"{full_name(cls)} names the distribution '{name}' in its key, which isn't installed",
            (*node.place, *filter(None, path.split(".")), "use"),
            fix=meant or f"pip install {name}",
        )
        with suppress(OSError, TypeError):  # a class that isn't in a file
            lines, number = getsourcelines(cls)
            file = shown(Path(getsourcefile(cls) or ""))
            error.details.append(f"{file}:{number}: {lines[0].strip()}")
        yield error


def versions_in(environment: Environment | None) -> dict[str, str] | None:
    """The versions in a step's environment, finery and plugins included; None: it has none."""
    if environment is None:
        return None
    from finery.execute.venv import own_distributions

    return environment.versions | {each.name: each.version for each in own_distributions()}
