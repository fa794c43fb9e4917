"""A Slurm cluster of one node, from Debian's packages, started for the tests on 127.0.0.1."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=100000
SlurmdParameters=config_overrides
MpiDefault=none
JobRequeue=1
KillWait=2
MailProg=/bin/true
ReturnToService=2
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no cluster can be started here, nothing where it can."""
    if not all(map(_program, PROGRAMS)):
        return "needs Slurm (Debian: slurmctld slurmd slurm-client munge)"
    return "" if os.geteuid() == 0 else "must be root, to start jobs"


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def cluster() -> Iterator[Path]:
    """A cluster that ends with the block; its slurm.conf, for SLURM_CONF."""
    folder = Path(tempfile.mkdtemp(prefix="finery-slurm-"))
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        controller, daemon = one.getsockname()[1], two.getsockname()[1]
    conf = folder / "slurm.conf"
    conf.write_text(CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0], folder=folder, controller=controller,
        daemon=daemon,
    ))  # fmt: skip
    (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    processes = []
    try:
        for name, *arguments in (
            ("munged", "--foreground", "--force", f"--socket={folder}/munge.socket",
             f"--key-file={key}", f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/seed",
             f"--log-file={folder}/munged.log"),
            ("slurmctld", "-D", "-f", str(conf), "-L", f"{folder}/slurmctld.log"),
            ("slurmd", "-D", "-f", str(conf), "-L", f"{folder}/slurmd.log"),
        ):  # fmt: skip
            with open(folder / f"{name}.out", "wb") as out:
                processes.append(subprocess.Popen(
                    [str(_program(name)), *arguments], stdout=out, stderr=out, env=environment
                ))  # fmt: skip
            if name == "munged":
                until((folder / "munge.socket").exists, 20)
        until(lambda: _state(environment) == "idle", 60)
        yield conf
    finally:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(conf))
            if len(processes) == len(PROGRAMS) - 1 and running():
                subprocess.run(["scancel", "--me", "--quiet"], check=True)
                until(lambda: not running(), 60)
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _state(environment: dict[str, str]) -> str:
    ran = subprocess.run(
        ["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True, check=False
    )
    return ran.stdout.strip()


def running(shown: str = "%i") -> list[str]:
    """Ids of the jobs that wait or run, or another field of squeue."""
    command = ["squeue", "-h", "-r", "--me", "-o", shown]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
