"""The steps of a build that wait: for the outputs of others, and for room on their executor."""

from collections.abc import Collection, Iterator, Mapping

from finery.builder.dispatch import need_of
from finery.builder.plan import StepPlan
from finery.execute.executor import Executor
from finery.execute.routing import Router
from finery.recipe.graph import Graph


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
