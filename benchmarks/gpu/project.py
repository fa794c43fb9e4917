"""A project in a folder, which the finery command builds in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpu import rows as making
from gpu.check import Failed

HIDING = "import sys\nsys.modules.update(dict.fromkeys({modules}))\n"
"""A `sitecustomize` in which modules can't be found, in the build and in all its workers."""
OPTIONAL = ("liger_kernel", "flash_attn")
"""finery uses them wherever they work."""


class Built(NamedTuple):
    """A finished command: its exit code, what it printed, and seconds."""

    code: int
    text: str


class Project:
    """A recipe with its rows.

    use: the modules of `OPTIONAL` that finery may use. environment: more variables.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Mapping[str, Any],
        *,
        use: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self._environment = dict(environment or {})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".finery").mkdir(exist_ok=True)  # ends the search for the project's folder
        text = json.dumps({"finery": 1, "name": "check", "seed": 1, **recipe}, indent=1)
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
        self._hide([name for name in OPTIONAL if name not in use])

    def _hide(self, modules: Sequence[str]) -> None:
        hidden = self.folder / "hidden"
        hidden.mkdir(exist_ok=True)
        text = HIDING.format(modules=list(modules))
        (hidden / "sitecustomize.py").write_text(text, encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """The environment variables of the command."""
        path = os.environ.get("PYTHONPATH", "")
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(self.folder / "hidden"), path])),
            "HF_HUB_OFFLINE": "1",
            **self._environment,
        }

    def command(self, *arguments: str) -> list[str]:
        """The command line of finery with these arguments."""
        return [sys.executable, "-m", "finery", *arguments]

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start finery in the project's folder."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> Built:
        """Run finery to its end."""
        process = self.start(*arguments)
        text, _ = process.communicate()
        return Built(process.returncode, text)

    def build(self, *arguments: str) -> str:
        """Build; what was printed. Raises `Failed` with the end of it if the build fails."""
        built = self.run("build", *arguments)
        if built.code:
            raise Failed(f"finery build ended with {built.code}: {end_of(built.text)}")
        return built.text

    def refuse(self, *arguments: str) -> str:
        """Build what must fail; what was printed. Raises `Failed` if it doesn't fail."""
        built = self.run("build", *arguments)
        if not built.code:
            raise Failed("the build ended well, but it shouldn't have")
        if "Traceback" in built.text:
            raise Failed(f"a traceback instead of a message: {end_of(built.text)}")
        return built.text

    def estimate(self, step: str) -> dict[str, Any]:
        """What a plan estimates of a training."""
        planned = subprocess.run(
            self.command("plan", "--json"),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
        )
        if planned.returncode:
            raise Failed(f"finery plan failed: {end_of(planned.stderr)}")
        steps = (json.loads(line) for line in planned.stdout.splitlines())
        found = next(found for found in steps if found.get("step") == step)
        facts: dict[str, Any] = found["estimate"] or {}
        return facts

    def logs(self) -> str:
        """All that the steps of all builds logged."""
        files = (path for path in self.folder.glob(".finery/runs/**/*") if path.is_file())
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)

    def manifest(self, step: str) -> dict[str, Any]:
        """The manifest of what a step made."""
        text = (self.output(step) / "manifest.json").read_text(encoding="utf-8")
        manifest: dict[str, Any] = json.loads(text)
        return manifest

    def output(self, step: str) -> Path:
        """The folder of what a step made."""
        return self.folder / "build" / "check" / step


def recipe(
    folder: Path, model: Path, data: Sequence[making.Row], **sections: Any
) -> dict[str, Any]:
    """A recipe with a model `base`, rows `rows`, and more sections."""
    folder.mkdir(parents=True, exist_ok=True)
    making.write(folder / "rows.jsonl", data)
    return {
        "models": {"base": {"use": "local.model", "path": str(model)}},
        "data": {"rows": {"use": "data.file", "path": "rows.jsonl"}},
        **sections,
    }


def end_of(text: str, length: int = 400) -> str:
    """The last lines of a long text, on one line."""
    line = " / ".join(part.strip() for part in text.splitlines() if part.strip())
    return line if len(line) <= length else f"… {line[-length:]}"
