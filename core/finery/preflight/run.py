"""Proofs of a recipe's trainings before any of them runs, for `finery check --deep`.

The light steps that trainings depend on are built into the store, where the next build finds them.
Nothing heavy runs: no training, no generation, no step that needs its own process.
"""

import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from finery.artifact.kinds import Artifact, Model
from finery.builder.dispatch import job_without_run
from finery.builder.plan import Planner, StepPlan, make_plan
from finery.builder.scheduler import Build
from finery.errors import FineryError, each_once
from finery.execute.local import LocalExecutor
from finery.preflight.report import Proof
from finery.recipe.graph import Graph, Node, Source, place_of
from finery.recipe.lock import UnwrittenLock
from finery.step.inspect import Input, slots_of
from finery.step.job import Job, Report
from finery.step.step import Step, examine_opened
from finery.store.database import Store
from finery.util.events import Listener
from finery.util.paths import PINNED_FOLDER


@dataclass
class Proven:
    """The result of proving one training.

    waits: an input, as the recipe names it → the steps that must be built first.
    errors: of the rows, of the model, or of an earlier step.
    """

    node: Node
    proofs: list[Proof] = field(default_factory=list)
    errors: list[FineryError] = field(default_factory=list)
    waits: dict[str, list[str]] = field(default_factory=dict)


def provable_steps(graph: Graph) -> list[Node]:
    """The steps that can prove what they would learn."""
    nodes = [node for node in graph.nodes.values() if type(node.step).prove is not Step.prove]
    return [node for node in nodes if not graph.is_one_of_its_variants(node)]


def prove_steps(
    graph: Graph,
    store: Store,
    *,
    samples: int,
    listeners: Sequence[Listener] = (),
    report: Callable[[Node], Report] = lambda node: lambda event: None,
) -> Generator[Proven, None, None]:
    """Build light steps, then prove one training after another.

    listeners: of that build. report: receives the events of a training's proof.
    """
    with tempfile.TemporaryDirectory(prefix="finery-check-") as folder:
        lock = UnwrittenLock(graph.recipe.path)
        proving = _Proving(graph, store, Path(folder), listeners, report, lock)
        proving.prepare()
        for node in provable_steps(graph):
            yield proving.prove(node, samples)


