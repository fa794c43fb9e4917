"""`hub.push` against a stand-in for the hub that takes pushes, with the hub's real library."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import hub_steps
import pytest
from hub_project import RECIPE, REPO, Project, front
from hub_pushing import Fault, PushHub, taking_pushes
from hub_server import TOKEN

pytestmark = pytest.mark.slow

pytest.importorskip("huggingface_hub", reason="needs the package huggingface-hub")


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


def test_only_what_changed_is_in_the_next_commit(project: Project) -> None:
    project.build()
    (project.folder / "recipe.yaml").write_text(RECIPE + "# a comment\n")
    assert "provenance recipe changed" in project.run("plan")[1]
    project.build()
    assert sorted(project.hub.operations[-1]) == ["file recipe.yaml"]


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


def test_the_card_is_known_before_the_push(project: Project) -> None:
    project.build("--step", "exported", "--step", "test", "--step", "ollama")
    before = project.run("card", "push")[1]
    project.build()
    assert before == project.pushed()["README.md"].decode()


# -- the card ------------------------------------------------------------------------------------


def test_the_metadata_of_the_card(project: Project) -> None:
    from huggingface_hub import ModelCard

    project.build()
    text = project.pushed()["README.md"].decode()
    data: Any = ModelCard(text).data
    assert data["base_model"] == "org/base"
    assert data["base_model_relation"] == "adapter"
    assert (data["license"], data["library_name"]) == ("apache-2.0", "peft")
    assert data["tags"] == ["finery", "lora", "gguf"]
    results = {r.metric_name: r for r in data.eval_results or []}
    sft = results["accuracy of sft (95 % interval 0.700 to 0.900)"]
    assert (sft.metric_type, sft.metric_value) == ("accuracy", 0.8)
    rows = int(sft.metric_args["rows"])
    assert sft.metric_args == {"rows": rows, "confidence_level": 0.95, "interval": [0.7, 0.9]}
    assert "accuracy of gguf.q8_0 (95 % interval 0.650 to 0.850)" in results
    assert len(results) == 2  # not that of the base, which isn't pushed


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
    assert "# of the training" not in text


def test_what_isnt_known_is_said(project: Project) -> None:
    project.set("licenses", {})
    project.set("dry_run", True)
    project.build(
        "--set", "models.base.repo=", "--set", "models.base.license=",
        "--set", "data.split.decontaminate=false",
    )  # fmt: skip
    text = (project.artifact() / "README.md").read_text()
    meta = front(text)
    assert "license" not in meta
    assert "base_model" not in meta
    assert "- base model `b.gguf`: **not known**" in text
    assert "- data `tickets`: **not known**: the recipe states none" in text
    assert "- this repository: **not known**" in text
    assert "`sft` and `test`: **they may**" in text
    assert "--set models.base.repo=" in text


@pytest.mark.parametrize(("models", "more", "relation", "base"), [
    (["gguf.q8_0", "gguf.q4_k_m"], {}, "finetune", "org/base"),
    (["gguf.q8_0"], {"base_model": "acme/whole"}, "quantized", "acme/whole"),
    (["sft"], {"base_model_relation": "merge"}, "merge", "org/base"),
])  # fmt: skip
def test_the_relation_to_the_base(
    project: Project, models: list[str], more: dict[str, Any], relation: str, base: str
) -> None:
    for name, value in {"models": models, "bundles": None, "dry_run": True, **more}.items():
        project.set(name, value)
    project.build()
    meta = front((project.artifact() / "README.md").read_text())
    assert (meta["base_model"], meta["base_model_relation"]) == (base, relation)


def test_a_benchmark_needs_its_own_rows(project: Project) -> None:
    project.set("benchmarks", {"test": {"dataset": "org/bench", "task": "default"}})
    output = project.fails()
    assert "the rows of 'test' don't come from org/bench" in output
    assert "commit" not in str(project.hub.requests)


def test_a_secret_in_the_recipe_isnt_pushed(project: Project) -> None:
    key = "sk-proj-1234567890abcdefghij"
    (project.folder / "recipe.yaml").write_text(f"{RECIPE}# {key}\n")
    project.build()
    assert all(key.encode() not in content for content in project.pushed().values())
    assert "What looked like a secret is `***`" in project.pushed()["README.md"].decode()


def test_the_card_of_a_model_alone(project: Project) -> None:
    project.build("--step", "exported", "--step", "test")
    code, text = project.run("card", "sft")
    assert code == 0
    assert front(text)["base_model_relation"] == "adapter"
    assert "PeftModel.from_pretrained(base, repo)" in text
    assert f'repo = "{REPO}"' in text
    code, output = project.run("card", "gguf.q4_k_m", "-o", "card.md", "--repo", "me/x")
    assert (code, output.strip()) == (0, "card of gguf.q4_k_m: card.md")
    assert "x-Q4_K_M.gguf" in (project.folder / "card.md").read_text()


@pytest.mark.parametrize(("words", "said"), [
    (["sft"], "'sft' isn't built, or not up to date"),
    (["tickets"], "'tickets' makes no model"),
    (["nope"], "has no step 'nope'"),
    (["gguf.q5"], "step 'gguf' has no output 'q5'"),
])  # fmt: skip
def test_a_card_of_nothing(project: Project, words: list[str], said: str) -> None:
    code, output = project.run("card", *words)
    assert code == 2
    assert said in output


# -- whose repository it is ----------------------------------------------------------------------


@pytest.mark.parametrize(("repo", "said"), [
    ("triage", "it needs an owner and a name"),
    ("acme/my model!", "for example: repo: acme/my-model"),
    ("acme/-x", "for example: repo: acme/x"),
    ("acme/a--b", "'--' and '..' aren't allowed"),
    ("acme/a.git", "it can't end with .git"),
    ("acme/" + "a" * 97, "it is longer than 96 characters"),
])  # fmt: skip
def test_a_bad_name(project: Project, repo: str, said: str) -> None:
    project.set("repo", repo)
    code, output = project.run("check")
    assert code == 2
    assert said in " ".join(output.split())
    assert "recipe.yaml:" in output


def test_another_account(project: Project) -> None:
    project.set("repo", "google/triage")
    output = project.fails()
    assert "google isn't an account or organization of the token's user" in output
    assert "push to one of: ada, acme" in output


def test_a_repository_with_other_files(project: Project) -> None:
    project.hub.create(REPO, private=True, files={"README.md": b"mine", "w.bin": b"1"})
    output = project.fails()
    assert "holds files that this step didn't push (README.md, w.bin)" in output
    assert project.pushed() == {"README.md": b"mine", "w.bin": b"1"}
    project.set("adopt", True)
    project.build()
    assert project.pushed()["w.bin"] == b"1"
    assert b"finery" in project.pushed()["README.md"]


def test_a_repository_of_another_recipe(project: Project) -> None:
    mark = json.dumps({"recipe": "other", "step": "push", "files": []}).encode()
    project.hub.create(REPO, private=True, files={"finery.json": mark})
    assert "they are from step 'push' of the recipe 'other'" in project.fails()


def test_a_public_repository_that_should_be_private(project: Project) -> None:
    project.hub.create(REPO, private=False)
    assert f"{REPO} is public, and the recipe says that it is private" in project.fails()
    project.set("private", False)
    project.build()
    assert "README.md" in project.pushed()


# -- tokens --------------------------------------------------------------------------------------


def test_without_a_token(project: Project) -> None:
    del project.env["HF_TOKEN"]
    code, output = project.run("check")
    assert code == 0
    assert "there is no token for the hub" in output
    assert "pushing needs a token for the hub, and there is none" in project.fails()


def test_the_login_of_the_user(project: Project) -> None:
    del project.env["HF_TOKEN"]
    (project.folder / "hf").mkdir()
    (project.folder / "hf/token").write_text(TOKEN)
    project.build()
    assert "README.md" in project.pushed()


def test_a_revoked_token(project: Project) -> None:
    project.env["HF_TOKEN"] = "hf_revoked_revoked"
    output = project.fails()
    assert "the hub doesn't accept the token: it is wrong, expired or revoked (401)" in output
    assert "hf_revoked_revoked" not in output


def test_a_token_that_only_reads(project: Project) -> None:
    project.hub.role = "read"
    assert "the token 'laptop' may only read" in project.fails()


def test_a_member_that_only_reads(project: Project) -> None:
    project.hub.orgs = [{"name": "acme", "roleInOrg": "read"}]
    assert "ada may only read the repositories of acme" in project.fails()


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
    ("create", Fault(409, "exists"), f"{REPO} was changed by someone else during the push (409)"),
    ("preupload", Fault(404, "", GONE), f"has no repository {REPO} (404)"),
    ("preupload", Fault(403, "no rights"), f"the token may not write to {REPO} (403)"),
    ("batch", Fault(403, QUOTA), f"the account of {REPO} has no storage left on the hub"),
    ("upload", Fault(403, "expired"), f"the token may not write to {REPO} (403)"),
    ("commit", Fault(403, QUOTA), f"the account of {REPO} has no storage left on the hub"),
    ("commit", Fault(412, "since"), f"{REPO} was changed by someone else during the push (412)"),
    ("commit", Fault(413), f"the hub refuses a file for {REPO}: it is too large (413)"),
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


def test_metadata_that_the_hub_refuses(project: Project) -> None:
    project.hub.card_errors = ['"license" must be one of the list']
    output = project.fails()
    assert "the hub refuses the metadata of the model card" in output
    assert '"license" must be one of the list' in output


def test_no_network(project: Project) -> None:
    project.env["HF_ENDPOINT"] = "http://127.0.0.1:9"
    output = project.fails()
    assert f"http://127.0.0.1:9 can't be reached to push {REPO}" in output


def test_offline(project: Project) -> None:
    project.env["HF_HUB_OFFLINE"] = "1"
    output = project.fails()
    assert "can't be reached" in output
    assert "HF_HUB_OFFLINE is set" in output


def test_a_file_that_the_repository_ignores(project: Project) -> None:
    project.hub.ignored = {"tokenizer.json"}
    assert "lacks tokenizer.json" in project.fails()


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
