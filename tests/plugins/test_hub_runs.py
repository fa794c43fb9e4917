"""What `hub.push` pushed runs as its card says, loaded from the stand-in for the hub."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hub_project import Project, front
from hub_pushing import PushHub, taking_pushes
from needs import need
from tiny_llama import tiny_llama

pytestmark = pytest.mark.slow

need("trl")

REPO = "acme/tiny"
RECIPE = """\
finery: 1
name: tiny
seed: 1
models:
  base: {use: hub.model, repo: org/base}
data:
  rows: {use: data.file, path: rows.jsonl}
train:
  sft:
    {use: trl.sft, model: base, rows: rows, epochs: 20, effective_batch_size: 4, lora: {r: 8},
     learning_rate: 2e-2}
evaluate:
  test: {use: eval.exact, models: [base, sft], rows: rows, max_tokens: 8}
export:
  adapter: {use: hub.push, repo: acme/tiny, models: [sft], needs: [test]}
  merged: {use: hub.push, repo: acme/merged, models: [sft], merge: true, needs: [test]}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("hub")
    with taking_pushes() as hub:
        made = Project(folder, hub)
        base = tiny_llama(folder / "base")
        files = {p.name: p.read_bytes() for p in base.path.iterdir()}
        hub.create(
            "org/base", private=False, files={**files, "README.md": b"---\nlicense: mit\n---\n"}
        )
        (folder / "recipe.yaml").write_text(RECIPE)
        rows = [
            {"prompt": [{"role": "user", "content": f"my card {n}"}],
             "completion": [{"role": "assistant", "content": "late"}]}
            for n in range(16)
        ]  # fmt: skip
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        made.build()
        yield made


def code_of(hub: PushHub, repo: str) -> str:
    """The Python code of a card, with a question of the training."""
    (code,) = re.findall(r"```python\n(.*?)```", hub.files(repo)["README.md"].decode(), re.DOTALL)
    return str(code).replace('"…"', '"my card 3"').replace("=256", "=8")


def answer(project: Project, repo: str) -> str:
    """What the code of a card prints, run elsewhere."""
    done = subprocess.run(
        [sys.executable, "-c", code_of(project.hub, repo)], cwd=project.folder, text=True,
        env={**project.env, "HF_HOME": str(project.folder / "elsewhere")}, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def evaluated(project: Project, model: str) -> str:
    """The answer that the evaluation got."""
    lines = (project.folder / "build/tiny/test/predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    (row,) = [r for r in rows if r["model"] == model and "my card 3" in str(r)]
    return str(row["answer"]).strip()


@pytest.mark.parametrize("repo", [REPO, "acme/merged"])
def test_the_code_of_the_card_gives_the_evaluated_answer(project: Project, repo: str) -> None:
    assert answer(project, repo) == evaluated(project, "sft")
    assert evaluated(project, "sft") != evaluated(project, "base")


def test_the_commit_of_the_base(project: Project) -> None:
    config = json.loads(project.hub.files(REPO)["adapter_config.json"])
    commit = project.hub.main["org/base"]
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", commit)
    assert f'revision="{commit}"' in code_of(project.hub, REPO)
    assert "recipe.lock" in project.hub.files(REPO)


def test_the_merged_model(project: Project) -> None:
    files = project.hub.files("acme/merged")
    assert {"model.safetensors", "config.json", "adapter/adapter_model.safetensors"} <= set(files)
    assert "adapter_config.json" not in files
    meta = front(files["README.md"].decode())
    assert (meta["base_model_relation"], meta["library_name"]) == ("finetune", "transformers")
    assert meta["license"] == "mit"


def test_rows_that_were_trained_on(project: Project) -> None:
    text = project.hub.files(REPO)["README.md"].decode()
    assert "- `sft` and `test`: **they may**: both take rows." in text
