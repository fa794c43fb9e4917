"""Steps as Ray jobs, on a cluster that the tests start, through a bucket of a server like S3."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import MakeProject, Project, until
from needs import need
from ray_cluster import Cluster, cluster
from tiny_llama import TEXT, tiny_llama

from finery.execute.executor import Executor
from finery.testing.executors import DetachedContract
from finery.util.files import hash_file
from finery_ray.executor import RayExecutor, RayOptions

need("ray")
pytestmark = [pytest.mark.slow, pytest.mark.cluster]
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


def begun(t: Project, ray: Cluster) -> subprocess.Popen[str]:
    """A build whose step has begun to run. Scratch of earlier steps goes after their end."""
    before = scratches(ray)
    process = t.start("build")
    until(lambda: {*scratches(ray)}.difference(before), 120)
    return process


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
    process = begun(on_ray({"b": step(f"import time\n{lost}")}), ray)
    ray.kill_node()
    ray.start_node()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert re.search(r"Ray job \S+ was lost with its node", err), err

    t = on_ray({"c": step(f"{BEGINS}import time\ntime.sleep(600)")})
    process = begun(t, ray)
    (about,) = t.folder.glob(".finery/work/*.job/job.json")
    job = re.search(r'"id":"([^"]+)"', about.read_text())
    assert job is not None
    JobSubmissionClient(ray.address).stop_job(job[1])
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"Ray job {job[1]} was cancelled" in err, err
    until(lambda: not [*ray.node_home.glob(".cache/finery/ray/*/work/*.job")])


def test_jobs_that_never_started_are_submitted_again(on_ray: MakeBuild, ray: Cluster) -> None:
    """Their step can't have run, so that costs no retry. But they may never start."""
    ray.kill_node()
    for killed in (2, 3):
        t = on_ray({"a": step(f"name = '{killed}'\n{ROW}")})
        t.edit("finery.toml", "retries = 1\n", "")
        process = t.start("build")
        assert process.stderr is not None
        err = ""
        for _ in range(killed):
            while "submitted as Ray job" not in (line := process.stderr.readline()):
                assert line, err
                err += line
            err += line
            ray.kill_supervisor(job_in(err))
        if killed == 2:
            ray.start_node()
        err += process.communicate(timeout=300)[1]
        assert err.count("submitted as") == 3, err
        assert "never started" in err
        assert process.returncode == (0 if killed == 2 else 1), err
        if killed == 2:
            ray.kill_node()
    ray.start_node()


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


Wide = Callable[..., Project]
WIDE = """
class Wide(Script, seeded=False):
    'Runs some Python on two nodes.'

    def resources(self):
        from finery import Resources

        return Resources(nodes=2)

"""
ON_NODES = """import subprocess
run = lambda code: subprocess.run([*job.on_nodes, 'sh', '-c', code]).returncode
"""


@pytest.fixture
def wide(on_ray: MakeBuild, ray: Cluster) -> Iterator[Wide]:
    """Makes a project with steps on two nodes. The cluster gets the second one meanwhile."""

    def make(code: str, options: str = "", names: str = "a", **settings: Any) -> Project:
        own = {name: f"name = '{name}'\n{ON_NODES}{code}" for name in names}
        t = on_ray({n: {"use": "steps.wide", "code": own[n], **settings} for n in names})
        t.edit("steps.py", "\nclass Alone", f"{WIDE}\nclass Alone")
        t.edit("steps.py", '"steps.alone": Alone', '"steps.wide": Wide, "steps.alone": Alone')
        t.edit("finery.toml", "retries = 1\n", "")
        t.edit("finery.toml", "pass_env", f"{options}\npass_env")
        return t

    ray.start_node("other")
    yield make
    ray.kill_node("other")


