"""`hub.push` against a stand-in for the hub that takes pushes, with the hub's real library."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import hub_steps
import pytest
from hub_project import RECIPE, REPO, Project
from hub_pushing import Fault, PushHub, taking_pushes
from hub_server import TOKEN
from needs import need

from finery import Bundle, Model
from finery_hub.push.files import place

pytestmark = pytest.mark.slow

need("huggingface_hub")


@pytest.fixture
def hub() -> Iterator[PushHub]:
    with taking_pushes() as server:
        yield server


@pytest.fixture
def project(hub: PushHub, tmp_path: Path) -> Project:
    return Project(tmp_path, hub)


@pytest.mark.quick
def test_everything_is_pushed_as_one_private_commit(project: Project) -> None:
    project.build()
    assert project.hub.private == {REPO: True}
    assert project.hub.messages == ["Push push of triage"]
    files = project.pushed()
    assert set(files) == {
        ".gitattributes", "README.md", "finery.json", "recipe.yaml", "adapter_config.json",
        "adapter_model.safetensors", "tokenizer.json", "triage-Q8_0.gguf", "Modelfile",
    }  # fmt: skip
    assert len(files["adapter_model.safetensors"]) == hub_steps.LARGE  # in three parts
    assert files["Modelfile"].decode().splitlines()[1] == "FROM ./triage-Q8_0.gguf"
    assert files["recipe.yaml"].decode() == (project.folder / "recipe.yaml").read_text()
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", "1" * 40)
    meta = project.meta()
    assert meta["commit"] == project.hub.main[REPO]
    assert meta["url"] == f"{project.hub.url}/{REPO}"
    assert meta["files"] == {n: len(c) for n, c in sorted(files.items()) if n != ".gitattributes"}


def test_a_bundle_with_another_gguf_of_the_same_name_has_a_folder(tmp_path: Path) -> None:
    """For example one that has a mark for Ollama, which the model's own file lacks."""
    (tmp_path / "model").mkdir()
    (tmp_path / "bundle").mkdir()
    for folder in ("model", "bundle"):
        (tmp_path / folder / "m-q8_0.gguf").write_text(folder)
    (tmp_path / "bundle" / "Modelfile").write_text("# run\nFROM ./m-q8_0.gguf\n")
    model = Model(tmp_path / "model", meta={"format": "gguf", "file": "m-q8_0.gguf"})
    bundle = Bundle(tmp_path / "bundle", meta={"format": "ollama"})
    model.ref, bundle.ref = "gguf", "ollama"
    placed = place([model], [bundle], "me/triage", None)
    assert [file.path for one in placed for file in one.files] == [
        "triage-Q8_0.gguf", "ollama/Modelfile", "ollama/m-q8_0.gguf",
    ]  # fmt: skip


def test_nothing_is_pushed_twice(project: Project) -> None:
    project.build()
    before = list(project.hub.requests)
    project.build()
    project.run("plan")
    project.run("check")
    project.run("card", "push")
    assert project.hub.requests == before


def test_plan_check_and_card_push_nothing(project: Project) -> None:
    project.build("--step", "exported", "--step", "test", "--step", "ollama")
    for words in (("plan",), ("check", "--deep"), ("card", "push"), ("show",), ("explain", "push")):
        code, output = project.run(*words)
        assert code == 0, output
    assert project.hub.requests == []


def test_a_change_replaces_files_and_removes_those_that_are_gone(project: Project) -> None:
    project.build()
    uploads = len(project.hub.uploads)
    project.set("models", ["sft", "gguf.q4_k_m"])
    project.set("bundles", None)
    project.build("--set", "train.sft.value=2")
    files = project.pushed()
    assert {"triage-Q4_K_M.gguf"} <= set(files)
    assert not {"triage-Q8_0.gguf", "Modelfile"} & set(files)
    assert len(project.hub.uploads) == uploads + 2  # the adapter and the other GGUF
    assert "deletedFile Modelfile" in project.hub.operations[-1]


def test_a_failed_requirement_stops_the_push(project: Project) -> None:
    output = project.fails("--set", "evaluate.test.require.never=always")
    assert "the scores are too low" in output
    assert project.hub.requests == []


