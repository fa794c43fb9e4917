"""A step on several nodes of a Ray cluster.

`python -m finery_ray.nodes` is the entry of its job. It asks for no resources, since jobs that hold
a node each could wait for each other's for ever. Ray reserves all nodes at once, and the first
runs the job like any other, as `python -m finery_ray.nodes first`.

There, `python -m finery_ray.nodes run COMMAND` is what `Job.on_nodes` begins with. It is another
driver, so Ray ends what it started on other nodes when it ends in any way.

Workers of Ray may have another Python. They get functions of this module by value.
"""

import logging
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from finery import StepError
from finery.advanced import (
    JOB_ADDRESS_VARIABLE,
    NODE_VARIABLE,
    ON_NODES_VARIABLE,
    JobAddress,
    report_event,
)

MODULE, JOB = "finery_ray.nodes", "finery.execute.node"
"""What runs a job on several nodes, and on one."""
PLAN = "FINERY_RAY_NODES"
"""The environment variable with the `Plan` of a job."""
NAMESPACE = "finery"
OWN = "_VISIBLE_DEVICES$"
"""Variables that Ray sets on each node."""
PAUSE = 2.0
"""Seconds between two looks at nodes that aren't free."""
LIMIT, SECONDS = "RAY_JOB_START_TIMEOUT_SECONDS", 900
"""Ray's variable with the time that a job may take to start, and its default."""
UNTIL_EOF = """exec 3<&0 </dev/null
(read -r _ <&3; kill -9 0) >/dev/null 2>&1 &
exec 3<&-
exec "$@"
"""
"""A script that runs a command, and kills its process group when stdin is closed."""


