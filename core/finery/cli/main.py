"""The `finery` command: finds subcommands by name and turns errors into one block and a code."""

import gc
import importlib
import os
import sys
from typing import Any

import click

from finery.errors import DISK_FULL, FineryError
from finery.util.text import did_you_mean

BUILT_IN = {
    "init": "finery.cli.commands.init:command",
    "check": "finery.cli.commands.check:command",
    "plan": "finery.cli.commands.plan:command",
    "build": "finery.cli.commands.build:command",
    "explain": "finery.cli.commands.explain:command",
    "show": "finery.cli.commands.show:command",
    "plugins": "finery.cli.commands.plugins:command",
    "schema": "finery.cli.commands.schema:command",
}


COLLECT_AFTER = 100_000
"""New objects after which Python looks for garbage. Most of what a command makes lives until its
end: to look among it as often as by default takes a tenth of the time of a build of 1,000 steps."""


class _Commands(click.Group):
    """A group that imports a command's module only when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*BUILT_IN, *sorted(self._from_plugins())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in BUILT_IN:
            return _load(BUILT_IN[cmd_name])
        provided = self._from_plugins()
        return _load(provided[cmd_name][0]) if cmd_name in provided else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            guess = did_you_mean(args[0], self.list_commands(ctx)) if args else None
            raise click.UsageError(f"{error.message} {guess or ''}".rstrip(), ctx) from None

    @staticmethod
    def _from_plugins() -> dict[str, Any]:
        from finery.plugin.manager import load_plugins

        return load_plugins().commands


def _load(reference: Any) -> click.Command:
    if not isinstance(reference, str):
        return reference  # type: ignore[no-any-return]
    module, _, name = reference.partition(":")
    command: click.Command = getattr(importlib.import_module(module), name)
    return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="finery", prog_name="finery")
def cli() -> None:
    """Build small fine-tuned language models from one recipe."""


def main() -> None:
    """Run the command line and exit with its code: 0, 1, 2, or 130 when interrupted."""
    gc.set_threshold(COLLECT_AFTER)
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = interrupted()
    except click.ClickException as error:
        error.show()
        code = 2
    except FineryError as error:
        from finery.cli.console import print_error

        print_error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        code = interrupted()
    except BrokenPipeError:  # whoever read what we print is gone
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        code = 1
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        click.echo(f"error: the disk is full: {error}\n  fix: free some space", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def interrupted() -> int:
    """Say that Ctrl-C was heard; the exit code for it."""
    click.echo("interrupted", err=True)
    return 130
