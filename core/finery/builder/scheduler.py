"""Executes a plan. Steps start as soon as their inputs are built."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from finery.artifact.manifest import Manifest, Result
from finery.builder.checks import misfits, notes_before, verify
from finery.builder.context import context_of
from finery.builder.dispatch import limited_models, need_of, task_of
from finery.builder.outputs import OutputLinks, build_folder
from finery.builder.plan import Planner, StepPlan
from finery.builder.runs import RunLog, runs_of
from finery.builder.sharing import Sharing
from finery.config import Config
from finery.errors import DataError, FineryError, StepError
from finery.execute.executor import Died, Done, Executor, Noted, Task, TaskEvent
from finery.execute.routing import Router
from finery.plugin.history import Results
from finery.recipe.graph import Graph, Node, place_of
from finery.step.inspect import SECTIONS
from finery.step.step import Step
from finery.store.database import Store
from finery.store.layout import Lost
from finery.store.links import check_outputs_folder, prune_links
from finery.util.events import Event, Listener, happened, new_run_id
from finery.util.files import FileState, file_state, folder_state, is_moved
from finery.util.paths import project_folder, shown
from finery.util.text import counted

T = TypeVar("T")

POLL_SECONDS = 0.05
"""How often to check a key that another build is building."""
SHOW_SECONDS = 0.5
"""How often to report what was copied."""
RECORD_SECONDS = 0.1
"""Steps faster than this are recorded in groups, at this interval."""


@dataclass
class Outcome:
    """The outcome of a build."""

    run: str
    results: dict[str, Result] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    errors: dict[str, FineryError] = field(default_factory=dict)
    blocked: dict[str, list[str]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)  # of failed steps
    redone: dict[str, Result] = field(default_factory=dict)  # what forced steps had before
    seconds: float = 0.0
    fetched: int = 0  # bytes that came from shared stores
    pushed: int = 0  # bytes that went there
    dollars: float = 0.0  # what the answers cost that this build asked for
    dollars_kept: float = 0.0  # what all that is built cost, whenever it was built
    broken: int = 0  # the exit code if something ended the build early

    @property
    def exit_code(self) -> int:
        """0: success. 1: a step or a requirement failed. 2: the user's input is wrong."""
        return self.broken or max((e.exit_code for e in self.errors.values()), default=0)


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
    ) -> None:
        """force: steps that run even if they are cached.

        states: of views after the last build, see `OutputLinks`.

        began: when its first file was read, in nanoseconds since the epoch; by default, now.
        config: by default, without a shared store.
        """
        store.check_writable()
        self.folder = build_folder(graph.recipe)
        check_outputs_folder(self.folder)
        self.graph = graph
        self.store = store
        self.executor = executor
        self.keep_going = keep_going
        self._forced = {*force}
        self._deaths: Counter[str] = Counter()
        self.outcome = Outcome(new_run_id())
        store.hold(self.outcome.run)
        self.planner = Planner(graph, store)
        if update_lock:
            self.planner.forget_pins()
        self._before = dict(self.planner.latest)
        self.log = RunLog(
            store.root / "runs", self.outcome.run, lambda: context_of(graph, self.planner.recipe_id)
        )
        self.listeners: list[Listener] = [self.log, *listeners]
        self.project = project_folder(graph.recipe.path)
        self._retries = (config or Config()).retries
        self.sharing = Sharing(store, config or Config())
        self.outputs = OutputLinks(store, self.folder, states or {}, graph.recipe.argument)
        self._silenced = set(graph.recipe.data.get("silence") or [])
        self.began = time.time_ns() if began is None else began
        self._started = time.perf_counter()
        self._waiting: dict[str, int] = {}
        self._after: dict[str, list[str]] = {n: [] for n in graph.nodes}
        for name, node in graph.nodes.items():
            for before in node.upstream():
                self._after[before].append(name)
        self._ready: list[str] = []
        # By executor and whether a step is isolated: each kind waits for another place.
        self._queues: dict[tuple[str, bool], dict[str, StepPlan]] = {}
        self._running: dict[str, StepPlan] = {}
        self._states: dict[str, dict[Path, FileState]] = {}  # of outside files and their folders
        self._locked: dict[str, StepPlan] = {}  # that wait for another build or for their inputs
        self._elsewhere: set[str] = set()  # keys that another build was building
        self._dollars: dict[str, float] = {}  # that running steps spent
        self._unrecorded: list[Result] = []
        self._just_built: dict[str, Result] = {}
        self._new_keys: dict[str, str] = {}
        self._unlinked: list[Node] = []
        self._cleaners: list[threading.Thread] = []
        self._broken = False  # whether a step failed that isn't one variant of several
        self._recorded_at = time.monotonic()
        self._is_replanned = False  # whether to plan again, since built steps must run after all
        self._settled: dict[str, str] = {}  # step → the key of the result that was reported
        self._transfer, self._shown_at = self.sharing.transfer(), 0.0
        self._plan_all()

    def run(self) -> Outcome:
        """Build everything. Ctrl-C ends the workers and raises KeyboardInterrupt."""
        try:
            try:
                self._begin()
                self._run()
            finally:
                self.executor.close()
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            self.outcome.broken = 130 if interrupted else getattr(error, "exit_code", 1)
            raise
        finally:
            try:
                self._record(now=True)
            finally:
                for thread in self._cleaners:
                    thread.join()
                self.sharing.close(interrupted=bool(self.outcome.broken))
                self._finish()
        return self.outcome

    def _begin(self) -> None:
        nodes = self.graph.nodes.values()
        steps = [{"step": n.name, "use": n.use, "section": n.section} for n in nodes]
        recipe = self.graph.recipe.name
        self._emit("build_started", run=self.outcome.run, recipe=recipe, steps=steps)
        self.graph.plugins.hook.finery_build_started(run=self.outcome.run, graph=self.graph)
        self.store.sweep()

    def _plan_all(self) -> None:
        """Begin with the steps that wait for no other, also if some of them ran already."""
        nodes = self.graph.nodes
        self._is_replanned = False
        self._opened = self.store.opened
        self.outcome.results.clear()
        self._unlinked.clear()
        self._locked.clear()
        self._queues = {}
        self._waiting = {n: len(node.upstream()) for n, node in nodes.items()}
        failed = self.outcome.errors
        self._ready = [n for n in reversed(nodes) if self._waiting[n] == 0 and n not in failed]

    def _run(self) -> None:
        self._run_steps()
        while not self._has_outputs():
            self._plan_all()
            self._run_steps()
        data = self.graph.recipe.data
        if not self.outcome.errors:
            self._record(now=True)  # since sweeping releases locks of unrecorded keys
            self.store.sweep_abandoned()
        prune_links(self.folder, {n for section in SECTIONS for n in data.get(section) or ()})
        while self.sharing.is_pushing:
            self._show_transfer()
            time.sleep(POLL_SECONDS)
        self._show_transfer(is_last=True)

    def _run_steps(self) -> None:
        while (
            self._ready or self._locked or self._running or any(self._queues.values())
            or self._is_replanned
        ):  # fmt: skip
            self._start_ready()
            self._link_cached()
            self._show_transfer()
            self._record(now=not self._running)
            if self._running:  # until a step ends or a moment has passed
                is_short = self._locked or self._unrecorded or self._new_keys
                for task, event in self.executor.poll(POLL_SECONDS if is_short else 1.0):
                    self._hear(task, event)
            elif self._is_replanned:
                self._plan_all()
            elif self._locked:
                time.sleep(POLL_SECONDS)
            elif self._stopped():
                break
            elif any(self._queues.values()):  # a process that ends still has their GPU
                time.sleep(POLL_SECONDS)

    def _has_outputs(self) -> bool:
        """Copy the outputs here that should be; False if steps must run to have them."""
        self._record(now=True)
        if self._opened != self.store.opened:
            return False
        results = self.outcome.results
        chosen = self.sharing.chosen(results, [n for n, after in self._after.items() if not after])
        manifests = [m for name in chosen for m in results[name].outputs.values()]
        if self.outcome.errors:
            return True
        try:
            if self.sharing.is_here("", manifests):
                return True
            while not self.sharing.is_here("", manifests):
                self._show_transfer()
                time.sleep(POLL_SECONDS)
        except Lost as error:
            if not error.is_down:
                self.sharing.lose(error)
                return False
            self.sharing.give_up()
        for name in chosen:
            self.outputs.link(name, results[name].outputs)
        return True

    def _show_transfer(self, *, is_last: bool = False) -> None:
        """Report what was copied from and to shared stores, if that has changed.

        is_last: also if that was done a moment ago.
        """
        transfer, now = self.sharing.transfer(), time.monotonic()
        if transfer != self._transfer and (is_last or now - self._shown_at > SHOW_SECONDS):
            self._transfer, self._shown_at = transfer, now
            self._emit("transfer", **transfer._asdict())

    # -- starting --------------------------------------------------------------------------------

    def _stopped(self) -> bool:
        return self._broken and not self.keep_going

    def _start_ready(self) -> None:
        """Settle cached steps and start others, until nothing more can start."""
        while self._ready and not self._is_replanned:
            names = [self._ready.pop()]
            if self.sharing.asks:  # for all at once
                names += reversed(self._ready)
                self._ready.clear()
                self.sharing.ask(self.planner, names, self.outcome.results, self.outcome.run)
            for each in names:
                self._guarded(self._look_up, each)
        if self._is_replanned:
            return
        if self._stopped():
            self._locked.clear()
            self._queues.clear()
            return
        waited, self._locked = self._locked, {}
        for plan in waited.values():
            self._enqueue(plan)
        for _, queue in sorted(self._queues.items()):
            while (name := self._next(queue)) is not None:
                self._guarded(self._start, queue.pop(name))
        if self._ready:  # another build finished a step that others waited for
            self._start_ready()

    def _enqueue(self, plan: StepPlan) -> None:
        need = need_of(plan)
        where = self.executor.name_for(need) if isinstance(self.executor, Router) else ""
        self._queues.setdefault((where, plan.isolated), {})[plan.node.name] = plan

    def _next(self, queue: Mapping[str, StepPlan]) -> str | None:
        """The first step of a queue that there is room for.

        Only steps that need no GPU pass one that waits for its GPUs, so that it gets them.
        """
        waits = False
        for name, plan in queue.items():
            if plan.gpus and waits:
                continue
            if self.executor.has_room(need_of(plan)):
                return name
            if not plan.gpus:
                return None
            waits = True
        return None

    def _guarded(self, action: Callable[[T], None], subject: T) -> None:
        """Run an action for a step. An expected error makes the step fail.

        If built files can't be had from a shared store, the build waits for running steps and plans
        again.
        """
        try:
            action(subject)
        except Lost as lost:
            self.sharing.lose(lost)
            self._is_replanned = True
        except FineryError as error:
            name = subject.node.name if isinstance(subject, StepPlan) else str(subject)
            self._fail(self.graph.nodes[name], error)

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
                plan.reason = "forced"
            if plan.node.trains:
                self._check_later_steps(name)
            self._enqueue(plan)

    def _check_later_steps(self, training: str) -> None:
        """Fail the steps after a training whose settings don't fit rows that are now built."""
        results = Results(self.store, self.outcome.results)
        for name in [n for n in self._downstream(training) if n not in self.outcome.errors]:
            node = self.graph.nodes[name]
            for error in misfits(self.graph, results, node):
                self._fail(node, error)
                break

    def _start(self, plan: StepPlan) -> None:
        """Start a step, unless this or another build is making or has just made its key."""
        if self._opened != self.store.opened:  # its result may be lost with a damaged database
            self._is_replanned = True
            return
        result = self._just_built.get(plan.key)
        if result is not None:
            self._settle(plan, result, cached=True)
            return
        inputs = self.planner.inputs(plan.node, self.outcome.results)
        is_here = self.sharing.is_here(plan.node.name, inputs.values())
        if not is_here or self._must_wait(plan):
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

    def _must_wait(self, plan: StepPlan) -> bool:
        """Whether a running step has the same key or shares a model that limits requests."""
        models = limited_models(plan.node, self.outcome.results)
        return any(
            running.key == plan.key
            or not models.isdisjoint(limited_models(running.node, self.outcome.results))
            for running in self._running.values()
        )

    def _dispatch(self, plan: StepPlan) -> None:
        node = plan.node
        try:
            self._check_code(plan)
            log = self.log.log_of(node.name)
            task = task_of(plan, self.planner, self.outcome.results, log, self.project)
            task.answers = self.sharing.answers if type(node.step).__spec__.engines else {}
            advice = self._advice(node)
        except BaseException:
            self.store.unlock(plan.key)
            raise
        paths = [path for files in plan.files.values() for _, path in files]
        recipe = self.graph.recipe.path.absolute()
        folders = {f for p in {path.parent for path in paths} for f in (p, *p.parents)}
        self._states[node.name] = {path: file_state(str(path)) for path in paths}
        self._states[node.name] |= {
            f: folder_state(str(f)) for f in folders.difference(recipe.parents)
        }
        self._running[node.name] = plan
        try:
            about = {"use": node.use, "key": plan.key, "reason": plan.reason}
            self._emit("step_started", step=node.name, **about)
            for kind, fields in advice:
                self._emit(kind, step=node.name, **fields)
            self.graph.plugins.hook.finery_step_started(name=node.name, use=node.use)
            self.executor.start(task)
        except BaseException:  # nothing is running
            self._ended(plan)
            raise

    def _advice(self, node: Node) -> list[tuple[str, dict[str, str]]]:
        """Events with the notes on a training that is about to start.

        Only now its rows can be counted. What `finery check` says anyway is only pointed at.
        """
        if not type(node.step).__spec__.learns:
            return []
        new, others = notes_before(self.planner, self.outcome.results, self.outcome.ran, node.name)
        advice = [("step_note", {"name": n.name, "text": n.text, "fix": n.fix}) for n in new]
        if others:
            names = ", ".join(note.name for note in others)
            call = f"finery check {self.graph.recipe.argument}".strip()
            message = f"{counted(len(others), 'note')} ({names}): see {call}"
            advice.append(("step_log", {"message": message}))
        return advice

    # -- listening -------------------------------------------------------------------------------

    def _hear(self, task: Task, event: TaskEvent) -> None:
        plan = self._running[task.step]
        if event["event"] == "done":
            self._done(plan, event)
        elif event["event"] == "failed":
            self._ended(plan, clears=not event.get("continues", False))
            self._fail(plan.node, FineryError.from_dict(event["error"]), log=task.log)
        elif event["event"] == "died":
            self._ended(plan)
            error = _death(event, task, plan)
            self._deaths[task.step] += 1
            if self._deaths[task.step] > self._retries or event["code"] == -signal.SIGPROF:
                self._fail(plan.node, error, log=task.log)
            else:
                message = f"{error.what}; attempt {self._deaths[task.step] + 1} starts"
                self._emit("step_log", step=task.step, message=message)
                self._enqueue(plan)
        elif event["event"] == "note":
            self._note(task.step, event)
        elif event["event"] == "used":
            self._dollars[task.step] = event["dollars"]
            self.outcome.dollars += event["dollars"]
            self.store.keep_spending(plan.key, event["dollars"], event["worth"])
        else:
            fields = {name: value for name, value in event.items() if name != "event"}
            self._emit(f"step_{event['event']}", step=task.step, **fields)

    def _note(self, step: str, note: Noted) -> None:
        """Emit a step's note, unless the recipe silences it."""
        origin = self.graph.nodes[step].origin
        names = (note["name"], f"{step}/{note['name']}", f"{origin}/{note['name']}")
        if self._silenced.isdisjoint(names):
            fields = {"name": note["name"], "text": note["text"], "fix": note["fix"]}
            self._emit("step_note", step=step, **fields)

    def _done(self, plan: StepPlan, event: Done) -> None:
        """Handle the end of a step with outputs in `objects/`."""
        del self._running[plan.node.name]
        try:
            self._check_unchanged(plan)
            self._check_code(plan)  # a step may import code late
        except FineryError as error:
            self.store.clear_output(plan.key)
            self.store.unlock(plan.key)
            self._fail(plan.node, error)
            return
        outputs = msgspec.convert(event["outputs"], dict[str, Manifest])
        result = Result(plan.key, outputs, event["seconds"], plan.parts)
        self._just_built[plan.key] = result
        self._unrecorded.append(result)
        if plan.result is not None:
            self.outcome.redone[plan.node.name] = plan.result
            is_same = [m.digest for m in plan.result.outputs.values()] == [
                m.digest for m in outputs.values()
            ]
            message = f"its output is {'the same as' if is_same else 'not the same as'} before"
            self._emit("step_log", step=plan.node.name, message=message)
        self._record(now=result.seconds > RECORD_SECONDS)
        self.outcome.ran.append(plan.node.name)
        self._guarded(lambda finished: self._settle(finished, result, cached=False), plan)

    def _record(self, *, now: bool) -> None:
        """Commit what is finished, if it is time: quick steps share the cost of an fsync.

        Until then their locks are held, and a kill costs at most these steps' work.
        """
        if not (self._unrecorded or self._new_keys):
            return
        if (
            now
            or time.monotonic() - self._recorded_at > RECORD_SECONDS
            or len(self._unrecorded) >= 256
        ):
            try:
                self.store.commit(self._unrecorded, run=self.outcome.run)
            except OSError as error:
                raise StepError(
                    f"the outputs of steps can't be recorded: {error}",
                    fix="free some disk space and build again: no data is lost",
                ) from error
            self.sharing.push(self._unrecorded, are_new=True)
            for result in self._unrecorded:
                self.store.unlock(result.key)
            self._clear([result.key for result in self._unrecorded])
            self._unrecorded.clear()
            self._recorded_at = time.monotonic()
            # During the build, since it may be killed.
            self.store.remember(self.planner.recipe_id, self._new_keys)
            self._new_keys = {}

    def _clear(self, keys: list[str]) -> None:
        """Remove the folders of finished keys in the background, since a busy disk is slow."""

        def clear() -> None:
            for key in keys:
                self.store.clear_work(key)

        thread = threading.Thread(target=clear)
        thread.start()
        self._cleaners.append(thread)

    def _check_code(self, plan: StepPlan) -> None:
        """Refuse to run code that has changed since its key was computed."""
        changed = self.planner.code.changed(*self.planner.code_of(plan))
        if changed:
            raise StepError(
                f"its code changed since the build began: {', '.join(changed)}", fix="build again"
            )

    def _check_unchanged(self, plan: StepPlan) -> None:
        """Don't publish what was made from files that changed under it."""
        parts, before = dict(plan.parts), self._states.pop(plan.node.name)
        for setting, files in plan.files.items():
            for name, path in files:
                # A file that was changed and restored may have been read in between.
                same = file_state(str(path)) == before[path]
                try:
                    digest = self.store.digest_file(path)
                except DataError:  # it is gone
                    digest = ""
                if not same or parts[f"file {setting} {name}"] != digest:
                    raise StepError(
                        f"changed while the step was reading it: {name}", fix="build again"
                    )
        for folder in before.keys() - {path for files in plan.files.values() for _, path in files}:
            if is_moved(before[folder], folder_state(str(folder))):
                raise StepError(
                    f"moved while the step was reading from it: {shown(folder)}", fix="build again"
                )

    def _ended(self, plan: StepPlan, *, clears: bool = True) -> None:
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
        self._new_keys[node.name] = result.key
        if cached:
            self._unlinked.append(node)
        else:
            self.outputs.link(node.name, result.outputs, is_new=True)
        if cached and result.key not in self._just_built:
            self.sharing.push([result], are_new=False)
        if self._settled.get(node.name) != result.key:
            self._settled[node.name] = result.key
            self._report(plan, result, cached=cached)
        if type(node.step).verify is not Step.verify:
            try:
                verify(node.step, self.store, result)
            except Lost:
                raise
            except FineryError as error:
                self._fail(node, error)
                return
        for name in self._after[node.name]:
            self._waiting[name] -= 1
            is_out = name in self.outcome.blocked or name in self.outcome.errors
            if self._waiting[name] == 0 and not is_out:
                self._ready.append(name)

    def _report(self, plan: StepPlan, result: Result, *, cached: bool) -> None:
        """Report a step that is built."""
        node = plan.node
        seconds = 0.0 if cached else result.seconds
        kind = "step_cached" if cached else "step_finished"
        shown = (
            {"key": result.key}
            if cached
            else {
                "key": result.key,
                "seconds": seconds,
                "outputs": {n: m.kind for n, m in result.outputs.items()},
                "dollars": self._dollars.pop(node.name, 0.0),
            }
        )
        self._emit(kind, step=node.name, use=node.use, **shown)
        self.graph.plugins.hook.finery_step_finished(
            name=node.name, use=node.use, seconds=seconds, cached=cached
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
        self.graph.plugins.hook.finery_step_failed(name=node.name, use=node.use, error=error)
        for name in self._downstream(node.name) if blocks else ():
            if name not in self.outcome.blocked:
                self._emit("step_blocked", step=name, use=self.graph.nodes[name].use, by=node.name)
            self.outcome.blocked.setdefault(name, []).append(node.name)

    def _downstream(self, name: str) -> Iterator[str]:
        seen, stack = {name}, list(self._after[name])
        while stack:
            step = stack.pop()
            if step not in seen:
                seen.add(step)
                yield step
                stack.extend(self._after[step])

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
        if self._is_news():
            self.log.open()
        self._emit(
            "build_finished", ok=complete, ran=len(outcome.ran),
            cached=len(outcome.results) - len(outcome.ran), failed=len(outcome.errors),
            blocked=len(outcome.blocked), seconds=outcome.seconds, exit_code=outcome.exit_code,
        )  # fmt: skip
        self.graph.plugins.hook.finery_build_finished(run=outcome.run, ok=complete)
        self.log.close()
        self.store.release()

    def _is_news(self) -> bool:
        """Whether to keep the record of a run in which no step ran."""
        keys = {name: result.key for name, result in self.outcome.results.items()}
        known = {name: key for name, (key, _) in self._before.items()}
        if self.outcome.errors or any(known.get(n) != key for n, key in keys.items()):
            return True
        # The last run may have failed, for example a requirement that is now met.
        last = next(runs_of(self.store.root, self.graph.recipe), None)
        return last is not None and last.ending == "failed"

    def _emit(self, event: str, **fields: Any) -> Event:
        emitted = happened(event, **fields)
        for listener in self.listeners:
            listener(emitted)
        return emitted


def _death(event: Died, task: Task, plan: StepPlan) -> StepError:
    """The error for the death of a worker."""
    code, fix = event["code"], event.get("fix")
    if "reason" in event:
        kept = f"see {task.log}; what the step saved in its scratch folder is kept"
        return StepError(event["reason"], fix=fix or kept)
    if code == -signal.SIGKILL:
        spec = type(plan.node.step).__spec__
        less = "use smaller batches, a shorter max_length or a smaller model, then build again"
        other = "free memory, or give the step less data, then build again"
        return StepError(
            "its process was killed (SIGKILL), usually because memory ran out",
            fix=fix or (less if spec.learns or spec.engines else other),
        )
    if code == -signal.SIGPROF:  # see `finery.rows.templates.limits`
        return StepError(
            "a template or pattern ran for too long on one row, and could only be stopped by "
            "ending the step's process",
            fix="write fewer or shorter loops and lists in the templates of this step",
        )
    if code >= 0:
        return StepError(
            f"its process ended with exit code {code} before the step was done",
            fix=f"see {task.log}; a step must return, not call os._exit",
        )
    return StepError(f"its process died ({signal.Signals(-code).name})", fix=f"see {task.log}")
