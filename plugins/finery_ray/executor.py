"""The executor of Ray, on its Jobs API."""

import fnmatch
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from finery import StepError, UsageError
from finery.advanced import JOB_CANCELLED, JOB_NOT_STARTED, JOB_RUNS, CourierExecutor, Task
from finery_ray.nodes import JOB, MODULE, PLAN, Plan

ENDINGS = {
    "JOB_ENTRYPOINT_COMMAND_ERROR": "ended before it could report",
    "JOB_ENTRYPOINT_COMMAND_START_ERROR": "couldn't start",
    "JOB_SUPERVISOR_ACTOR_DIED": "was lost with its node, or was killed",
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT": "didn't get its resources in time",
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE": "asks for resources that no node has",
    "RUNTIME_ENV_SETUP_FAILURE": "has a runtime_env that Ray can't set up",
}
"""Ray's type of an error → what happened."""
LONGEST = 300
"""Characters of Ray's messages in finery's."""


class RayOptions(msgspec.Struct, kw_only=True):
    """The table `[ray]` of finery.toml. Resources of a step have precedence.

    address: of the cluster's dashboard. num_cpus: of steps that don't say `cpus`. num_gpus: of
    steps that use GPUs, instead of their number. resources: custom ones. runtime_env: Ray's, e.g.
    `pip`. pass_env: patterns of variables of this machine that jobs get, e.g. for the bucket.
    folder: where nodes keep files; steps on several nodes need one that the nodes share. python: of
    the nodes. remote: the shared store.
    """

    address: str = "http://127.0.0.1:8265"
    num_cpus: Annotated[float, Meta(gt=0)] = 1
    num_gpus: Annotated[float, Meta(ge=0)] | None = None
    resources: dict[str, float] = {}
    runtime_env: dict[str, Any] = {}
    pass_env: list[str] = []
    folder: str = "~/.cache/finery/ray"
    python: str = "python"
    remote: str | None = None


class RayExecutor(CourierExecutor):
    """Runs steps as Ray jobs. Their files travel through the shared store."""

    name, title = "ray", "Ray"
    Options = RayOptions

    def __init__(self, jobs: int | None, options: RayOptions | None = None) -> None:
        self._options = options or RayOptions()
        super().__init__(jobs, self._options.remote, self._options.folder)

    @cached_property
    def _client(self) -> Any:
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            raise UsageError(
                "executor 'ray' needs Ray's Jobs API", fix='pip install "finery[ray]"'
            ) from error
        try:
            return JobSubmissionClient(self._options.address)
        except (OSError, RuntimeError, ValueError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> StepError:
        address, reason = self._options.address, _last_line(str(error))
        return StepError(
            f"Ray doesn't answer at {address}" + ("" if address in reason else f": {reason}"),
            fix="set `address` of [ray] to the URL of the cluster's dashboard (finery config says "
            "where it is set)",
        )

    def job_id(self, task: Task, token: str) -> str:
        """A name that Ray's dashboard shows."""
        return re.sub(r"[^\w.-]+", "-", f"finery-{task.step}-{token}")

    def launch(self, task: Task, job_id: str, variables: Mapping[str, str]) -> None:
        """Submit a job. Variables go through its runtime_env, and nothing else contains them."""
        options, asks = self._options, task.resources
        if task.gpu_names:
            raise UsageError(
                f"step '{task.step}' names GPUs, which Ray chooses",
                fix="remove `gpus`, or run the step with another executor",
            )
        passed = {
            name: value
            for name, value in os.environ.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in options.pass_env)
        }
        own = options.runtime_env.get("env_vars", {})
        gpus: float = math.ceil(task.gpus / task.nodes)
        if gpus and options.num_gpus is not None:
            gpus = options.num_gpus
        share = {
            "num_cpus": asks.cpus or options.num_cpus,
            "num_gpus": gpus or None,
            "memory": asks.memory or None,
            "resources": options.resources or None,
        }
        module, variables = JOB, dict(variables)
        if task.nodes > 1:
            plan = Plan(nodes=task.nodes, share=share, python=options.python)
            variables[PLAN] = msgspec.json.encode(plan).decode()
            module, share = MODULE, {}
        try:
            self._client.submit_job(
                submission_id=job_id,
                entrypoint=f"exec {options.python} -m {module}",
                runtime_env={**options.runtime_env, "env_vars": {**own, **passed, **variables}},
                metadata={"step": task.step, "key": task.key},
                **{f"entrypoint_{name}": amount for name, amount in share.items()},
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise StepError(
                f"Ray refuses the job: {_last_line(str(error))}",
                fix="change `resources` of the step or the options in [ray]",
            ) from error
        except OSError as error:
            raise self._unreachable(error) from error

    def ask(self, ids: Sequence[str]) -> Mapping[str, str]:
        """The states of jobs. Ray doesn't know those of a cluster that was started again."""
        states = {}
        for job_id in ids:
            info = self._info(job_id)
            if info is None:
                continue
            status = str(info.status)
            if status == "STOPPED":
                states[job_id] = JOB_CANCELLED
            elif status == "FAILED":
                kind = str(info.error_type or "")
                # Its supervisor sets the node before it starts the step.
                is_lost = kind == "JOB_SUPERVISOR_ACTOR_DIED" and info.driver_node_id is None
                states[job_id] = JOB_NOT_STARTED if is_lost else ENDINGS.get(kind, "failed")
            else:
                states[job_id] = "ended without a result" if status == "SUCCEEDED" else JOB_RUNS
        return states

    def _info(self, job_id: str) -> Any:
        """What Ray knows about a job; None if it knows none with this id."""
        try:
            return self._client.get_job_info(job_id)
        except RuntimeError as error:
            if "404" in str(error) or "does not exist" in str(error):
                return None
            raise self._unreachable(error) from error
        except OSError as error:
            raise self._unreachable(error) from error

    def end(self, ids: Sequence[str]) -> None:
        """Stop jobs."""
        for job_id in ids:
            try:
                self._client.stop_job(job_id)
            except RuntimeError:  # it is unknown
                continue
            except OSError as error:
                raise self._unreachable(error) from error

    def cancel_words(self, ids: Sequence[str]) -> str:
        """The commands that stop jobs."""
        return "; ".join(f"ray job stop --address {self._options.address} {i}" for i in ids)

    def last_words(self, task: Task, job_id: str) -> str:
        """Ray's message for a job that failed: what it printed last, or an error of Ray."""
        info = self._info(job_id)
        if info is None or str(info.status) != "FAILED":
            return ""
        line = _last_line(str(info.message or ""))
        if self.no_access in line:
            raise StepError(
                line, fix='give the nodes access to it, or set pass_env = ["AWS_*"] in [ray]'
            )
        return line


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2].strip()[:LONGEST]
