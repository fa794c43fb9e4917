"""Prompts of an Ollama TEMPLATE, written by Go's own text/template."""

import json
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from finery.rows import Conversation

SOURCE = Path(__file__).parent / "plugins" / "go" / "render.go"
needs_go = pytest.mark.skipif(
    shutil.which("go") is None, reason="golang is not installed (apt install golang)"
)


def go_prompts(template: str, talks: list[Conversation]) -> list[str]:
    """The prompts of the conversations, as Ollama's chat endpoint has them written."""
    content = json.dumps({"template": template, "conversations": talks})
    program = Path(_build_folder().name) / "render"
    done = subprocess.run([program], input=content, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


@cache
def _build_folder() -> "tempfile.TemporaryDirectory[str]":
    folder = tempfile.TemporaryDirectory(prefix="finery-go-")  # removed when Python exits
    subprocess.run(["go", "build", "-o", Path(folder.name) / "render", SOURCE], check=True)
    return folder
