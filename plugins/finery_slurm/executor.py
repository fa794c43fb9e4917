"""The executor of Slurm. submitit writes the batch scripts, and continues jobs that are cut off."""

import math
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from finery import StepError, UsageError
from finery.advanced import (
    JOB_CANCELLED,
    NODE_VARIABLE,
    ON_NODES_VARIABLE,
    TIME_PATTERN,
    DetachedExecutor,
    Reservation,
    Task,
    supervise,
    worker_environment,
)

GROUPS = "slurm-"
"""Prefix of folders in `work/` with submitit's scripts, pickled calls and output."""
GROUP_DAYS = 30
SECONDS = 60
"""How long Slurm's commands may take."""
ANSWERS = "see whether Slurm answers here (sinfo); SLURM_CONF names its configuration"
_AWAY = re.compile("configuration source|[Uu]nable to contact|[Cc]onnection refused|timed out")
"""In sbatch's errors when it couldn't ask Slurm."""
ALIVE = frozenset({
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "RESIZING", "RESV_DEL_HOLD", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED",
})  # fmt: skip
ENDINGS = {
    "TIMEOUT": "reached its time limit",
    "DEADLINE": "reached its deadline",
    "OUT_OF_MEMORY": "ran out of the memory that it had asked for",
    "NODE_FAIL": "was lost with its node",
    "BOOT_FAIL": "was lost, since its node didn't start",
    "PREEMPTED": "was preempted by another job",
    "CANCELLED": JOB_CANCELLED,
    "FAILED": "ended before it could report",
    "COMPLETED": "ended without a result",
}
"""State of a job that has ended → what happened."""


class SlurmOptions(msgspec.Struct, kw_only=True):
    """The table `[slurm]` of finery.toml. Resources of a step have precedence.

    time: of steps without one. gres: for steps with GPUs; empty: they ask for none. extra: other
    options of sbatch. setup: shell commands before each job, e.g. `module load cuda`. python: of an
    environment with the same packages. continues: how often a job continues after its time limit.
    notice: seconds before the limit in which it ends in order. array: most jobs in one array.
    """

    partition: str | None = None
    account: str | None = None
    constraint: str | None = None
    time: Annotated[str, Meta(pattern=TIME_PATTERN)] = "1h"
    gres: str = "gpu:{gpus}"
    extra: dict[str, str | int | bool] = {}
    setup: list[str] = []
    python: str | None = None
    continues: Annotated[int, Meta(ge=0)] = 3
    notice: Annotated[int, Meta(ge=1)] = 90
    array: Annotated[int, Meta(ge=1)] = 256