def processes(command: str) -> list[int]:
    """The processes with such a command line. command: a regular expression."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if re.search(command, path.read_text("utf-8", "replace").replace("\0", " ")):
                found.append(int(path.parent.name))
    return found


def test_a_command_runs_on_both_nodes_until_it_fails_on_one(
    wide: Wide, ray: Cluster, tmp_path: Path
) -> None:
    """With the step's folder and its variables, which are in no command line."""
    code = f"""
        at={tmp_path}/$FINERY_NODE
        echo "word ${{#WORD}} $PWD"
        tr '\\0' '\\n' < /proc/$PPID/environ | grep ^HOME=
        cat /proc/[0-9]*/cmdline > $at
        [ $FINERY_NODE = 0 ] && exec sleep 600
        until [ -s {tmp_path}/0 ]; do sleep 0.1; done
        exit 7
    """
    t = wide(f"script = {code!r}\njob.log(f'code {{run(script)}}')\n{ROW}", env=["WORD"])
    t.env["WORD"] = "word-of-21-characters"
    ran = t.run("build", timeout=300)
    assert ran.code == 0, ran.err
    assert "code 7" in ran.err
    (log,) = t.folder.glob(".finery/runs/*/a.log")
    homes = {*re.findall("^HOME=(.*)", log.read_text(), re.MULTILINE)}
    assert homes == {str(ray.node_home), str(ray.folder / "other")}
    assert re.findall("word 21 (.*)", log.read_text()) == [str(t.folder)] * 2
    assert not [n for n in "01" if "word-of-21" in (tmp_path / n).read_text("utf-8", "replace")]


@pytest.mark.parametrize(
    ("command", "said"),
    [("finery_ray.nodes run", "code -9"), ("finery_ray.nodes $", "ended before it could report")],
)
def test_processes_on_all_nodes_end_with_the_command_and_the_job(
    wide: Wide, command: str, said: str
) -> None:
    t = wide(f"job.log(f'code {{run(\"exec sleep 6661\")}}')\n{ROW}")
    process = t.start("build")
    until(lambda: len(processes("^sleep 6661")) == 2, 120)
    (pid,) = processes(command)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not processes("^sleep 6661"), 60)
    _, err = process.communicate(timeout=120)
    assert said in err


def test_steps_wait_for_all_their_nodes_at_once(wide: Wide, ray: Cluster) -> None:
    """Two steps that held a node each would wait for ever."""
    t = wide(f"run('true')\n{ROW}", "num_cpus = 4", names="ab")
    ran = t.run("build", timeout=300)
    assert ran.code == 0, ran.err
    assert "waiting for 2 nodes with 4 CPU each" in ran.err


def test_nodes_that_a_step_cannot_have_are_said(wide: Wide) -> None:
    t = wide(ROW, 'folder = "/proc/self/cwd/f"')
    ran = t.run("build", timeout=300)
    assert ran.code == 1
    assert re.search(r"node \S+ doesn't see the files in /proc/self/cwd/f of", ran.err), ran.err
    assert "set `folder` of [ray]" in ran.err
    limit = "runtime_env = {env_vars = {RAY_JOB_START_TIMEOUT_SECONDS = '1'}}"
    t.edit("finery.toml", 'folder = "/proc/self/cwd/f"', f"{limit}\nresources = {{tpu = 1}}")
    ran = t.run("build", timeout=300)
    assert ran.code == 1
    assert "needs 2 nodes with 1 CPU, 1 tpu each, and the cluster has 0" in ran.err, ran.err


def test_a_training_on_two_nodes_equals_one_in_one_process(
    wide: Wide, on_ray: MakeBuild, tmp_path: Path
) -> None:
    pytest.importorskip("trl")
    from safetensors.numpy import load

    tiny_llama(tmp_path / "base")
    several = {"nodes": 2, "processes": 2}
    sft = {"use": "trl.sft", "model": "base", "rows": "rows", "epochs": 2, "dtype": "fp32"}
    t = on_ray(
        {"rows": {"use": "data.file", "path": "rows.jsonl"}},
        models={"base": {"use": "local.model", "path": "base"}},
        train={"sft": {**sft, "launch": several}},
    )
    rows = [{"prompt": f"my card {n}", "completion": TEXT[n % 3]} for n in range(8)]
    t.write({"rows.jsonl": "\n".join(map(json.dumps, rows))})
    t.edit("finery.toml", "default", "train")
    t.edit("finery.toml", "pass_env", "num_gpus = 0\npass_env")
    ran = t.run("build", timeout=600)
    assert ran.code == 0, ran.err
    assert "2 processes on 2 nodes" in ran.err
    there = load(next(t.folder.glob("build/*/*/adapter_model.safetensors")).read_bytes())
    shutil.rmtree(t.folder / ".finery")
    local = t.run("build", "--executor", "local", "--set", "train.sft.launch=null", timeout=600)
    assert local.code == 0, local.err
    here = load(next(t.folder.glob("build/*/*/adapter_model.safetensors")).read_bytes())
    assert all(abs(here[name] - there[name]).max() < 1e-4 for name in there)
