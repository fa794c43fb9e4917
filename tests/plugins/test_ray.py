"""Steps as Ray jobs, on a cluster that the tests start, through a bucket of a server like S3."""

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import MakeProject, Project, until
from ray_cluster import Cluster, cluster

from finery.execute.executor import Executor
from finery.testing.executors import DetachedContract
from finery.util.files import hash_file
from finery_ray.executor import RayExecutor, RayOptions

pytest.importorskip("ray.job_submission")
pytestmark = pytest.mark.slow
ACCESS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b-secret-key", "AWS_REGION": "eu"}
BEGINS = "job.scratch.mkdir(exist_ok=True)\n(job.scratch / str(os.getpid())).touch()\n"
ROW = "rows.append({'prompt': 'p'})\n"


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    """The cluster."""
    with cluster() as made:
        yield made


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a server with an empty bucket `team`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    session = boto3.Session("a", "b-secret-key", region_name="us-east-1")
    session.resource("s3", endpoint_url=url).create_bucket(Bucket="team")
    yield url
    server.stop()


class TestContract(DetachedContract):
    """The contract of executors."""

    own_lines = "(being submitted as|continues with)? ?Ray job"
    patience = 180

    @pytest.fixture(autouse=True)
    def _options(self, ray: Cluster) -> None:
        self.options = RayOptions(address=ray.address, remote=f"file://{ray.folder}/bucket")

    def executor(self, jobs: int | None) -> Executor:
        return RayExecutor(jobs, self.options)


MakeBuild = Callable[..., Project]


@pytest.fixture
def on_ray(project: MakeProject, ray: Cluster, bucket: str) -> MakeBuild:
    """Makes a project whose steps are Ray jobs. more: of the recipe."""

    def make(steps: dict[str, Any], **more: Any) -> Project:
        recipe = {"finery": 1, "name": "t", "plugins": ["./steps.py"], "data": steps, **more}
        t = project({
            "recipe.yaml": yaml.safe_dump(recipe),
            "finery.toml": 'remote = "s3://team/x"\nretries = 1\n[executors]\ndefault = "ray"\n'
            f'[ray]\naddress = "{ray.address}"\npass_env = ["AWS_*"]\n',
        })  # fmt: skip
        t.env |= {**ACCESS, "AWS_ENDPOINT_URL": bucket}
        return t

    return make


def step(code: str, **settings: Any) -> dict[str, Any]:
    """A step that runs some Python."""
    return {"use": "steps.script", "code": code, **settings}


def digests(t: Project) -> dict[str, str]:
    """File → digest of what is built."""
    files = [path for path in (t.folder / "build").rglob("*") if path.is_file()]
    return {str(f.relative_to(t.folder)): hash_file(f) for f in files}


def scratches(ray: Cluster) -> list[Path]:
    """The files that running `BEGINS` left on the node."""
    return [*ray.node_home.glob(".cache/finery/ray/*/work/*.scratch/[0-9]*")]


def job_in(err: str) -> str:
    """The id of the job that a build submitted last."""
    return str(re.findall(r"submitted as Ray job (\S+)", err)[-1])


def test_a_build_on_ray_equals_a_local_one(on_ray: MakeBuild, ray: Cluster) -> None:
    code = "import sys\nprint(sys.prefix)\njob.log(str([n for n in os.environ if 'AWS' in n]))\n"
    t = on_ray(
        {
            "read": {"use": "steps.source", "path": "a.txt"},
            "mixed": {"use": "steps.shuffle", "rows": "read"},
            "said": step(f"{code}rows += list(step.rows[0])", rows=["mixed"]),
        },
        models={"weights": {"use": "steps.outside", "path": "a.txt"},
                "adapter": {"use": "steps.adapter", "model": "weights"}},
    )  # fmt: skip
    t.write({"a.txt": "".join(f"{n}\n" for n in range(9000))})
    ran = t.run("build", timeout=300)
    assert ran.code == 0, ran.err
    assert re.search(r"Ray job \S+ runs on", ran.err)
    assert "said   steps.script   []\n" in re.sub(" {2,}", "   ", ran.err), "not for steps"
    (log,) = t.folder.glob(".finery/runs/*/said.log")
    assert log.read_text() == f"{ray.folder}/venv\n"
    there = digests(t)
    shutil.rmtree(t.folder / ".finery")
    (t.folder / "finery.toml").unlink()
    assert t.run("build").code == 0
    assert digests(t) == there


