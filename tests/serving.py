"""Projects with tiny models, and running `finery serve`, for the tests of serving."""

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import Project
from tiny_gguf import tiny_tokenizer, write_tiny_gguf

from finery import Model
from finery_serve.client import Client

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n"
    "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking %}<think>\n"
    "{% else %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""ChatML that doesn't think by default, as Qwen3.5's small models; llama.cpp has it think."""
RECIPE = """\
finery: 1
name: t
models:
  tiny: {use: local.model, path: tiny.gguf}
data:
  rows: {use: data.file, path: rows.jsonl}
"""
ROWS = [
    {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "late"}]}
    for text in ("Where is my card?", "Größe: 5 µm?", "the card")
]


def tiny_project(folder: Path, recipe: str = RECIPE, **gguf: Any) -> Project:
    """A project with a tiny GGUF and three rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".git").mkdir()
    project = Project(folder)
    rows = "".join(f"{json.dumps(row)}\n" for row in ROWS)
    project.write({"recipe.yaml": recipe, "rows.jsonl": rows})
    write_tiny_gguf(folder / "tiny.gguf", **gguf)
    return project


def gguf_model(folder: Path, meta: Mapping[str, Any] | None = None, **gguf: Any) -> Model:
    """A tiny GGUF as an artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    path = write_tiny_gguf(folder / "tiny.gguf", **gguf)
    model = Model(folder, meta={"format": "gguf", "file": path.name, **(meta or {})})
    model.ref = folder.name
    return model


def trained_model(folder: Path, template: str, meta: Mapping[str, Any] | None = None) -> Model:
    """The tokenizer of a tiny GGUF as a Hugging Face folder, without weights."""
    tiny_tokenizer(template).save_pretrained(folder)
    return Model(folder, meta={"format": "transformers", **(meta or {})})


@contextmanager
def served(project: Project, *args: str) -> Iterator[tuple[Client, dict[str, Any], Any]]:
    """A running `finery serve`: its client, what it printed, its process; ended by SIGTERM."""
    process = project.start("serve", *args, "--json")
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        facts: dict[str, Any] = json.loads(line)
        yield Client(facts["address"], facts["key"]), facts, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