@dataclass
class _Proving:
    """Finds the inputs of all trainings: built, sketched, or not available yet."""

    graph: Graph
    store: Store
    folder: Path
    listeners: Sequence[Listener]
    report: Callable[[Node], Report]
    lock: UnwrittenLock
    errors: dict[str, FineryError] = field(default_factory=dict)
    plans: dict[str, StepPlan] = field(default_factory=dict)
    sketches: dict[str, Artifact | None] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)

    # -- before the proofs -----------------------------------------------------------------------

    def prepare(self) -> None:
        """Build the light steps that the trainings take, until none is left."""
        self._plan()
        while todo := self._todo():
            self.tried |= todo
            build = Build(
                self.graph.select(sorted(todo)), self.store, LocalExecutor(), self.listeners,
                keep_going=True, lock=self.lock,
            )  # fmt: skip
            self.errors |= build.run().errors
            self._plan()

    def _plan(self) -> None:
        planner = Planner(self.graph, self.store, self.lock)
        self.plans = {plan.node.name: plan for plan in make_plan(planner)}

    def _todo(self) -> set[str]:
        """The light steps to build next."""
        missing = {
            name
            for node in provable_steps(self.graph)
            for source, _ in self._inputs(node)
            for name in self._missing(source.step)
        }
        if not missing:
            return set()
        before = self.graph.select(sorted(missing)).nodes
        return {n for n in before if not self._built(n) and self._is_light(n)} - self.tried

    def _missing(self, name: str) -> set[str]:
        """The steps to build before step `name` has an artifact, built or sketched."""
        if self._built(name) or self._sketch(name) is not None or name in self.errors:
            return set()
        node = self.graph.nodes[name]
        inner = {m for source, _ in self._inputs(node) for m in self._missing(source.step)}
        return inner if _can_sketch(node) and inner else {name}

    def _built(self, name: str) -> bool:
        result = self.plans[name].result
        return result is not None and self.store.shared.reach(result.outputs.values())

    def _is_light(self, name: str) -> bool:
        """Whether this step can be built without running a heavy step."""
        if self._built(name):
            return True
        node = self.graph.nodes[name]
        return not node.is_heavy and all(map(self._is_light, node.upstream()))

    def _awaited(self, name: str) -> list[str]:
        """The steps that must be built before step `name`."""
        if self._built(name):
            return []
        node = self.graph.nodes[name]
        before = [n for b in node.upstream() for n in self._awaited(b)]
        return [name] if node.is_heavy or not before else list(dict.fromkeys(before))

    # -- artifacts -------------------------------------------------------------------------------

    def _inputs(self, node: Node) -> list[tuple[Source, Input]]:
        """Inputs, also of inner steps; for a model, its base before all trainings."""
        slots = slots_of(node.step)
        own = [(s, slots[s.field].accepts) for s in node.sources]
        if not node.trains:
            return own
        return [(self._under(s) if a.kind is Model else s, a) for s, a in own]

    def _under(self, source: Source) -> Source:
        """The source of a model before all trainings, which keep tokenizer and chat template."""
        node = self.graph.nodes[source.step]
        while base := next((s for s in node.sources if s.role == "base"), None):
            source = replace(source, step=base.step, output=base.output)
            node = self.graph.nodes[source.step]
        return source

    def _artifact(self, source: Source) -> Artifact | None:
        """The artifact that an input names; None if it isn't available yet."""
        result = self.plans[source.step].result
        if result is not None and self.store.shared.reach([result.outputs[source.output]]):
            return self.store.artifact(result.outputs[source.output])
        return self._sketch(source.step)

    def _sketch(self, name: str) -> Artifact | None:
        """The step's output without its heavy parts, if the step offers that."""
        node = self.graph.nodes[name]
        if self.sketches.get(name) is not None or not _can_sketch(node) or name in self.errors:
            return self.sketches.get(name)
        if all(self._artifact(source) is not None for source, _ in self._inputs(node)):
            try:
                self.sketches[name] = self._opened(node).sketch(self._job(node))
            except FineryError as error:
                self._place(node, error)
                self.errors[name] = error
        return self.sketches.get(name)

    def _opened(self, node: Node) -> Step:
        """The step with its available inputs opened.

        An inner step that lacks a required input is left out.
        """
        step = self.graph.with_files(node, self.plans[node.name].files)
        for path, slot in slots_of(step).items():
            opened = []
            for source, _ in self._inputs(node):
                artifact = self._artifact(source) if source.field == path else None
                if artifact is not None:
                    artifact.ref = source.ref if slot.uses_name else ""
                    opened.append(artifact)
            accepts, (outer, _, inside) = slot.accepts, path.partition(".")
            if inside and not (opened or accepts.optional):
                setattr(step, outer, None)
            setattr(slot.owner, slot.field, opened if accepts.many else next(iter(opened), None))
        return step

    def _job(self, node: Node) -> Job:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        pinned = None
        if (floating := node.step.floating_name()) is not None:
            if self.lock.get(floating) is None:
                self.lock.set(floating, node.step.pin_name(self.store.root / PINNED_FOLDER))
            pinned = self.lock.get(floating)
        return job_without_run(node, folder, self.store, pinned=pinned, report=self.report(node))

    # -- the proofs ------------------------------------------------------------------------------

    def prove(self, node: Node, samples: int) -> Proven:
        """Prove a training with its available inputs."""
        proven = Proven(node)
        available: set[str] = set()
        for source, _ in self._inputs(node):
            if self._artifact(source) is not None:
                available.add(source.field)
                continue
            failed = [n for n in self.graph.select([source.step]).nodes if n in self.errors]
            proven.errors += [self.errors[n] for n in failed]
            if not failed:
                proven.waits[source.ref] = self._awaited(source.step)
        required = {s.field for s, accepts in self._inputs(node) if not accepts.optional}
        if {name for name in required if "." not in name} <= available:
            self._prove(node, samples, proven)
        proven.errors = each_once(proven.errors)
        return proven

    def _prove(self, node: Node, samples: int, proven: Proven) -> None:
        def prove() -> None:
            proven.proofs = step.prove(self._job(node), samples) or []

        step = self._opened(node)
        for check in (prove, lambda: examine_opened(step, node.seed, only_inside=True)):
            try:
                check()
            except FineryError as error:
                for one in getattr(error, "errors", [error]):
                    self._place(node, one)
                    proven.errors.append(one)

    def _place(self, node: Node, error: FineryError) -> None:
        """Set an error's place in the recipe, if it has no other place."""
        error.where = place_of(self.graph.recipe, node, error.where)


def _can_sketch(node: Node) -> bool:
    return type(node.step).sketch is not Step.sketch
