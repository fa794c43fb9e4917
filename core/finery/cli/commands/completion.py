"""`finery completion`: has a shell complete commands, recipes, steps and step types."""

import os
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
    click.echo(completion(cli, {}, "finery", VARIABLE).source())


def _install(shell: str) -> None:
    """Add the line that loads the script when a shell starts, unless it is there.

    The line asks finery for the script, so that an upgrade needs no new installation.
    """
    home = Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    file, load = {
        "bash": (home / ".bashrc", f'eval "$({VARIABLE}=bash_source finery)"'),
        "zsh": (
            Path(os.environ.get("ZDOTDIR") or home) / ".zshrc",
            "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }; "
            f'eval "$({VARIABLE}=zsh_source finery)"',
        ),
        "fish": (
            config / "fish/completions/finery.fish",
            f"{VARIABLE}=fish_source finery | source",
        ),
    }[shell]
    line = f"command -v finery >/dev/null && {{ {load}; }}"
    if shell == "fish":  # it reads the file when `finery` is completed
        line = load
    try:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        if VARIABLE not in text:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as out:
                out.write(f"\n{line}\n" if text and text[-1] != "\n" else f"{line}\n")
    except OSError as error:
        raise UsageError(
            f"can't write: {error.strerror}", where=str(file), fix=f"add this line to it: {line}"
        ) from error
    done = "already set up" if VARIABLE in text else "set up"
    click.echo(f"{done} in {file}. It works in new shells.")