class Run:
    """What a job calls. Slurm's notice before its end has submitit call `checkpoint`."""

    def __call__(self, folder: str, token: str, python: str | None) -> None:
        """Run the step of a job's folder, on the first node of the job."""
        if (nodes := int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))) > 1:
            # Without the trap, Slurm's notice would end the processes on the nodes.
            script = f'trap "" USR2; export {NODE_VARIABLE}=$SLURM_NODEID; exec "$@"'
            os.environ[ON_NODES_VARIABLE] = shlex.join([
                "srun", "--overlap", "--export=ALL", f"--nodes={nodes}", f"--ntasks={nodes}",
                "--ntasks-per-node=1", "--kill-on-bad-exit=1", "sh", "-c", script, "sh",
            ])  # fmt: skip
        supervise(folder, token, python)

    def checkpoint(self, *arguments: Any) -> Any:
        """Continue with the same call later: the step finds its checkpoints in its scratch."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


class SlurmExecutor(DetachedExecutor):
    """Runs steps as Slurm jobs; those that become ready together and ask for the same, as arrays.

    The store must be on a file system that the nodes share with this machine.
    """

    name, title = "slurm", "Slurm"
    Options = SlurmOptions

    def __init__(self, jobs: int | None, options: SlurmOptions | None = None) -> None:
        super().__init__(jobs)
        self._options = options or SlurmOptions()

    def alike(self, task: Task) -> Any:
        """Jobs of an array share their parameters and their environment, secrets included."""
        variables = tuple(sorted(_variables(task).items()))
        return msgspec.json.encode(self._parameters(task)), variables

    def submit(self, tasks: Sequence[Task], calls: Sequence[tuple[str, str]]) -> list[str]:
        """Submit the tasks, as arrays if there are several."""
        most, ids = self._options.array, list[str]()
        for start in range(0, len(tasks), most):
            part = slice(start, start + most)
            ids += self._submit(tasks[part], calls[part])
        return ids

    def _submit(self, tasks: Sequence[Task], calls: Sequence[tuple[str, str]]) -> list[str]:
        try:
            import submitit
        except ImportError as error:
            raise UsageError(
                "executor 'slurm' needs submitit", fix='pip install "finery[slurm]"'
            ) from error
        work = Path(tasks[0].store, "work")
        for old in work.glob(f"{GROUPS}*"):
            if time.time() - old.stat().st_mtime > 86_400 * GROUP_DAYS:
                shutil.rmtree(old, ignore_errors=True)
        folder = work / f"{GROUPS}{calls[0][1]}"
        try:
            executor = submitit.SlurmExecutor(folder, max_num_timeout=self._options.continues)
            with _exported(folder, tasks[0]) as file:
                parameters = self._parameters(tasks[0])
                parameters["additional_parameters"] |= {"export-file": str(file)}
                executor.update_parameters(**parameters)
                with (
                    redirect_stderr(StringIO()),
                    executor.batch(),
                ):  # submitit prints sbatch's error
                    jobs = [executor.submit(Run(), *call, self._options.python) for call in calls]
        except (submitit.core.utils.FailedJobError, RuntimeError, ValueError, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            reason = _last_line(str(error))
            if _AWAY.search(reason):
                raise StepError(f"sbatch failed: {reason}", fix=ANSWERS) from error
            raise StepError(
                f"Slurm refuses the job: {reason}",
                fix="change `resources` of the step or the options in [slurm]",
            ) from error
        return [job.job_id for job in jobs]

    def _parameters(self, task: Task) -> dict[str, Any]:
        """The arguments of submitit for a task."""
        options, asks = self._options, task.resources
        seconds = asks.time or Reservation.read({"time": options.time}).time
        extra: dict[str, Any] = dict(options.extra)
        if task.gpus and options.gres:
            extra["gres"] = options.gres.format(gpus=math.ceil(task.gpus / task.nodes))
        first = ["--nodes=1", "--ntasks=1", "--relative=0"]
        several = {"nodes": task.nodes, "ntasks_per_node": 1, "srun_args": first}
        return {
            "job_name": f"finery-{task.origin or task.step}",
            "time": math.ceil(seconds / 60),
            "signal_delay_s": options.notice,
            "wckey": None,
            "partition": options.partition,
            "account": options.account,
            "constraint": options.constraint,
            "setup": options.setup or None,
            "additional_parameters": extra,
            **(several if task.nodes > 1 else {}),
            **({"mem": f"{math.ceil(asks.memory / 2**20)}M"} if asks.memory else {}),
            **({"cpus_per_task": asks.cpus} if asks.cpus else {}),
        }

    def states(self, ids: Sequence[str]) -> Mapping[str, str]:
        """By squeue, which forgets jobs some minutes after their end, and by sacct."""
        lines = _asked("squeue", "-h", "-r", "--me", "-t", "all", "-o", "%i|%T")
        states = dict(line.split("|") for line in lines)
        if forgotten := [job for job in ids if job not in states]:
            try:
                lines = _asked("sacct", "-nXP", "-o", "JobID,State", "-j", ",".join(forgotten))
            except StepError:  # a cluster without accounting
                lines = []
            states |= dict(line.split("|") for line in lines)
        words = {job: states[job].partition(" ")[0] for job in ids if job in states}
        return {j: "" if w in ALIVE else ENDINGS.get(w, f"ended ({w})") for j, w in words.items()}

    def end(self, ids: Sequence[str]) -> None:
        """Cancel jobs."""
        _asked("scancel", "--quiet", *ids)

    def cancel_words(self, ids: Sequence[str]) -> str:
        """The command that cancels jobs."""
        return f"scancel {' '.join(ids)}"

    def last_words(self, task: Task, job_id: str) -> str:
        """The last line that a job printed outside of its step, if possible about memory."""
        for log in Path(task.store, "work").glob(f"{GROUPS}*/{job_id}_*_log.err"):
            lines = log.read_text("utf-8", "replace").splitlines() or [""]
            return next((x for x in reversed(lines) if re.search("memory|oom", x, re.I)), lines[-1])
        return ""


def _variables(task: Task) -> dict[str, str]:
    """The environment of a task's job. Without that of a job in which the build itself runs."""
    inherited = worker_environment(task, alone=True, here=False)
    kept = {n: v for n, v in inherited.items() if n == "SLURM_CONF" or not n.startswith("SLURM_")}
    if task.resources.cpus:
        kept.setdefault("OMP_NUM_THREADS", str(task.resources.cpus))
    return kept | task.env


@contextmanager
def _exported(folder: Path, task: Task) -> Iterator[Path]:
    """A file with the environment of a job, which only this user can read, for sbatch.

    Slurm keeps the environment for when the job runs or is requeued.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "environment"
    text = "".join(f"{name}={value}\0" for name, value in _variables(task).items())
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as target:
            target.write(text)
        yield file
    finally:
        file.unlink(missing_ok=True)


def _asked(*command: str) -> list[str]:
    """The lines that one of Slurm's commands prints. Raises `StepError` if it fails."""
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        details = (getattr(error, "stderr", None) or str(error)).strip()
        raise StepError(f"{command[0]} failed: {_last_line(details)}", fix=ANSWERS) from error
    return ran.stdout.split("\n")[:-1]


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