def test_a_killed_build_leaves_its_job_which_the_next_one_finds(
    on_ray: MakeBuild, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    waits = f"import time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)\n"
    t = on_ray({"a": step(f"job.log('ready')\n{waits}{ROW}")})
    process = t.start("build")
    assert process.stderr is not None
    err = "".join(iter(process.stderr.readline, "  log     a  steps.script  ready\n"))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    process = t.start("build")
    assert process.stderr is not None
    again = "".join(iter(process.stderr.readline, "  log     a  steps.script  ready\n"))
    go.touch()
    again += process.communicate(timeout=120)[1]
    assert process.returncode == 0, again
    assert f"continues with Ray job {job_in(err)} of an earlier build" in again
    assert "submitted" not in again
    assert not [*t.folder.glob(".finery/work/*.job")]


def test_what_ended_a_job_is_said(on_ray: MakeBuild, ray: Cluster) -> None:
    """A killed step, and a lost node, run again; a stopped job doesn't."""
    from ray.job_submission import JobSubmissionClient

    kills = f"{BEGINS}if len(list(job.scratch.iterdir())) < 2: os.kill(os.getpid(), 9)\n{ROW}"
    t = on_ray({"a": step(kills)})
    ran = t.run("build", timeout=300)
    assert ran.code == 0, ran.err
    assert "was killed (SIGKILL)" in ran.err
    assert "attempt 2 starts" in ran.err

    lost = f"{BEGINS}if len(list(job.scratch.iterdir())) < 2: time.sleep(600)\n{ROW}"
    t = on_ray({"b": step(f"import time\n{lost}")})
    process = t.start("build")
    until(lambda: scratches(ray), 120)
    ray.kill_node()
    ray.start_node()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert re.search(r"Ray job \S+ was lost with its node", err), err

    t = on_ray({"c": step(f"{BEGINS}import time\ntime.sleep(600)")})
    process = t.start("build")
    until(lambda: scratches(ray), 120)
    (about,) = t.folder.glob(".finery/work/*.job/job.json")
    job = re.search(r'"id":"([^"]+)"', about.read_text())
    assert job is not None
    JobSubmissionClient(ray.address).stop_job(job[1])
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"Ray job {job[1]} was cancelled" in err, err
    until(lambda: not [*ray.node_home.glob(".cache/finery/ray/*/work/*.job")])


def test_an_interrupted_build_says_what_continues(on_ray: MakeBuild, ray: Cluster) -> None:
    from ray.job_submission import JobSubmissionClient

    t = on_ray({"a": step(f"job.log('ready')\n{BEGINS}import time\ntime.sleep(600)")})
    process = t.start("build")
    assert process.stderr is not None
    err = "".join(iter(process.stderr.readline, "  log     a  steps.script  ready\n"))
    process.send_signal(signal.SIGINT)
    shown, job = process.communicate(timeout=60)[1], job_in(err)
    assert process.returncode == 130
    assert f"  a: Ray job {job}\n" in shown
    assert f"To cancel: ray job stop --address {ray.address} {job}\n" in shown
    JobSubmissionClient(ray.address).stop_job(job)


def test_another_environment_is_refused_before_work_starts(on_ray: MakeBuild, ray: Cluster) -> None:
    before = scratches(ray)
    t = on_ray({"a": step(BEGINS + ROW)})
    t.edit("recipe.yaml", "steps.script", "steps.uses")
    typed = "\nclass Uses(Script, packages=('toydist',)):\n    'Runs some Python.'\n"
    t.edit("steps.py", "\nclass Alone", f"{typed}\n\nclass Alone")
    t.edit("steps.py", '"steps.alone": Alone', '"steps.uses": Uses, "steps.alone": Alone')
    t.write({"here/toydist-1.0.dist-info/METADATA": ""})
    t.env["PYTHONPATH"] = f"{t.folder}/here"
    ran = t.run("build", timeout=120)
    assert ran.code == 1
    assert "package toydist is not installed there and 1.0 here" in ran.err
    assert scratches(ray) == before


def test_what_cannot_be_submitted_is_refused(on_ray: MakeBuild, ray: Cluster) -> None:
    t = on_ray({"a": step(ROW)})
    t.edit("finery.toml", 'remote = "s3://team/x"\n', "")
    ran = t.run("build")
    assert (ran.code, "needs a shared store" in ran.err) == (2, True), ran.err
    t.edit("finery.toml", "retries", 'remote = "s3://team/x"\nretries')
    t.edit("finery.toml", 'pass_env = ["AWS_*"]', "")
    ran = t.run("build", timeout=120)
    assert ran.code == 1
    assert re.search("node can't open the shared store s3://team/x: .*\n.*pass_env", ran.err), (
        ran.err
    )
    assert ran.err.count("submitted as") == 1
    text = (t.folder / "finery.toml").read_text()
    (t.folder / "finery.toml").write_text(
        re.sub('address = ".*"', 'address = "http://127.0.0.1:9"', text)
    )
    ran = t.run("build")
    assert ran.code == 1
    assert "Ray doesn't answer at http://127.0.0.1:9" in ran.err
