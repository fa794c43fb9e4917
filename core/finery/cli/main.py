"""The `finery` command: finds subcommands by name and turns errors into one block and a code."""

import contextlib
import gc
import os
import signal
import sys
import threading
from typing import Any

import click

from finery.builtin import COMMANDS
from finery.cli.console import name_recipe, print_error
from finery.errors import FineryError, UsageError, disk_full
from finery.util.installed import ENTRY_POINTS_VARIABLE
from finery.util.references import load_reference
from finery.util.text import did_you_mean, visible

COLLECT_AFTER = 100_000
"""New objects between two garbage collections. Most objects live until the command ends: with
Python's default, collections take a tenth of the time of a build of 1,000 steps."""

LIBRARIES = ("blake3", "jinja2", "jsonschema", "msgspec", "pluggy", "rich", "yaml")
"""Modules of other distributions that finery's commands import."""
HELP = 200
"""Longest first sentence of a command's help, in characters."""


class _Commands(click.Group):
    """Commands by the hook `finery_commands`; a command's module is imported when it is called.

    finery's own commands come first and load no plugins, so plugins can't replace them.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        from finery.plugin.manager import load_plugins

        return [*COMMANDS, *sorted(load_plugins().commands.keys() - COMMANDS.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command: click.Command | None = None
        if cmd_name in COMMANDS:
            command = load_reference(COMMANDS[cmd_name])
        else:
            from finery.plugin.manager import load_plugins, resolve

            if provided := load_plugins().commands.get(cmd_name):
                command = resolve(provided[0], f"command '{cmd_name}'", provided[1])
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command's first sentence, wrapped; click would cut it off."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([
                (name, command.get_short_help_str(limit=HELP))
                for name, command in commands if command is not None and not command.hidden
            ])  # fmt: skip

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            guess = did_you_mean(args[0], self.list_commands(ctx)) if args else None
            raise click.UsageError(f"{error.message} {guess or ''}".rstrip(), ctx) from None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="finery", prog_name="finery")
def cli() -> None:
    """Build small fine-tuned language models from one recipe."""
    try:
        os.getcwd()
    except OSError as error:
        what = f"the working folder can't be found: {error.strerror}"
        raise UsageError(what, fix="cd to a folder that exists") from None


def main() -> None:
    """Run the command line and exit with its code: 0, 1, 2, or 130 when interrupted."""
    gc.set_threshold(COLLECT_AFTER)
    color = False if os.environ.get("NO_COLOR") else None  # https://no-color.org; click asks nobody
    name_recipe(None)
    with click.Context(cli, info_name="finery", color=color).scope():  # for what is printed at last
        try:
            code = _run(color)
            _end_when_interrupted()
        except KeyboardInterrupt:
            code = interrupted()
            _end_when_interrupted()
        _end_despite_threads(code)
        sys.exit(code)


def _end_when_interrupted() -> None:
    """From now on, have Ctrl-C end this process at once instead of raising KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not under nohup
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))


def _end_despite_threads(code: int) -> None:
    """Have this process end after a while, even if threads that plugins started still run."""
    discovery = sys.modules.get("finery.plugin.discovery")  # None if no plugins were loaded
    started: dict[threading.Thread, str] = getattr(discovery, "THREADS", {})

    def end() -> None:
        from finery.store.repairs import warn

        for thread in sorted(threading.enumerate(), key=started.__contains__):  # finery's own first
            if not thread.daemon:
                thread.join(1.0 if thread in started else None)
            if thread in started and thread.is_alive():
                text = f"{started[thread]} started the thread '{thread.name}', which still runs: "
                warn(f"{text}finery ends without it (fix: threading.Thread(…, daemon=True))")
                with contextlib.suppress(OSError):
                    sys.stdout.flush()
                os._exit(code)

    if started:
        threading.Thread(target=end, daemon=True).start()


