"""Time builds with a shared store, as whole processes.

    python benchmarks/remote.py                      # 1,000 steps, 7 runs, about a minute
    python benchmarks/remote.py --steps 100 --delay 50

Two costs are measured, with the fan of steps of `core.py`:

    nothing to do   a build of what is built, without a shared store, with one at a closed port, and
                    with a server that counts requests; the three take turns
    another clone   a build without a store of its own: all results come from a server that waits
                    before each answer; no step runs

It is an error if a build with nothing to do sends a request, or if a step runs in the other clone.
"""

import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from common import between, machine, parser_of, say
from core import Runner, Work, find, write_finery

CLOSED = "http://127.0.0.1:9"


class Server(ThreadingHTTPServer):
    """Serves a folder, each answer after a delay in seconds. requests: how many there were."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: Path, delay: float) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.delay, self.requests = delay, 0


class _Handler(SimpleHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests += 1
        time.sleep(self.server.delay)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def serve(folder: Path, delay: float) -> Iterator[Server]:
    """A server that runs meanwhile."""
    with Server(folder, delay) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a build did what it mustn't."""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=between(1, 100_000), default=1000, help="default: 1000")
    parser.add_argument("--runs", type=between(1, 100), default=7, help="default: 7")
    parser.add_argument("--delay", type=between(0, 10_000), default=20, help="ms, default: 20")
    options = parser.parse_args(arguments)
    finery = find("finery", None)
    assert finery is not None
    with tempfile.TemporaryDirectory(prefix="finery-bench-", ignore_cleanup_errors=True) as top:
        shared, project = Path(top, "shared"), Path(top, "project")
        project.mkdir()
        runner = Runner(Path(top), 600.0)
        settings = project / "finery.toml"
        write_finery(project, Work("fan", tuple(range(options.steps))))
        say(f"building {options.steps} steps")
        runner.run((finery, "build", "--remote", f"file://{shared}", "--push"), project)
        ran = (project / "ran.log").stat().st_size
        print(", ".join(f"{k} {v}" for k, v in machine().items()))
        with serve(shared, 0.0) as counting:
            remotes = {
                "no shared store": "", "a closed port": CLOSED,
                "a server": f"http://127.0.0.1:{counting.server_port}",
            }  # fmt: skip
            seconds: dict[str, list[float]] = {name: [] for name in remotes}
            runner.run((finery, "build"), project)
            for _ in range(options.runs):
                for name, url in remotes.items():
                    settings.write_text(f'remote = "{url}"\n' if url else "")
                    seconds[name].append(runner.run((finery, "build"), project)[0])
        for name, walls in seconds.items():
            print(f"nothing to do, {name}: {statistics.median(walls):.3f} s")
        print(f"requests: {counting.requests}")
        for name in (".finery", "build"):
            shutil.rmtree(project / name)
        with serve(shared, options.delay / 1000) as slow:
            settings.write_text(f'remote = "http://127.0.0.1:{slow.server_port}"\n')
            wall, cpu = runner.run((finery, "build", "--fetch", "none"), project)
        again = (project / "ran.log").stat().st_size - ran
        print(
            f"another clone, {options.delay} ms for each answer: {wall:.2f} s ({cpu:.2f} s CPU), "
            f"{slow.requests} requests; {again} steps ran"
        )
    return int(counting.requests > 0 or again > 0)


if __name__ == "__main__":
    sys.exit(main())
