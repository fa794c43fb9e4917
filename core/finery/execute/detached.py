"""The base of executors whose jobs continue without the build, such as Slurm's.

A subclass submits jobs, asks for their states and ends them. Their folders (`finery.execute.job`)
contain all else, so a build finds the job of a key that an earlier build submitted, and reads its
events from the beginning. Plugins import what they need for that from here.
"""

import contextlib
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from finery.errors import FineryError, PluginError, StepError, UsageError
from finery.execute.executor import Died, Failed, Logged, Need, Task, TaskEvent
from finery.execute.job import BEGAN, CLOSING_EVENTS, INTERRUPTED, About, JobFolder
from finery.execute.job import supervise as supervise
from finery.inference.records import SqliteRecords
from finery.step.resources import NODE_VARIABLE as NODE_VARIABLE
from finery.step.resources import ON_NODES_VARIABLE as ON_NODES_VARIABLE
from finery.step.resources import TIME_PATTERN as TIME_PATTERN
from finery.step.resources import Reservation as Reservation
from finery.store.connection import Database

FIRST_SILENCE, LONGEST_SILENCE = 2.0, 30.0
"""Seconds without an event after which a job's state is asked for, and the longest between two
questions."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.01, 0.5
"""Seconds between two looks at the files of jobs, which may be on a network file system."""
CANCEL_SECONDS = 60
"""How long to wait for the end of cancelled jobs."""
ANSWER_SECONDS = 60
"""How long to ask an engine about a job of an earlier build."""
MEMORY_FIX = "ask for more `memory` in `resources` of the step"
UNKNOWN = "is unknown to it"
JOB_CANCELLED = "was cancelled"
"""The state of a job that a user cancelled, so that its step isn't started again."""
JOB_NOT_STARTED = "never started"
"""The state of a job that ended and can't have run its step, so that another one is submitted."""
MAX_STARTS = 3
"""How many jobs are submitted for a step if they never start."""
JOB_RUNS = ""
"""The state of a job that waits or runs. Another state says how the job ended."""


@dataclass(eq=False)
class Job:
    """A job of this build.

    log: bytes of its log that are copied. interrupted: whether its latest attempt was told to end.
    """

    task: Task
    folder: JobFolder
    about: About
    log: int = 0
    interrupted: bool = False
    asked_at: float = field(default_factory=time.monotonic)
    silence: float = FIRST_SILENCE


