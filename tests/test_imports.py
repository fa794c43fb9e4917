"""What the commands that people wait for import: nothing heavy, ever."""

import subprocess
import sys

import pytest
from conftest import MakeProject

HEAVY = {
    "accelerate", "datasets", "gguf", "huggingface_hub", "llama_cpp", "numpy", "openai", "pandas",
    "peft", "pyarrow", "requests", "httpx", "safetensors", "tokenizers", "torch", "transformers",
    "trl",
}  # fmt: skip


FILES = {
    "rows.jsonl": '{"prompt": "a", "completion": "b"}\n',
    "recipe.yaml": "finery: 1\nname: t\ndata:\n  r: {use: data.file, path: rows.jsonl}\n",
}


@pytest.mark.parametrize(("command", "light"), [
    ("--help", {"rich", "jsonschema", "yaml"}),
    ("check", {"rich"}),
    ("plan", {"rich", "jsonschema"}),
    ("build", {"rich", "jsonschema", "asyncio"}),
    ("explain r", {"rich", "jsonschema"}),
    ("plugins", {"rich", "jsonschema"}),
    ("schema", {"rich"}),
])  # fmt: skip
def test_nothing_heavy_is_imported(built: MakeProject, command: str, light: set[str]) -> None:
    t = built(FILES)
    code = "from finery.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *command.split()],
        cwd=t.folder, env=t.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "finery" in imported
    assert imported & (HEAVY | light) == set()
