"""A project that pushes to the stand-in for the hub, and the commands on it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub_steps
import yaml
from hub_pushing import PushHub
from hub_server import TOKEN, Files

REPO = "acme/triage"
RECIPE = """\
finery: 1
name: triage
seed: 1
plugins: [./steps.py]
models:
  base: {use: steps.base}
data:
  tickets: {use: data.file, path: tickets.jsonl}
  split: {use: data.split, rows: tickets, validation: 0, test: 0.4}
train:
  sft: {use: steps.train, model: base, rows: split.train}
evaluate:
  test: {use: steps.evaluate, models: [base, sft], rows: split.test, scores: {sft: 0.8, base: 0.25}}
  exported: {use: steps.evaluate, models: gguf.q8_0, rows: split.test, scores: {gguf.q8_0: 0.75}}
export:
  gguf: {use: steps.quantise, model: sft}
  ollama: {use: steps.ollama, gguf: gguf.q8_0}
  push:
    use: hub.push
    repo: acme/triage
    models: [sft, gguf.q8_0]
    bundles: [ollama]
    licenses: {tickets: cc-by-4.0}
    needs: [test, exported]
"""


class Project:
    """A recipe with a push, and the commands on it."""

    def __init__(self, folder: Path, hub: PushHub) -> None:
        self.folder = folder
        self.hub = hub
        (folder / "steps.py").write_text(hub_steps.HERE.read_text())
        (folder / "recipe.yaml").write_text(RECIPE)
        rows = [
            {"prompt": f"ticket {n} about {n * n}", "completion": f"c{n % 3}"} for n in range(20)
        ]
        (folder / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        self.env = {
            **clean, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "finery", *words], cwd=self.folder, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str]:
        """(exit code, output) of a command. No command prints the token."""
        process = self.start(*words)
        output, _ = process.communicate(timeout=120)
        assert TOKEN not in output
        return process.returncode, output

    def build(self, *words: str) -> str:
        code, output = self.run("build", *words)
        assert code == 0, output
        return output

    def fails(self, *words: str) -> str:
        """The output of a build that fails, in which only the push does."""
        code, output = self.run("build", *words)
        assert code in (1, 2), output
        return " ".join(output.split())

    def set(self, name: str, value: Any) -> None:
        """Change a setting of the push."""
        recipe = yaml.safe_load((self.folder / "recipe.yaml").read_text())
        recipe["export"]["push"][name] = value
        if value is None:
            del recipe["export"]["push"][name]
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))

    def artifact(self) -> Path:
        return self.folder / "build/triage/push"

    def meta(self) -> dict[str, Any]:
        code, output = self.run("show", "push", "--json")
        assert code == 0, output
        meta: dict[str, Any] = json.loads(output)["meta"]
        return meta

    def pushed(self) -> Files:
        return self.hub.files(REPO)


def front(card: str) -> dict[str, Any]:
    """The front matter of a card."""
    meta: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return meta