class DetachedExecutor:
    """Submits steps as jobs. jobs: most of them at a time; None: any number.

    name: of the executor, as users write it. title: in messages. submitted: what they say of a job
    when `submit` has returned.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    submitted: ClassVar[str] = "submitted as"

    def __init__(self, jobs: int | None) -> None:
        self._jobs = jobs
        self._new: list[Task] = []
        self._running: dict[str, Job] = {}  # by key
        self._earlier: dict[str, Job] = {}  # of earlier builds, until the engine has answered
        self._ask_at = 0.0  # when to ask again, after the engine didn't answer
        self._unsent: list[tuple[Task, TaskEvent]] = []
        self._not_started: Counter[str] = Counter()  # number of such jobs by key
        self._look_at, self._pause = 0.0, SHORTEST_PAUSE

    # -- what a subclass does ----------------------------------------------------------------------

    def submit(self, tasks: Sequence[Task], calls: Sequence[tuple[str, str]]) -> list[str]:
        """Submit jobs for tasks that are alike; their ids.

        calls: the arguments with which each job calls `supervise`: its folder and its token.
        Raises `FineryError` if the engine refuses them.
        """
        raise NotImplementedError

    def states(self, ids: Sequence[str]) -> Mapping[str, str]:
        """The states of jobs by id. `JOB_RUNS`, or how it ended: `reached its time limit`.

        Raises `FineryError` if the engine doesn't answer now.
        """
        raise NotImplementedError

    def end(self, ids: Sequence[str]) -> None:
        """End jobs, without waiting."""
        raise NotImplementedError

    def cancel_words(self, ids: Sequence[str]) -> str:
        """The command with which a user cancels jobs."""
        raise NotImplementedError

    def follow(self, task: Task, folder: JobFolder, about: About) -> None:
        """Have the events of an earlier build's job come to its folder, if its node doesn't see it.

        From the beginning: they replace those that are there.
        """

    def last_words(self, task: Task, job_id: str) -> str:
        """What a job that died printed last outside of its step, if it is known.

        Raises `FineryError` if the job would end in the same way again.
        """
        return ""

    def alike(self, task: Task) -> Any:
        """Tasks for which this is equal are submitted together."""
        return task.key

    # -- the contract of executors -----------------------------------------------------------------

    def has_room(self, need: Need) -> bool:
        """Whether fewer jobs than the limit run."""
        running = len(self._running) + len(self._earlier) + len(self._new)
        return self._jobs is None or running < self._jobs

    def start(self, task: Task) -> None:
        """Find the job of the task's key, or submit one with the next `poll`."""
        folder = JobFolder.of_task(task)
        about = folder.about()
        if about is None:
            self._new.append(task)
        else:
            self._earlier[task.key] = Job(task, folder, about)
            self._adopt_earlier_jobs()

    def poll(self, timeout: float) -> Iterator[tuple[Task, TaskEvent]]:
        """Events of the jobs, waiting up to `timeout` seconds for the first."""
        deadline = time.monotonic() + timeout
        while True:
            self._adopt_earlier_jobs()
            self._submit_new()
            unsent, self._unsent = self._unsent, []
            any_event = bool(unsent)
            yield from unsent
            if time.monotonic() >= self._look_at:
                for job in [*self._running.values()]:
                    for event in self._events(job):
                        any_event = True
                        yield job.task, event
                self._ask_for_states()
                self._pause = SHORTEST_PAUSE if any_event else min(1.5 * self._pause, LONGEST_PAUSE)
                self._look_at = time.monotonic() + self._pause
            now = time.monotonic()
            if any_event or now >= deadline or not (self._running or self._earlier):
                return
            time.sleep(max(0.0, min(self._look_at, deadline) - now))

    def is_over(self, folder: JobFolder, about: About) -> bool:
        """Whether a job of an earlier build has ended without a result. Raises `FineryError`."""
        state = self.states([about.id]).get(about.id, UNKNOWN)
        return folder.closing() != "done" and state != JOB_RUNS

    def close(self) -> None:
        """Forget tasks that weren't submitted. Jobs continue, see `left` and `cancel`."""
        self._new.clear()

    def left(self) -> list[str]:
        """The jobs that are running."""
        return [
            f"{job.task.step}: {self.title} job {job.about.id}" for job in self._unfinished_jobs()
        ]

    def how_to_cancel(self) -> str:
        """The command that cancels them."""
        return self.cancel_words([job.about.id for job in self._unfinished_jobs()])

    def cancel(self) -> None:
        """End the jobs and wait until they have ended."""
        if ids := [job.about.id for job in self._unfinished_jobs()]:
            self._end(ids)
        for job in self._unfinished_jobs():
            job.folder.remove()
        self._running.clear()
        self._earlier.clear()

    # -- jobs --------------------------------------------------------------------------------------

    def _unfinished_jobs(self) -> list[Job]:
        return [*self._running.values(), *self._earlier.values()]

    def _end(self, ids: Sequence[str]) -> None:
        self.end(ids)
        deadline = time.monotonic() + CANCEL_SECONDS
        while time.monotonic() < deadline and any(
            self.states(ids).get(job, UNKNOWN) == JOB_RUNS for job in ids
        ):
            time.sleep(0.2)

    def _submit_new(self) -> None:
        new_tasks, self._new = self._new, []
        groups: dict[Any, list[Task]] = {}
        for task in new_tasks:
            groups.setdefault(self.alike(task), []).append(task)
        for tasks in groups.values():
            folders = [*map(JobFolder.of_task, tasks)]
            abouts = [f.create(t, self.name) for f, t in zip(folders, tasks, strict=True)]
            try:
                calls = [(str(f.path), a.token) for f, a in zip(folders, abouts, strict=True)]
                ids = self.submit(tasks, calls)
                if len(ids) != len(tasks):
                    problem = f"`submit` of executor '{self.name}' returns {ids!r:.60}"
                    fix = f"return the id of each job: there are {len(tasks)}"
                    raise PluginError(problem, fix=fix)
            except FineryError as error:
                for task, folder in zip(tasks, folders, strict=True):
                    folder.remove()
                    self._unsent.append((task, Failed(event="failed", error=error.to_dict())))
                continue
            for task, folder, about, job_id in zip(tasks, folders, abouts, ids, strict=True):
                about.id = job_id
                folder.write(about)
                self._running[task.key] = Job(task, folder, about)
                self._say(task, f"{self.submitted} {self.title} job {job_id}")

    def _adopt_earlier_jobs(self) -> None:
        """Continue with jobs of earlier builds, or submit others for their steps.

        While the engine doesn't answer, a job may run: it is neither forgotten nor replaced.
        """
        if time.monotonic() < self._ask_at:
            return
        for key, job in [*self._earlier.items()]:
            try:
                counts = self._is_usable(job)
            except FineryError as error:
                if not isinstance(error, UsageError) and self._is_patient(job, error):
                    return
                for other in self._earlier.values():
                    self._give_up(other, error)
                self._earlier.clear()
                return
            del self._earlier[key]
            if counts:
                self._running[key] = job
            else:
                self._new.append(job.task)

    def _is_patient(self, job: Job, error: FineryError) -> bool:
        """Whether to ask the engine once more."""
        now = time.monotonic()
        if not self._ask_at:
            self._say(job.task, f"{error.what}; asking again for {ANSWER_SECONDS} s")
        self._ask_at = now + FIRST_SILENCE
        return now - job.asked_at < ANSWER_SECONDS

    def _give_up(self, job: Job, error: FineryError) -> None:
        """End a step without its job, which the next build continues with."""
        problem = (
            f"{error.what} ({self.title} job {job.about.id} of an earlier build may still run)"
        )
        fix = f"{error.fix or 'correct it'}, then build again to continue with the job"
        failure = type(error)(problem, fix=fix)
        failed = Failed(event="failed", error=failure.to_dict(), continues=True)
        self._unsent.append((job.task, failed))

    def _is_usable(self, job: Job) -> bool:
        """Whether an earlier build's job is done or runs. Otherwise it is ended and removed.

        Raises `FineryError` if the engine doesn't answer.
        """
        task, folder, about = job.task, job.folder, job.about
        job_label = f"{self.title} job {about.id} of an earlier build"
        if about.id:
            self.follow(task, folder, about)
        outdated, state = folder.outdated(about), UNKNOWN
        if about.id and (outdated or folder.closing() != "done"):
            state = self.states([about.id]).get(about.id, UNKNOWN)
        ending = folder.closing()
        if outdated:
            reason = outdated
        elif ending in ("failed", "died"):
            reason = "it failed"
        elif ending == "done" or state == JOB_RUNS:
            self._say(task, f"continues with {job_label}")
            return True
        else:
            reason = f"it {state}"
        if state == JOB_RUNS:
            self._end([about.id])
        self._say(task, f"{job_label} doesn't count: {reason}")
        folder.remove()
        return False

    def _events(self, job: Job) -> Iterator[TaskEvent]:
        """The new events of a job. After the closing one, the job is forgotten."""
        for event in job.folder.read():
            job.asked_at, job.silence = time.monotonic(), FIRST_SILENCE
            job.interrupted = event["event"] == INTERRUPTED
            if event["event"] == BEGAN:
                line = f"{self.title} job {job.about.id} runs on {event['host']}"
                yield Logged(event="log", message=line)
            elif job.interrupted:
                continue
            elif event["event"] in CLOSING_EVENTS:
                self._forget(job)
                if event["event"] == "died" and event["code"] == -signal.SIGKILL:
                    event["fix"] = MEMORY_FIX
                yield event
                return
            else:
                yield event
        self._copy_log(job)

    def _forget(self, job: Job) -> None:
        """Take over what a job leaves: its log, and its answers if they aren't in the store."""
        self._copy_log(job)
        del self._running[job.task.key]
        answers = job.folder.path / "records.db"
        if answers.exists():
            database = Database(answers)
            SqliteRecords(Path(job.task.store, "finery.db")).put(
                dict(database.rows("SELECT key, value FROM records"))
            )
            database.close()

    def _copy_log(self, job: Job) -> None:
        with contextlib.suppress(FileNotFoundError), (job.folder.path / "log").open("rb") as log:
            if os.fstat(log.fileno()).st_size > job.log:
                log.seek(job.log)
                text = log.read()
                job.log += len(text)
                with open(job.task.log, "ab") as copy:
                    copy.write(text)

    def _ask_for_states(self) -> None:
        """Ask how silent jobs are. One that ended without a closing event has died."""
        now = time.monotonic()
        silent = [j for j in self._running.values() if now - j.asked_at > j.silence]
        if not silent:
            return
        try:
            states = self.states([job.about.id for job in silent])
        except UsageError:  # asking again doesn't help
            raise
        except FineryError:  # a busy controller answers later
            states = {job.about.id: JOB_RUNS for job in silent}
        for job in silent:
            state = states.get(job.about.id, UNKNOWN)
            job.asked_at, job.silence = now, min(2 * job.silence, LONGEST_SILENCE)
            if state == JOB_RUNS or job.folder.closing():
                continue
            self._forget(job)
            self._not_started[job.task.key] += state == JOB_NOT_STARTED
            is_safe = state == JOB_NOT_STARTED and self._not_started[job.task.key] < MAX_STARTS
            if job.interrupted and state != JOB_CANCELLED:  # preempted, and it wasn't requeued
                is_safe, state = True, "was interrupted"
            reason = f"{self.title} job {job.about.id} {state}"
            if is_safe:
                self._say(job.task, reason)
                self._new.append(job.task)
                continue
            ending: TaskEvent
            if state == JOB_CANCELLED:  # by a user, so it doesn't start again
                cancelled = StepError(reason, fix="finery build runs the step again")
                ending = Failed(event="failed", error=cancelled.to_dict())
            else:
                try:
                    words = self.last_words(job.task, job.about.id)
                except FineryError as error:
                    error.what = f"{reason}: {error.what}"
                    ending = Failed(event="failed", error=error.to_dict())
                else:
                    reason += f": {words}" if words else ""
                    ending = Died(event="died", code=1, reason=reason)
                    if re.search(r"memory|\boom", reason, re.IGNORECASE):
                        ending["fix"] = MEMORY_FIX
            self._unsent.append((job.task, ending))

    def _say(self, task: Task, message: str) -> None:
        self._unsent.append((task, Logged(event="log", message=message)))
