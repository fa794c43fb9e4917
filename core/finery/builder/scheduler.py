"""Executes a plan. Steps start as soon as their inputs are built."""

import os
import signal
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from finery.artifact.manifest import Manifest, Result
from finery.builder.checks import advice_on, audible, verify
from finery.builder.dispatch import Order, Queues, must_wait, task_of
from finery.builder.examine import Examiner
from finery.builder.failures import (
    check_code,
    check_imported,
    check_outside,
    code_states,
    death_of,
    outside_states,
)
from finery.builder.outputs import OutputLinks, build_folder
from finery.builder.plan import Planner, StepPlan
from finery.builder.reads import make_result, why_not_reusable
from finery.builder.runs import Outcome, RunLog, context_of, is_worth_keeping
from finery.builder.sharing import Recording, Sharing
from finery.builder.versions import with_versions
from finery.config import Config
from finery.errors import FineryError, RequirementError
from finery.execute.executor import Done, Executor, Task, TaskEvent
from finery.plugin.history import Results
from finery.recipe.graph import Graph, Node, place_of
from finery.recipe.lock import Lock
from finery.step.forecast import Note
from finery.step.inspect import SECTIONS
from finery.step.resources import Rehearsing
from finery.step.step import Step
from finery.store.database import Store
from finery.store.layout import BlobsLost
from finery.store.links import check_outputs_folder, prune_links
from finery.util.events import Listener, make_event, new_run_id
from finery.util.files import FileState
from finery.util.paths import project_folder

POLL_SECONDS = 0.05
"""How often to check a key that another build is building."""


