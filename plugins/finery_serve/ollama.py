"""`finery serve --ollama`: have Ollama import the model of an `ollama.modelfile`."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click

from finery import Graph, StepError, UsageError, linked, shown
from finery.cli.console import print_json
from finery_serve.opening import Opened

PROGRAM = "ollama"
STEP_TYPE = "ollama.modelfile"
INSTALL = "install Ollama (https://ollama.com/download)"


def import_model(opened: Opened, *, yes: bool, as_json: bool) -> None:
    """Print the commands that import and run a model, and run the import if the user wants it.

    yes: run it without a question. `UsageError` for a step that isn't for Ollama, or if Ollama
    is to run and isn't installed. `StepError` if it fails.
    """
    if opened.format != PROGRAM:
        raise UsageError(
            f"'{opened.name}' has the format '{opened.format}', and --ollama takes the folder of "
            f"an {STEP_TYPE}",
            fix=_way_out(opened.graph, opened.name),
        )
    name = str(opened.artifact.meta["name"])
    command = [PROGRAM, "create", name, "-f", "Modelfile"]
    folder = Path(linked(str(opened.artifact.path)))
    program = shutil.which(PROGRAM)
    if yes and program is None:
        raise UsageError(
            f"{PROGRAM} isn't on the PATH",
            fix=f"{INSTALL}, or copy the folder to a machine that has it: "
            f"finery export {opened.name} DIR",
        )
    if as_json:
        facts = {"event": "ollama", "model": name, "folder": str(folder), "command": command}
        print_json({**facts, "program": program, "runs": yes})
    else:
        click.echo(f"cd {shlex.quote(shown(folder))}\n{shlex.join(command)}\n{PROGRAM} run {name}")
    if program is None:
        click.secho(
            f"{PROGRAM} isn't on the PATH: {INSTALL} to run these commands", fg="yellow", err=True
        )
    elif yes or (not as_json and _agrees(name)):
        _create(program, command, folder)
        click.echo(f"{name} is in Ollama: {PROGRAM} run {name}", err=True)


def _agrees(name: str) -> bool:
    """Whether the user of a terminal wants the import now. Elsewhere, the commands are enough."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return click.confirm(f"Have Ollama import {name} now?", default=True, err=True)


def _create(program: str, command: list[str], folder: Path) -> None:
    """Run `ollama create`, which prints its own progress and its own errors."""
    ran = subprocess.run([program, *command[1:]], cwd=folder, check=False, stdout=sys.stderr)
    if ran.returncode:
        raise StepError(
            f"{shlex.join(command)} ended with exit code {ran.returncode}",
            where=os.fspath(folder),
            fix="see its message above; Ollama itself must run (`ollama serve`)",
        )


def _way_out(graph: Graph, step: str) -> str:
    """The step to name instead, or one to add."""
    steps = [node.name for node in graph.nodes.values() if node.use == STEP_TYPE]
    if steps:
        return f"finery serve --ollama {steps[0]}"
    return (
        f"add ollama: {{use: {STEP_TYPE}, gguf: {step}, name: …}} to `export:`, build it, and then "
        "finery serve --ollama ollama"
    )
