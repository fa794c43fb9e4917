"""The kit for plugin authors."""

import subprocess
import sys
from pathlib import Path

from finery.testing import TestJob

LEAVE = "from finery.testing import TestJob; jobs = [TestJob(), TestJob()]"


def test_jobs_without_a_folder_leave_none_behind(tmp_path: Path) -> None:
    code = f"{LEAVE}; (jobs[0].out / 'file').touch(); print(jobs[0].out)"
    env = {"TMPDIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ran.stdout.startswith(str(tmp_path)), ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_leaves_its_parents_folder_alone(tmp_path: Path) -> None:
    code = (
        f"import os, sys; {LEAVE}\nif os.fork() == 0: sys.exit()\n"
        "os.wait(); print(jobs[0].out.is_dir())"
    )
    env = {"TMPDIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ran.stdout == "True\n", ran.stderr


def test_each_job_has_a_folder_that_outlives_it() -> None:
    one, other = TestJob(), TestJob()
    assert one.out != other.out
    out = one.out
    del one
    assert out.is_dir()


def test_a_folder_that_is_given_stays(tmp_path: Path) -> None:
    assert TestJob(tmp_path / "job").out == tmp_path / "job" / "out"