def test_a_dry_run_shows_all_without_the_network(project: Project) -> None:
    project.set("dry_run", True)
    project.env["HF_HUB_OFFLINE"] = "1"
    del project.env["HF_TOKEN"]
    project.build()
    assert project.hub.requests == []
    meta = project.meta()
    assert meta["dry_run"] is True
    assert "commit" not in meta
    code, output = project.run("show", "push")
    assert code == 0
    assert "2.0 MiB  adapter_model.safetensors" in output
    assert "## How to run it" in output
    assert project.run("card", "push")[1] == (project.artifact() / "README.md").read_text()


# -- the card ------------------------------------------------------------------------------------


def test_what_the_card_says(project: Project) -> None:
    project.build()
    text = project.pushed()["README.md"].decode()
    assert "**test**, **exported** (`steps.evaluate`)" in text
    assert "| Metric | *base* | `sft` | `gguf.q8_0` |" in text
    line = "| accuracy | 25.0 % (15.0–35.0) | 80.0 % (70.0–90.0) | 75.0 % (65.0–85.0) |"
    assert line in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "at commit `111111111111`" in text
    digest = json.loads(project.pushed()["finery.json"])["rows"]["tickets"]["blake3"]
    line = f"| `tickets` | `tickets.jsonl` | 20 | training, evaluation | `{digest[:12]}` |"
    assert line in text
    assert len(digest) == 64
    assert "`sft` and `test`: no. `split` compared their prompts" in text
    assert "- data `tickets`: cc-by-4.0, as the recipe states" in text
    assert 'revision="1111111111111111111111111111111111111111",' in text
    assert f"llama-server -hf {REPO} --hf-file triage-Q8_0.gguf" in text
    assert f"hf download {REPO} triage-Q8_0.gguf Modelfile --local-dir triage" in text
    assert "finery build recipe.yaml sft gguf" in text
    assert 'messages = [{"role": "system", "content": "Label it."}, {"role": "user",' in text
    assert "tools = [{'function': {'name': 'f'}}]\n" in text
    assert "messages, tools=tools, add_generation_prompt" in text
    assert "# of the training" not in text
    assert r"- LoRA: r 8, lora\_alpha 16" in text
    assert r"- adapted layers: q\_proj, v\_proj" in text


def test_a_secret_in_the_recipe_isnt_pushed(project: Project) -> None:
    key = "sk-proj-1234567890abcdefghij"
    (project.folder / "recipe.yaml").write_text(f"{RECIPE}# {key}\n")
    project.build()
    assert all(key.encode() not in content for content in project.pushed().values())
    assert "What looked like a secret is `***`" in project.pushed()["README.md"].decode()


# -- whose repository it is ----------------------------------------------------------------------


@pytest.mark.parametrize(("repo", "said"), [
    ("triage", "it needs an owner and a name"),
    ("acme/a--b", "'--' and '..' aren't allowed"),
])  # fmt: skip
def test_a_bad_name(project: Project, repo: str, said: str) -> None:
    project.set("repo", repo)
    code, output = project.run("check")
    assert code == 2
    assert said in " ".join(output.split())
    assert "recipe.yaml:" in output


def test_a_repository_with_other_files(project: Project) -> None:
    project.hub.create(REPO, private=True, files={"README.md": b"mine", "w.bin": b"1"})
    output = project.fails()
    assert "holds files that this step didn't push (README.md, w.bin)" in output
    assert project.pushed() == {"README.md": b"mine", "w.bin": b"1"}
    project.set("adopt", True)
    project.build()
    assert project.pushed()["w.bin"] == b"1"
    assert b"finery" in project.pushed()["README.md"]


# -- tokens --------------------------------------------------------------------------------------


def test_the_token_is_nowhere(project: Project) -> None:
    project.build()
    project.set("repo", "acme/other")
    project.hub.faults["preupload"] = [Fault(400, f"bad token {TOKEN}")]
    project.fails()
    kept = [p for root in (".finery", "build") for p in (project.folder / root).rglob("*")]
    assert [p for p in kept if p.is_file() and TOKEN.encode() in p.read_bytes()] == []