class Build:
    """Runs a graph's steps on an executor, and sends events to listeners."""

    def __init__(
        self,
        graph: Graph,
        store: Store,
        executor: Executor,
        listeners: Sequence[Listener] = (),
        *,
        keep_going: bool = False,
        update_lock: bool = False,
        force: Collection[str] = (),
        states: Mapping[str, FileState] | None = None,
        began: int | None = None,
        config: Config | None = None,
        examiner: Examiner | None = None,
        lock: Lock | None = None,
        rehearsal: Rehearsing | None = None,
    ) -> None:
        """force: steps that run even if they are cached.

        states: of views after the last build, see `OutputLinks`.

        began: when its first file was read, in nanoseconds since the epoch; by default, now.
        config: by default, without a shared store. examiner: of the checks before the build. lock:
        by default, that of the recipe. rehearsal: how to rehearse the steps, instead of running
        them; the links to outputs are then in the store.
        """
        store.check_writable()
        self.folder = store.root / "build" if rehearsal else build_folder(graph.recipe)
        self._rehearsal = rehearsal
        check_outputs_folder(self.folder)
        self.graph = graph
        self.store = store
        self.executor = executor
        self.keep_going = keep_going
        self._forced = {*force}
        self._deaths: Counter[str] = Counter()
        self.outcome = Outcome(new_run_id())
        store.hold(self.outcome.run)
        self.planner = Planner(graph, store, lock)
        if update_lock:
            self.planner.forget_pins()
        self.planner.pin_plugins()
        self._before = {name: key for name, (key, _) in self.planner.latest.items()}
        self.log = RunLog(
            store.root / "runs", self.outcome.run, lambda: context_of(graph, self.planner.recipe_id)
        )
        self.listeners: list[Listener] = [self.log, *listeners]
        self.project = project_folder(graph.recipe.path)
        self._retries = (config or Config()).retries
        self.sharing = Sharing(store, config or Config())
        self.outputs = OutputLinks(store, self.folder, states or {}, graph.recipe.argument)
        self.began = time.time_ns() if began is None else began
        self._started = time.perf_counter()
        self._order = Order(graph)
        self._examiner = examiner or Examiner(graph)
        self._queues = Queues(executor)
        self._running: dict[str, StepPlan] = {}
        self._states: dict[str, dict[Path, FileState]] = {}  # of outside files and their folders
        self._code: dict[str, set[FileState]] = {}  # of code files: those that were checked
        self._locked: dict[str, StepPlan] = {}  # that wait for another build or for their inputs
        self._elsewhere: set[str] = set()  # keys that another build was building
        self._dollars: dict[str, float] = {}  # that running steps spent
        self._recording = Recording(self.planner, self.sharing, self.outcome.run)
        self._unlinked: list[Node] = []
        self._broken = False  # whether a step failed that isn't one variant of several
        self._is_replanned = False  # whether to plan again, since built steps must run after all
        self._opened = store.opened
        self._settled: dict[str, str] = {}  # step → the key of the result that was reported
        self._plan_all()

    def run(self) -> Outcome:
        """Build everything. Ctrl-C ends the workers and raises KeyboardInterrupt."""
        try:
            try:
                self._begin()
                self._run()
            finally:
                self.executor.close()
                for plan in self._running.values():
                    self.store.clear_incomplete(plan.key)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            self.outcome.broken = 130 if interrupted else getattr(error, "exit_code", 1)
            raise
        finally:
            try:
                self._recording.close()
            finally:
                self.sharing.close(interrupted=bool(self.outcome.broken))
                self._finish()
        return self.outcome

    def _begin(self) -> None:
        nodes = self.graph.nodes.values()
        steps = [{"step": n.name, "use": n.use, "section": n.section} for n in nodes]
        recipe = self.graph.recipe.name
        self._emit("build_started", run=self.outcome.run, recipe=recipe, steps=steps)
        self.store.sweep()

    def _plan_all(self) -> None:
        """Begin with the steps that wait for no other, also if some of them ran already."""
        self._is_replanned = False
        if self._opened != self.store.opened:
            self._recording.restore(self.outcome.results.values())
        self._opened = self.store.opened
        self.outcome.results.clear()
        self._unlinked.clear()
        self._locked.clear()
        self._queues.clear()
        self._order.restart(self.outcome.errors)

    def _run(self) -> None:
        self._run_steps()
        while not self._has_outputs():
            self._plan_all()
            self._run_steps()
        data = self.graph.recipe.data
        if not self.outcome.errors:
            self._recording.close()  # since sweeping releases locks
            self.store.sweep_abandoned()
        steps = {name for section in SECTIONS for name in data.get(section) or ()}
        prune_links(self.store.root, self.folder, steps)
        while self.sharing.is_pushing:
            self._wait_for_copies()
        self._show_transfer(is_last=True)

    def _run_steps(self) -> None:
        while (
            self._order.ready or self._locked or self._running or self._queues or self._is_replanned
        ):
            self._start_ready()
            self._link_cached()
            self._show_transfer()
            self._recording.write(now=not self._running)
            if self._running:  # until a step ends or a moment has passed
                is_short = self._locked or self._recording
                for task, event in self.executor.poll(POLL_SECONDS if is_short else 1.0):
                    self._handle_event(task, event)
            elif self._is_replanned:
                self._plan_all()
            elif self._locked:
                time.sleep(POLL_SECONDS)
            elif self._is_stopped():
                break
            elif self._queues:  # a process that ends still has their GPU
                time.sleep(POLL_SECONDS)

    def _has_outputs(self) -> bool:
        """Copy the outputs here that should be; False if steps must run to have them."""
        self._recording.write(now=True)
        if self._opened != self.store.opened:
            return False
        if self.outcome.errors:
            return True
        results = self.outcome.results
        copied = self.sharing.bring(results, self._order.last(), self._wait_for_copies)
        for name in copied or ():
            self.outputs.link(name, results[name].outputs)
        return copied is not None

    def _wait_for_copies(self) -> None:
        self._show_transfer()
        time.sleep(POLL_SECONDS)

    def _show_transfer(self, *, is_last: bool = False) -> None:
        transfer = self.sharing.progress(is_last=is_last)
        if transfer is not None:
            self._emit("transfer", **transfer._asdict())

    # -- starting --------------------------------------------------------------------------------

    def _is_stopped(self) -> bool:
        return self._broken and not self.keep_going

    def _start_ready(self) -> None:
        """Settle cached steps and start others, until nothing more can start."""
        ready = self._order.ready
        while ready and not self._is_replanned:
            names = [ready.pop()]
            if self.sharing.asks:  # for all at once
                names += reversed(ready)
                ready.clear()
                self.sharing.ask(self.planner, names, self.outcome.results, self.outcome.run)
            for name in names:
                with self._catch_errors(name):
                    self._look_up(name)
        if self._is_replanned:
            return
        if self._is_stopped():
            self._locked.clear()
            self._queues.clear()
            return
        waited, self._locked = self._locked, {}
        for plan in waited.values():
            self._queues.add(plan)
        for plan in self._queues.take():
            with self._catch_errors(plan.node.name):
                self._start(plan)
        if ready:  # another build finished a step that others waited for
            self._start_ready()

    @contextmanager
    def _catch_errors(self, step: str) -> Iterator[None]:
        """Let a step fail by an expected error.

        If built files can't be had from a shared store, the build waits for running steps and plans
        again.
        """
        losses = self.store.shared.losses
        try:
            yield
        except BlobsLost as lost:
            self.store.shared.lose(lost)
        except FineryError as error:
            self._fail(self.graph.nodes[step], error)
        if self.store.shared.losses != losses:  # also where a plugin caught the error
            self.sharing.give_up()
            self._is_replanned = True

    def _look_up(self, name: str) -> None:
        """Look up a step with built inputs in the store."""
        plan = self.planner.resolve(name, self.outcome.results)
        if not plan.key:  # its floating name or its environment isn't in recipe.lock yet
            self.planner.pin(plan.node)
            if (environment := plan.node.environment) and plan.environment is None:
                message = f"resolving environment '{environment}'"
                self._emit("step_log", step=name, message=message)
                self.planner.resolve_environment(environment)
            plan = self.planner.resolve(name, self.outcome.results)
        if plan.result is not None and name not in self._forced:
            self._settle(plan, plan.result, cached=True)
        else:
            if plan.result is not None:
                plan.reason, plan.accepted = "forced", []
            if plan.node.is_heavy:
                self._examine_later_steps(name)
            self._queues.add(plan)

    def _examine_later_steps(self, heavy: str) -> None:
        """Fail the steps after one that takes long if they can't use what is built by now."""
        results = Results(self.store, self.outcome.results)
        for name in [n for n in self._order.downstream(heavy) if n not in self.outcome.errors]:
            node = self.graph.nodes[name]
            for error in self._examiner.examine(node, results)[:1]:
                self._fail(node, error)

    def _start(self, plan: StepPlan) -> None:
        """Start a step, unless this or another build is making or has just made its key."""
        if self._opened != self.store.opened:  # its result may be lost with a damaged database
            self._is_replanned = True
            return
        result = self._recording.built.get(plan.key)
        if result is not None:
            self._settle(plan, result, cached=True)
            return
        inputs = self.planner.inputs(plan.node, self.outcome.results)
        is_here = self.sharing.is_here(plan.node.name, inputs.values())
        if not is_here or must_wait(plan, self._running.values(), self.outcome.results):
            self._locked[plan.node.name] = plan
            return
        if not self.store.try_lock(plan.key):
            self._locked[plan.node.name] = plan
            if plan.key not in self._elsewhere:
                self._elsewhere.add(plan.key)
                message = f"waiting for {self.store.holder(plan.key)}, which is building it"
                self._emit("step_log", step=plan.node.name, message=message)
            return
        result = self.planner.lookup(plan, inputs)
        if result is not None and plan.node.name not in self._forced:
            self.store.unlock(plan.key)
            self._settle(plan, result, cached=True)
            return
        self._dispatch(plan)

    def _dispatch(self, plan: StepPlan) -> None:
        node = plan.node
        try:
            states = code_states(plan)  # first, since it may change after the check
            check_code(plan, self.planner)
            for path, state in states.items():
                self._code.setdefault(path, set()).add(state)
            log = self.log.log_of(node.name)
            task = task_of(plan, self.planner, self.outcome.results, log, self.project)
            task.rehearsal = self._rehearsal
            task.answers = self.sharing.answers if type(node.step).__spec__.engines else {}
            advice = advice_on(self.planner, self.outcome.results, self.outcome.ran, node)
            advice = [] if self._rehearsal else advice
        except BaseException:
            self.store.unlock(plan.key)
            raise
        self._states[node.name] = outside_states(plan, self.planner)
        self._running[node.name] = plan
        try:
            about = {"use": node.use, "key": plan.key, "reason": plan.reason}
            self._emit("step_started", step=node.name, **about)
            for kind, fields in advice:
                self._emit(kind, step=node.name, **fields)
            self.executor.start(task)
        except BaseException:  # nothing is running
            self._handle_end(plan)
            raise

    # -- listening -------------------------------------------------------------------------------

    def _handle_event(self, task: Task, event: TaskEvent) -> None:
        plan = self._running[task.step]
        if event["event"] == "done":
            self._handle_done(plan, task, event)
        elif event["event"] == "failed":
            self._handle_end(plan, clears=not event.get("continues", False))
            self._fail(plan.node, FineryError.from_dict(event["error"]), log=task.log)
        elif event["event"] == "died":
            self._handle_end(plan)
            error = death_of(plan, event, task.log)
            self._deaths[task.step] += 1
            if self._deaths[task.step] > self._retries or event["code"] == -signal.SIGPROF:
                self._fail(plan.node, error, log=task.log)
            else:
                message = f"{error.what}; attempt {self._deaths[task.step] + 1} starts"
                self._emit("step_log", step=task.step, message=message)
                self._queues.add(plan)
        elif event["event"] == "used":
            self._dollars[task.step] = event["dollars"]
            self.outcome.dollars += event["dollars"]
            self.store.keep_spending(plan.key, event["dollars"], event["worth"])
        elif event["event"] != "note" or audible(
            self.graph, [Note(step=task.step, name=event["name"], text=event["text"])]
        ):
            fields = {name: value for name, value in event.items() if name != "event"}
            self._emit(f"step_{event['event']}", step=task.step, **fields)

    def _handle_done(self, plan: StepPlan, task: Task, event: Done) -> None:
        """Handle the end of a step with outputs in `objects/`."""
        del self._running[plan.node.name]
        try:
            check_outside(plan, self.planner, self._states.pop(plan.node.name))
            self.store.check_inputs(pair for pairs in task.inputs.values() for pair in pairs)
            check_code(plan, self.planner)  # a step may import code late
            check_imported(event, self._code)
        except FineryError as error:
            self.store.clear_output(plan.key)
            self.store.unlock(plan.key)
            self._fail(plan.node, error)
            return
        outputs = msgspec.convert(event["outputs"], dict[str, Manifest])
        self.store.arrived(outputs.values())
        result = make_result(plan.key, plan.parts, outputs, event, self.outcome.run)
        if not why_not_reusable(result.parts):
            result = with_versions(result, plan)
        if plan.result is not None:
            self.outcome.redone[plan.node.name] = plan.result
            old_digests, new_digests = (
                [m.digest for m in side.values()] for side in (plan.result.outputs, outputs)
            )
            message = (
                f"its output is {'' if old_digests == new_digests else 'not '}the same as before"
            )
            self._emit("step_log", step=plan.node.name, message=message)
        self._recording.add(result, plan.key)
        self.outcome.ran.append(plan.node.name)
        with self._catch_errors(plan.node.name):
            self._settle(plan, result, cached=False)

    def _handle_end(self, plan: StepPlan, *, clears: bool = True) -> None:
        """Handle the end of a step without outputs. clears: its folder and job, which has ended."""
        del self._running[plan.node.name]
        self._states.pop(plan.node.name, None)
        if clears:
            self.store.clear_output(plan.key)
        self.store.unlock(plan.key)

    def _settle(self, plan: StepPlan, result: Result, *, cached: bool) -> None:
        """Link and verify a step's outputs, and release the steps that wait for it."""
        node = plan.node
        self.outcome.results[node.name] = result
        self.outcome.accepted.pop(node.name, None)
        if cached and plan.accepted:
            self.outcome.accepted[node.name] = plan.acceptance
        self._recording.keys[node.name] = result.key
        if cached:
            self._unlinked.append(node)
        else:
            self.outputs.link(node.name, result.outputs, is_new=True)
        if cached and self.sharing.pushes and plan.key not in self._recording.built:
            own = result if plan.accepted else with_versions(result, plan)
            self.sharing.push([own], are_new=False)
        if self._settled.get(node.name) != result.key:
            self._settled[node.name] = result.key
            self._report(plan, result, cached=cached)
        if type(node.step).verify is not Step.verify:
            try:
                verify(node.step, self.store, result)
            except BlobsLost:
                raise
            except FineryError as error:
                if not (self._rehearsal and isinstance(error, RequirementError)):
                    self._fail(node, error)
                    return
        self._order.settle(node.name, self.outcome.blocked.keys() | self.outcome.errors.keys())

    def _report(self, plan: StepPlan, result: Result, *, cached: bool) -> None:
        """Report a step that is built."""
        facts = {"step": plan.node.name, "use": plan.node.use, "key": result.key}
        if cached:
            self._emit("step_cached", **facts, reason=plan.acceptance)
            return
        outputs = {name: manifest.kind for name, manifest in result.outputs.items()}
        dollars = self._dollars.pop(plan.node.name, 0.0)
        self._emit(
            "step_finished", **facts, seconds=result.seconds, outputs=outputs, dollars=dollars
        )

    def _link_cached(self) -> None:
        """Link the outputs of cached steps, after starting others."""
        nodes, self._unlinked = self._unlinked, []
        for node in nodes:
            try:
                self.outputs.link(node.name, self.outcome.results[node.name].outputs)
            except FineryError as error:
                self._fail(node, error, blocks=False)

    def _fail(
        self, node: Node, error: FineryError, log: str | None = None, *, blocks: bool = True
    ) -> None:
        """Record a failure. blocks: whether steps that wait for this one can't run."""
        error.where = place_of(self.graph.recipe, node, error.where)
        self.outcome.errors[node.name] = error
        self._broken |= not node.variant
        printed = log if log and os.path.exists(log) and os.path.getsize(log) else None
        if printed:
            self.outcome.logs[node.name] = printed
        self._emit("step_failed", step=node.name, use=node.use, error=error.to_dict(), log=printed)
        for name in self._order.downstream(node.name) if blocks else ():
            if name not in self.outcome.blocked:
                self._emit("step_blocked", step=name, use=self.graph.nodes[name].use, by=node.name)
            self.outcome.blocked.setdefault(name, []).append(node.name)

    # -- ending ----------------------------------------------------------------------------------

    def _finish(self) -> None:
        outcome = self.outcome
        outcome.seconds = time.perf_counter() - self._started
        for remote in self.store.shared.remotes.values():
            outcome.fetched += remote.fetched
            outcome.pushed += remote.pushed
        outcome.dollars_kept = self.store.dollars_spent(r.key for r in outcome.results.values())
        built = [n for n in outcome.results if n not in outcome.errors]
        complete = len(built) == len(self.graph.nodes)
        if is_worth_keeping(self.store.root, self.graph.recipe, outcome, self._before):
            self.log.open()
        self._emit(
            "build_finished", ok=complete, ran=len(outcome.ran),
            cached=len(outcome.results.keys() - {*outcome.ran}), failed=len(outcome.errors),
            blocked=len(outcome.blocked), seconds=outcome.seconds, exit_code=outcome.exit_code,
        )  # fmt: skip
        self.log.close()
        self.store.release()

    def _emit(self, event: str, **fields: Any) -> None:
        emitted = make_event(event, **fields)
        for listener in self.listeners:
            listener(emitted)
        if self._rehearsal is None:
            self.graph.plugins.hook.finery_build_event(event=emitted, graph=self.graph)