class Plan(msgspec.Struct, kw_only=True):
    """What a job knows about its nodes.

    share: what each one gives, as options of Ray's tasks. python: of the nodes. The job adds
    address: of the cluster. group: the name of its placement group. runtime_env: Ray's for its
    tasks, without variables.
    """

    nodes: int
    share: dict[str, Any]
    python: str
    address: str = ""
    group: str = ""
    runtime_env: dict[str, Any] = {}

    def bundle(self) -> dict[str, float]:
        """The share of a node, by the names of Ray's resources."""
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        amounts = {name: self.share.get(option) for option, name in names.items()}
        amounts |= self.share.get("resources") or {}
        return {name: amount for name, amount in amounts.items() if amount}

    def __str__(self) -> str:
        amounts = self.bundle()
        memory = amounts.pop("memory", 0)
        words = [f"{amount:g} {name}" for name, amount in amounts.items()]
        words += [f"{memory / 2**30:.3g}GB of memory"] if memory else []
        return f"{self.nodes} nodes with {', '.join(words)} each"

    def start(self, group: Any, node: int, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function on a node; Ray's reference to the result."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Placed

        task: Any = ray.remote(call)
        options = {**self.share, "scheduling_strategy": Placed(group, node), "max_retries": 0}
        return task.options(**options).remote(*arguments)


def main(plan: Plan) -> int:
    """Reserve the nodes, and run the job on the first of them; its exit code."""
    import ray

    address = msgspec.json.decode(os.environ[JOB_ADDRESS_VARIABLE], type=JobAddress)
    plan.address = os.environ["RAY_ADDRESS"]
    ray.init(address=plan.address, namespace=NAMESPACE, log_to_driver=False)
    context = ray.get_runtime_context()
    plan.group = f"finery-{context.get_job_id()}"
    plan.runtime_env = {n: v for n, v in context.runtime_env.to_dict().items() if n != "env_vars"}
    group = ray.util.placement_group([plan.bundle()] * plan.nodes, "STRICT_SPREAD", plan.group)
    try:
        _wait(plan, group, address)
        _check_folder(plan, group, address.folder)
    except StepError as error:
        report_event(address, {"event": "failed", "error": error.to_dict()})
        sys.exit(error.what)
    variables = {JOB_ADDRESS_VARIABLE: address, PLAN: plan}
    texts = {name: msgspec.json.encode(value).decode() for name, value in variables.items()}
    command = ["/bin/sh", "-c", f"exec {plan.python} -m {MODULE} first"]
    return _copy(map(ray.get, plan.start(group, 0, run, command, texts, "", None)))


def _wait(plan: Plan, group: Any, address: JobAddress) -> None:
    """Wait for the nodes. Raises `StepError` if the cluster has too few for too long."""
    limit, said = float(os.environ.get(LIMIT, SECONDS)), ""
    deadline = time.monotonic() + limit
    while not group.wait(PAUSE):
        bundle = plan.bundle().items()
        number = sum(
            node["Alive"] and all(node["Resources"].get(n, 0) >= amount for n, amount in bundle)
            for node in _nodes()
        )
        if number >= plan.nodes:
            deadline = time.monotonic() + limit
        elif time.monotonic() > deadline:
            raise StepError(
                f"the step needs {plan}, and the cluster has {number}",
                fix="change `nodes` or `resources` of the step or the options in [ray]",
            )
        few = f": the cluster has {number}" if number < plan.nodes else ""
        message = f"waiting for {plan}{few}"
        if message != said:
            report_event(address, {"event": "log", "message": message})
            said = message


def _nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster, as Ray describes them."""
    import ray

    listed: Callable[[], list[dict[str, Any]]] = ray.nodes
    return listed()


def _check_folder(plan: Plan, group: Any, folder: str) -> None:
    """Raise `StepError` if a node doesn't see the first one's files."""
    import ray

    file = ray.get(plan.start(group, 0, new_file, folder))
    there = [plan.start(group, node, Path.exists, file) for node in range(1, plan.nodes)]
    nodes = ray.util.placement_group_table(group)["bundles_to_node_id"]
    hosts = {node["NodeID"]: node["NodeManagerHostname"] for node in _nodes()}
    for number, sees in enumerate(ray.get(there), 1):
        if not sees:
            raise StepError(
                f"node {hosts[nodes[number]]} doesn't see the files in {file.parent} of node "
                f"{hosts[nodes[0]]}",
                fix="set `folder` of [ray] to a folder that the nodes share",
            )
    ray.get(plan.start(group, 0, Path.unlink, file))


def new_file(folder: str) -> Path:
    """Make an empty file."""
    path = Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".nodes-", dir=path, delete=False) as file:
        return Path(file.name)


def run(
    command: Sequence[str], variables: Mapping[str, str], kept: str, folder: str | None
) -> Iterator[bytes | int]:
    """Run a command in a folder of this machine; its output, and then its exit code.

    It gets these variables, and those of this process whose names match `kept`. When this process
    ends in any way, it is killed with its process group.
    """
    environment = {n: v for n, v in os.environ.items() if re.search(kept, n)} | dict(variables)
    with subprocess.Popen(
        ["/bin/sh", "-c", UNTIL_EOF, "sh", *command], env=environment, cwd=folder, process_group=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        while text := process.stdout.read(1 << 16):
            yield text
        code = process.wait()
        yield code if code >= 0 else 128 - code


def _copy(output: Iterable[bytes | int]) -> int:
    """Write what `run` yields to stdout; the exit code."""
    for text in output:
        if isinstance(text, int):
            return text
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    return 1


def on_nodes(plan: Plan, command: Sequence[str]) -> int:
    """Run a command on each node until one fails; the exit code."""
    import ray

    ray.init(
        address=plan.address, namespace=NAMESPACE, runtime_env=plan.runtime_env,
        log_to_driver=False, logging_level=logging.WARNING,
    )  # fmt: skip
    group, codes = ray.util.get_placement_group(plan.group), SimpleQueue[int]()
    variables = {n: v for n, v in os.environ.items() if not re.search(OWN, n)}
    own_address: Callable[[], str] = ray.util.get_node_ip_address
    variables["FINERY_HOST"] = own_address()

    def follow(node: int) -> None:
        arguments = command, variables | {NODE_VARIABLE: str(node)}, OWN, os.getcwd()
        code = 1
        try:
            if node == 0:
                code = _copy(run(*arguments))
            else:
                code = _copy(map(ray.get, plan.start(group, node, run, *arguments)))
        except (ray.exceptions.RayError, OSError) as error:
            print(f"node {node}: {error}", flush=True)
        codes.put(code)

    for node in range(plan.nodes):
        threading.Thread(target=follow, args=[node], daemon=True).start()
    parent, running = os.getppid(), plan.nodes
    while running and os.getppid() == parent:
        with suppress(Empty):
            if code := codes.get(timeout=0.5):
                return code
            running -= 1
    return int(running > 0)


if __name__ == "__main__":
    plan = msgspec.json.decode(os.environ[PLAN], type=Plan)
    match sys.argv[1:]:
        case ["run", *command]:
            os._exit(on_nodes(plan, command))  # which ends what still runs
        case ["first"]:
            os.environ[ON_NODES_VARIABLE] = shlex.join([sys.executable, "-m", MODULE, "run"])
            os.execv(sys.executable, [sys.executable, "-m", JOB])
        case _:
            sys.exit(main(plan))