def _run(color: bool | None) -> int:
    """Run the command line and print the error that it ends with; the exit code."""
    os.environ.pop(ENTRY_POINTS_VARIABLE, None)  # of the worker of a step that runs this command
    try:
        if sys.flags.optimize > 1:
            raise UsageError(
                "finery needs docstrings, which PYTHONOPTIMIZE=2 and `python -OO` remove",
                fix="unset PYTHONOPTIMIZE, or set it to 1",
            )
        code = cli.main(standalone_mode=False, color=color)
    except click.exceptions.Abort:
        code = interrupted()
    except click.ClickException as error:
        error.show()
        code = 2
    except FineryError as error:
        print_error(error)
        code = error.exit_code
    except SystemExit as error:
        code = ended(error)
    except KeyboardInterrupt:
        code = interrupted()
    except BrokenPipeError:  # the reader of our output has ended
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        code = 1
    except (OSError, AttributeError, ImportError) as error:
        expected = disk_full(error) if isinstance(error, OSError) else _replaced_library()
        if expected is None:
            raise
        print_error(expected)
        code = expected.exit_code
    _warn_of_broken_plugins()
    code = code if isinstance(code, int) else 0
    return code or int(_print_hook_failures())


def _replaced_library() -> FineryError | None:
    """The error for a library that a folder or file of PYTHONPATH replaces."""
    folders = [os.path.realpath(f) for f in os.environ.get("PYTHONPATH", "").split(os.pathsep) if f]
    for name in LIBRARIES:
        file = os.path.realpath(getattr(sys.modules.get(name), "__file__", None) or os.sep)
        if any(file.startswith(os.path.join(folder, name)) for folder in folders):
            what = f"PYTHONPATH has a module '{name}' in place of the library that finery needs"
            return UsageError(what, where=file, fix="rename it, or leave its folder out")
    return None


def _warn_of_broken_plugins() -> None:
    """Warn of the plugins that can't be used, unless the command reported them."""
    manager = sys.modules.get("finery.plugin.manager")
    if manager is None:  # the command loaded no plugins
        return
    for plugin in manager.left_out():
        named = f"plugin '{plugin.name}'" in plugin.error.what
        _warn("" if named else f"plugin '{plugin.name}': ", plugin.error, " (see finery plugins)")


def _print_hook_failures() -> bool:
    """Print how hooks of plugins failed during the command; whether the recipe uses one of them."""
    manager = sys.modules.get("finery.plugin.manager")
    failures = manager.hook_failures() if manager else []
    for failure in failures:
        if failure.is_used:
            print_error(failure.error)
        else:
            _warn(f"{failure.error.where}: ", failure.error)
    return any(failure.is_used for failure in failures)


def _warn(start: str, error: FineryError, end: str = "") -> None:
    """Warn of a plugin's error with which finery goes on."""
    text = visible(f"{start}{error.what}; finery goes on without it{end}")
    click.echo(f"{click.style('warning:', fg='yellow')} {text}", err=True)
    if error.fix:
        click.echo(f"  {click.style('fix:', fg='green')} {visible(error.fix)}", err=True)


def ended(error: SystemExit) -> Any:
    """The exit code where code called `sys.exit`.

    A command of a plugin may; what a command of finery's own calls must not end it unnoticed.
    """
    from traceback import walk_tb

    files = [(f.f_code.co_filename, line) for f, line in walk_tb(error.__traceback__)]
    own = os.path.join(os.path.dirname(__file__), "commands")
    if not any(file.startswith(own) for file, _ in files):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    from finery.errors import PluginError

    file, line = files[-1]
    print_error(
        PluginError(
            f"a plugin ended finery: it calls sys.exit({error.code!r})",
            where=f"{file}:{line}",
            fix="raise an error instead, e.g. finery.UsageError",
        )
    )
    return PluginError.exit_code


def interrupted() -> int:
    """Print that the command was interrupted; returns the exit code."""
    click.echo("interrupted", err=True)
    return 130