# -- faults --------------------------------------------------------------------------------------

QUOTA = "Private repository storage limit reached, please upgrade your plan"
AGAIN, GONE = {"Retry-After": "0"}, {"X-Error-Code": "RepoNotFound"}


@pytest.mark.parametrize(("route", "fault", "said"), [
    ("whoami", Fault(429), "the hub limits the rate of requests of this account (429)"),
    ("whoami", Fault(500), "the hub has a problem (500)"),
    ("create", Fault(403, "no rights"), f"the token may not write to {REPO} (403)"),
    ("batch", Fault(403, QUOTA), f"the account of {REPO} has no storage left on the hub"),
    ("commit", Fault(412, "since"), f"{REPO} was changed by someone else during the push (412)"),
])  # fmt: skip
def test_an_answer_of_the_hub(project: Project, route: str, fault: Fault, said: str) -> None:
    project.hub.faults[route] = [fault]
    output = project.fails()
    assert said in output
    assert "nothing was committed" in output
    assert project.hub.messages == []
    project.build()  # and the next build makes good
    assert "README.md" in project.pushed()


def test_a_hub_that_recovers(project: Project) -> None:
    project.hub.faults = {
        "preupload": [Fault(429, "", AGAIN)], "batch": [Fault(500, "", AGAIN)],
        "upload": [Fault(503, "", AGAIN)],
    }  # fmt: skip
    project.build()
    assert project.hub.faults == {"preupload": [], "batch": [], "upload": []}


@pytest.mark.parametrize("name", ["tokenizer.json", "adapter_model.safetensors"])
def test_a_file_that_arrives_changed(project: Project, name: str) -> None:
    project.hub.garbled = {name}
    output = project.fails()
    assert f"{name} in the commit {project.hub.main[REPO][:12]} of {REPO} isn't what" in output


def test_someone_else_commits_meanwhile(project: Project) -> None:
    project.build()
    project.set("license", "mit")

    def commit(path: str) -> None:
        files = {**project.pushed(), "note.txt": b"hi"}
        project.hub.push(REPO, "c" * 40, files)

    project.hub.before["preupload"] = commit
    assert "was changed by someone else during the push" in project.fails()
    assert project.pushed()["note.txt"] == b"hi"


@pytest.mark.parametrize("route", ["batch", "complete", "commit"])
def test_a_killed_push_goes_on(project: Project, route: str) -> None:
    """Killed between files, in the middle of a file, or before the commit."""
    project.build("--step", "exported", "--step", "test", "--step", "ollama")
    reached, go_on = Event(), Event()
    seen: list[str] = []

    def stop(path: str) -> None:
        seen.append(path)
        if len(seen) == (2 if route == "batch" else 1):
            reached.set()
            go_on.wait(60)

    project.hub.before[route] = stop
    process = project.start("build")
    assert reached.wait(60)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    project.hub.before.clear()
    arrived = len(project.hub.uploads)
    assert project.hub.messages == []
    project.hub.faults["commit"] = []
    go_on.set()
    project.build()
    assert len(project.hub.messages) >= 1
    assert len(project.hub.uploads) == 2, arrived  # each large file arrived once
    assert set(project.meta()["files"]) == set(project.pushed()) - {".gitattributes"}


def test_a_build_that_is_killed_after_the_commit(project: Project) -> None:
    """The next build finds everything there, and makes no second commit."""
    project.build("--step", "exported", "--step", "test", "--step", "ollama")
    reached, go_on = Event(), Event()

    def stop(path: str) -> None:
        if project.hub.messages:
            reached.set()
            go_on.wait(60)

    project.hub.before["info"] = stop
    process = project.start("build")
    # The commit is the last request but one; the build is stopped before it can record it.
    while not project.hub.messages and process.poll() is None:
        reached.wait(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    project.hub.before.clear()
    go_on.set()
    commit = project.hub.main[REPO]
    project.build()
    assert project.hub.messages == ["Push push of triage"]
    assert project.meta()["commit"] == commit
