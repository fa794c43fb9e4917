"""A Slurm cluster of two nodes, from Debian's packages, started for the tests on 127.0.0.1."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import until

NODES = ("n1", "n2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerNode=4000
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=100000
SlurmdParameters=config_overrides
MpiDefault=none
JobRequeue=1
KillWait=2
MailProg=/bin/true
ReturnToService=2
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=4 RealMemory=32000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=4 RealMemory=32000
PartitionName=short Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
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
    for name in NODES:
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in ("controller", *NODES)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        controller, n1, n2 = (one.getsockname()[1] for one in sockets)
    conf = folder / "slurm.conf"
    conf.write_text(CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0], folder=folder, controller=controller,
        n1=n1, n2=n2,
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
            *(("slurmd", "-D", "-N", n, "-f", str(conf), "-L", f"{folder}/{n}.log") for n in NODES),
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
            if len(processes) == len(NODES) + 2 and running():
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


def is_requeued() -> bool:
    """Whether the only job waits to run again."""
    return running("%T:%r") == ["PENDING:BeginTime"]


def start_again() -> str:
    """Start the only job again, once it is requeued; its id. By itself, Slurm waits two minutes.

    Its processes must have ended: Slurm would take a late end for that of the new attempt. And a
    node refuses a job that begins in the second in which it was ended.
    """
    until(is_requeued)
    job = running().pop()
    ended = ["pgrep", "-f", rf"slurmstepd: \[{job}\."]
    until(lambda: subprocess.run(ended, capture_output=True, check=False).returncode == 1)
    time.sleep(2)
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)
    return job
