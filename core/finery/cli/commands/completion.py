"""`finery completion`: has a shell complete commands, recipes, steps and step types."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from finery.errors import UsageError

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_FINERY_COMPLETE"
"""The variable by which click is asked for completions."""


@click.command("completion")
@click.argument("shell", metavar="[SHELL]", type=click.Choice(SHELLS), required=False)
@click.option(
    "--install", is_flag=True,
    help="Set it up: in ~/.bashrc, ~/.zshrc or fish's folder of completions. Repeating it changes "
    "nothing.",
)  # fmt: skip
def command(shell: str | None, install: bool) -> None:
    """Print the script that completes finery's commands in SHELL, or install it.

    SHELL is bash, zsh or fish. [default: the one that $SHELL names]
    """
    shell = shell or Path(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        raise UsageError(
            f"finery can't complete in '{shell}'" if shell else "$SHELL names no shell",
            where="SHELL",
            fix=f"name one of: {', '.join(SHELLS)}",
        )
    if install:
        _install(shell)
        return
    from finery.cli.main import cli

    completion = get_completion_class(shell)
    assert completion is not None
    script = completion(cli, {}, "finery", VARIABLE).source()
    if (program := _program()) != "finery":  # bash runs what is typed, zsh and fish `finery`
        script = script.replace("(( ! $+commands[finery] )) && return 1\n", "")
        script = script.replace(" finery)", f" {program})")
    click.echo(script)


def _program() -> str:
    """finery as a word of a shell: its name, or the path of the one that runs if PATH has none."""
    if shutil.which("finery"):
        return "finery"
    running = shutil.which(sys.argv[0]) or Path(sys.executable).with_name("finery")
    return shlex.quote(os.path.abspath(running))


def _install(shell: str) -> None:
    """Add the line that loads the script when a shell starts, unless it is there.

    The line asks finery for the script, so that an upgrade needs no new installation.
    """
    home = Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    program = _program()
    script = f"{program} completion {shell}"
    file, line = {
        "bash": (home / ".bashrc", f'command -v {program} >/dev/null && eval "$({script})"'),
        "zsh": (
            Path(os.environ.get("ZDOTDIR") or home) / ".zshrc",
            f"command -v {program} >/dev/null && {{ (( $+functions[compdef] )) || "
            f'{{ autoload -Uz compinit && compinit; }}; eval "$({script})"; }}',
        ),
        "fish": (  # which looks in `completions` for commands on PATH only
            config / "fish" / ("completions" if program == "finery" else "conf.d") / "finery.fish",
            f"command -q {program}; and {script} | source",
        ),
    }[shell]
    try:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        if is_new := line not in text.splitlines():
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as out:
                out.write(f"\n{line}\n" if text and text[-1] != "\n" else f"{line}\n")
    except OSError as error:
        raise UsageError(
            f"can't write: {error.strerror}", where=str(file), fix=f"add this line to it: {line}"
        ) from error
    done = "set up" if is_new else "already set up"
    click.echo(f"{done} in {file}. It works in new shells.")
