"""A training in several processes: the main one starts them and listens; each runs the same step.

The launcher of torch starts the processes, which communicate through gloo on a CPU and NCCL on
GPUs. With a configuration file for accelerate (FSDP, DeepSpeed), `accelerate launch` does; without
one it would read the user's own. Each process is `python -m finery_trl.train.launch ORDER`.

On several nodes, `Job.on_nodes` runs a launcher on each. The main process is on the first, whose
processes it listens to. From others, it gets an exit code, and an error in a file next to ORDER.
"""

import json
import os
import pickle
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from finery import FineryError, Job, Model, StepError
from finery.advanced import cpu_count, load_plugins, loaded_files

if TYPE_CHECKING:
    from finery_trl.settings import Training
    from finery_trl.train.save import Outcome

ADDRESS = "FINERY_TRAINING_ADDRESS"
"""Environment variable with the address of the main process."""
ERROR = ".error.json"

Train = Callable[["Training", Job], "Outcome"]
"""Trains on a process's share of the rows."""


class Order(NamedTuple):
    """The work of a process: call `train`, a function of a module, with a step and its job."""

    train: Train
    step: "Training"
    seed: int
    scratch: Path


def launch(train: Train, step: "Training", job: Job) -> "Outcome":
    """Call `train` in `step.processes` processes; return the result of the first one.

    Checkpoints are in `job.scratch` afterwards. Raises the error of the first process that fails.
    """
    nodes = step.nodes if job.on_nodes else 1
    count = step.processes // nodes
    if nodes > 1:
        job.log(f"training in {step.processes} processes on {nodes} nodes")
    with tempfile.TemporaryDirectory(prefix="order-", dir=job.scratch) as folder:
        order = Path(folder) / "order"
        # read first, since the step may be from such a plugin
        header = pickle.dumps(loaded_files())
        order.write_bytes(header + pickle.dumps(Order(train, step, job.seed, job.scratch)))
        with Listener(None, "AF_UNIX", backlog=64) as listener:
            # More threads than cores would spin, waiting for each other.
            threads = str(max(1, cpu_count() // count))
            variables = {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
            variables["PYTHONSAFEPATH"] = "1"  # as in workers, which started with `-P`
            environment = {**os.environ, ADDRESS: str(listener.address)} | variables
            process = subprocess.Popen(_command(step, order, job.on_nodes), env=environment)
            try:
                return _listen(listener, process, count, job, Path(folder))
            finally:
                _end(process)


def main(path: Path) -> None:
    """Execute an order in one of the processes. path: the file with the order."""
    with path.open("rb") as file:
        load_plugins(tuple(pickle.load(file)))
        order: Order = pickle.load(file)
    if int(os.environ.get("GROUP_RANK", "0")):  # on another node than the main process
        threading.Thread(target=_end_with_launcher, args=[os.getppid()], daemon=True).start()
        try:
            order.train(order.step, _Job(order, lambda event: None))
        except FineryError as error:
            file_name = f"{os.environ['RANK']}{ERROR}"
            path.with_name(file_name).write_text(json.dumps(error.to_dict()), encoding="utf-8")
            sys.exit(1)
        return
    connection = Client(os.environ[ADDRESS], "AF_UNIX")
    done = threading.Event()
    _end_with(connection, done)
    first = int(os.environ.get("RANK", "0")) == 0
    lock = threading.Lock()

    def send(event: dict[str, Any]) -> None:
        with lock, suppress(BrokenPipeError):
            connection.send(event)

    job = _Job(order, send if first else lambda event: None)
    try:
        outcome = order.train(order.step, job)
    except FineryError as error:
        send({"event": "failed", "error": error.to_dict()})
        sys.exit(1)
    if first:
        send({"event": "trained", "outcome": outcome})
    done.set()
    send({"event": "ended"})


class _Job(Job):
    """The training's job in one of the processes."""

    def __init__(self, order: Order, report: Any) -> None:
        def find(model: Model) -> NoReturn:
            raise StepError("a training can only answer prompts with the model that it trains")

        super().__init__(
            out=order.scratch, scratch=order.scratch, seed=order.seed, report=report,
            find_engine=find,
        )  # fmt: skip


def _command(step: "Training", order: Path, on_nodes: list[str]) -> list[str]:
    assert step.launch is not None
    nodes = step.launch.nodes if on_nodes else 1
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    processes, config, deepspeed = step.processes, step.launch.config, step.launch.deepspeed
    if config is None:
        launcher = ["torch.distributed.run", f"--nproc_per_node={processes // nodes}"]
        several = [f"--nnodes={nodes}", f"--master_port={port}"]
        launcher += several if nodes > 1 else ["--standalone"]
    else:
        launcher = ["accelerate.commands.launch", f"--config_file={config.path}"]
        # 0 is any free port. The default port is the same for all trainings of a machine.
        launcher += [f"--num_processes={processes}"]
        several = [
            f"--num_machines={nodes}", f"--main_process_port={port}",
            "--deepspeed_multinode_launcher=standard",
        ]  # fmt: skip
        launcher += several if nodes > 1 else ["--main_process_port=0"]
        launcher += [f"--deepspeed_config_file={deepspeed.path}"] if deepspeed is not None else []
    command, module = (
        [sys.executable, "-m", *launcher],
        ["-m", "finery_trl.train.launch", str(order)],
    )
    if nodes == 1:
        return [*command, *module]
    rank, first = "--node_rank", "--master_addr"
    if config is not None:
        rank, first = "--machine_rank", "--main_process_ip"
    own_address = f"{rank}=$FINERY_NODE {first}=${{FINERY_HOST:-{socket.gethostname()}}}"
    script = f"exec {shlex.join(command)} {own_address} {shlex.join(module)}"
    return [*on_nodes, "sh", "-c", script]


def _listen(
    listener: Listener, process: "subprocess.Popen[bytes]", processes: int, job: Job, folder: Path
) -> "Outcome":
    """Report the events of the first process until all have ended; return its outcome.

    processes: how many there are on this node. folder: with errors of those on others.
    """
    outcome: Outcome | None = None
    events = _events(listener, process, processes)
    for event in events:
        if event["event"] == "failed":
            raise FineryError.from_dict(event["error"])
        if event["event"] == "trained":
            outcome = event["outcome"]
        else:
            _report(job, event)
    code = process.wait()
    for file in sorted(folder.glob(f"*{ERROR}")):
        raise FineryError.from_dict(json.loads(file.read_text(encoding="utf-8")))
    if outcome is None or code:
        raise StepError(
            f"a process of the training died (exit code {code})",
            fix="see the end of the step's log",
        )
    return outcome


def _events(
    listener: Listener, process: "subprocess.Popen[bytes]", processes: int
) -> Iterator[dict[str, Any]]:
    """The events of the processes, until all of them have ended."""
    from multiprocessing.connection import wait

    socket: Any = listener._listener._socket  # type: ignore[attr-defined]
    open_: list[Connection] = []
    ended = 0
    while ended < processes:
        ready = wait([socket, *open_], timeout=0.5)
        for address in ready:
            if address is socket:
                open_.append(listener.accept())
                continue
            assert isinstance(address, Connection)
            try:
                event = address.recv()
            except (EOFError, OSError):
                open_.remove(address)
                continue
            ended += event["event"] == "ended"
            if event["event"] != "ended":
                yield event
        if not ready and process.poll() is not None:
            return


def _report(job: Job, event: dict[str, Any]) -> None:
    if event["event"] == "progress":
        job.progress(event["done"], event["total"], event["text"])
    elif event["event"] == "metric":
        job.metric(event["name"], event["value"], event["at"])
    else:
        job.log(event["message"])


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Stop the launcher. The processes exit when their socket closes."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()
    process.wait()


def _end_with(connection: Connection, done: threading.Event) -> None:
    """Exit this process if the main one exits before the training is done."""

    def watch() -> None:
        with suppress(EOFError, OSError):
            connection.recv()
        if not done.is_set():
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _end_with_launcher(parent: int) -> None:
    """Exit this process if the launcher was killed, which started it in a session of its own."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
