"""A PostgreSQL server of Debian's package, started for the tests on 127.0.0.1."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from conftest import until

BINARIES = Path("/usr/lib/postgresql")
PASSWORD = "s3cret-w0rd"
ATTEMPTS = 3
"""Starts, since another test may take the port meanwhile."""


class Server(NamedTuple):
    """A running server."""

    port: int

    def url(self, password: str = PASSWORD, database: str = "postgres") -> str:
        """Its URL for SQLAlchemy."""
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{database}"


def missing() -> str:
    """Why no server can be started here, nothing where it can."""
    if _binary("postgres") is None:
        return f"needs PostgreSQL in {BINARIES} (Debian: postgresql)"
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return "needs the user postgres"
    return "" if os.geteuid() == 0 else "must be root, to become the user postgres"


def _binary(name: str) -> Path | None:
    return next(iter(sorted(BINARIES.glob(f"*/bin/{name}"), reverse=True)), None)


@contextmanager
def serving() -> Iterator[Server]:
    """A server with an empty database, which ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix="finery-postgres-"))
    shutil.chown(folder, "postgres")
    process = None
    try:
        secret = folder / "password"
        secret.write_text(PASSWORD)
        shutil.chown(secret, "postgres")
        _as_postgres(
            "initdb", "-D", f"{folder}/data", "-A", "scram-sha-256", "-U", "postgres", "-N",
            f"--pwfile={secret}", "-E", "UTF8", "--locale=C",
        ).wait()  # fmt: skip
        for _ in range(ATTEMPTS):
            process, port = start(folder)
            if process.poll() is None:
                break
        else:
            logs = [path.read_text() for path in (folder / "data/log").glob("*")]
            raise AssertionError(f"PostgreSQL doesn't start: {logs}")
        yield Server(port)
    finally:
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A server that answers at a port, or that has ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = _as_postgres(
        "postgres", "-D", f"{folder}/data", "-h", "127.0.0.1", "-p", str(port),
        "-k", str(folder), "-c", "fsync=off", "-c", "timezone=Asia/Tokyo",
        "-c", "logging_collector=on", "-c", "log_directory=log",
    )  # fmt: skip
    try:
        until(lambda: _answers(port) or process.poll() is not None, seconds=300)
    except AssertionError:
        process.kill()
        raise
    return process, port


def _as_postgres(name: str, *arguments: str) -> subprocess.Popen[bytes]:
    user = pwd.getpwnam("postgres")
    return subprocess.Popen(
        [str(_binary(name)), *arguments],
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _answers(port: int) -> bool:
    import psycopg

    try:
        psycopg.connect(Server(port).url()).close()
    except psycopg.OperationalError:
        return False
    return True
