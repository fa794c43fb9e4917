"""A Ray cluster of a head without cores and a node, on 127.0.0.1. They share no folder with builds.

The node has an environment of its own with a copy of finery, and its own home.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path

from conftest import until

ROOT = Path(__file__).parents[1]
KILL = """
import ray, time
ray.init(address="{address}", log_to_driver=False)
space = "SUPERVISOR_ACTOR_RAY_NAMESPACE"
while True:
    try:
        actor = ray.get_actor("_ray_internal_job_actor_{job}", namespace=space)
        break
    except ValueError:  # it isn't there yet
        time.sleep(0.1)
ray.kill(actor)
"""


class Cluster:
    """A running cluster. address: of its dashboard. node_home: the home of its node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node_home = folder / "node"
        self._gcs, dashboard = _free_port(), _free_port()
        self.address = f"http://127.0.0.1:{dashboard}"
        self._python = _environment(folder / "venv")
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._processes = [self._start(
            "head", "--head", f"--port={self._gcs}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", "--num-cpus=0",
            f"--ray-client-server-port={_free_port()}",
            f"--temp-dir={folder}/ray",
        )]  # fmt: skip
        until(self._answers, 120)
        self.start_node()

    def start_node(self, name: str = "node") -> None:
        """Start the node with the cores, or another one, and wait until it is in the cluster."""
        for _ in range(5):  # another program may take a port that Ray has chosen
            node = self._nodes[name] = self._start(
                name, f"--address=127.0.0.1:{self._gcs}", "--num-cpus=4", f"--labels=name={name}"
            )
            self._processes.append(node)
            until(lambda: self._has(name) or self._nodes[name].poll() is not None)
            if node.poll() is None:
                return
        raise AssertionError((self.folder / name / "out").read_text())

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        home = self.folder / name
        home.mkdir(exist_ok=True)
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("FINERY_", "AWS_"))}
        with open(home / "out", "ab") as out:
            return subprocess.Popen(
                [self._python, "-m", "ray.scripts.scripts", "start", *arguments, "--block",
                 "--node-ip-address=127.0.0.1", "--disable-usage-stats",
                 f"--dashboard-agent-listen-port={_free_port()}",
                 f"--metrics-export-port={_free_port()}", "--object-store-memory=80000000"],
                cwd=home, stdout=out, stderr=out, start_new_session=True,
                env={**kept, "HOME": str(home), "PATH": f"{self.folder}/venv/bin:{kept['PATH']}",
                     "RAY_USAGE_STATS_ENABLED": "0", "RAY_health_check_period_ms": "1000",
                     "PYTHONPATH": ""},
            )  # fmt: skip

    def _answers(self) -> bool:
        with suppress(OSError):
            return bool(urllib.request.urlopen(f"{self.address}/api/version", timeout=5).read())
        return False

    def kill_node(self, name: str = "node") -> None:
        """Kill a node's raylet, as if its machine was lost, and wait until the cluster knows."""
        node = self._nodes.pop(name)
        _kill_all([p for p in _children(node.pid) if "raylet" in _command(p)])
        _kill_all([node.pid, *_children(node.pid)])
        node.wait()
        until(lambda: not self._has(name))

    def _has(self, name: str) -> bool:
        """Whether the cluster takes a node for alive."""
        with urllib.request.urlopen(f"{self.address}/nodes?view=summary", timeout=30) as answer:
            nodes = [node["raylet"] for node in json.load(answer)["data"]["summary"]]
        alive = [node for node in nodes if node.get("state") == "ALIVE"]  # new ones lack it
        return any(node["labels"].get("name") == name for node in alive)

    def kill_supervisor(self, job: str) -> None:
        """Kill the actor of Ray that runs a job. It may be waiting for a node."""
        code = KILL.format(address=f"127.0.0.1:{self._gcs}", job=job)
        subprocess.run([self._python, "-c", code], check=True, cwd=self.folder)

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            _kill_all([process.pid, *_children(process.pid)])
            process.wait()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster that ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix="fr-", dir="/tmp"))  # sockets need short paths
    made: Cluster | None = None
    try:
        made = Cluster(folder)
        yield made
    finally:
        if made is not None:
            made.close()
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path) -> Path:
    """The Python of an environment with the packages of this one and a copy of finery."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for source in (ROOT / "core" / "finery", *(ROOT / "plugins").glob("finery_*")):
        shutil.copytree(source, packages / source.name)
    installed = Path(str(distribution("finery").locate_file("")))
    (about,) = installed.glob("finery-*.dist-info")
    shutil.copytree(about, packages / about.name)
    others = [path for path in sys.path if "site-packages" in path]
    (packages / "others.pth").write_text("\n".join(others))
    return folder / "bin" / "python"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path("/proc", str(pid), "comm").read_text()
    return ""


def _children(pid: int) -> list[int]:
    """All processes below one."""
    below = []
    with suppress(OSError):
        for task in Path("/proc", str(pid), "task").iterdir():
            below += [int(child) for child in (task / "children").read_text().split()]
    return [*below, *(each for child in below for each in _children(child))]


def _kill_all(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
