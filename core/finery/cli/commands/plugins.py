"""`finery plugins`: what is installed and what it provides."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finery.cli.console import print_json
from finery.cli.options import json_option
from finery.errors import PluginError
from finery.util.text import counted, did_you_mean, visible

if TYPE_CHECKING:
    from finery.plugin.discovery import BrokenPlugin, Plugin
    from finery.plugin.manager import Plugins
    from finery.testing.checks import Problem


@click.command("plugins")
@click.argument("name", required=False)
@click.option(
    "--recipe",
    "-r",
    type=click.Path(path_type=Path, exists=True),
    help="Include the plugin files of this recipe.",
)
@click.option("--check", is_flag=True, help="Check what they provide; exit code 1 for problems.")
@json_option
def command(name: str | None, recipe: Path | None, check: bool, as_json: bool) -> int:
    """List plugins and their step types; with NAME (a step type), its inputs and settings.

    --check finds step types and settings without texts, references that can't be loaded, and
    modules that import something heavy when they are loaded.
    """
    from finery.build.project import plugins_of
    from finery.plugin.manager import load_plugins
    from finery.recipe.document import load

    plugins = plugins_of(load(recipe)) if recipe else load_plugins()
    plugins.are_broken_reported = True
    if name in plugins.step_types:
        _print_step_type(plugins, str(name), as_json)
        return 0
    names = [*(p.name for p in plugins.plugins), *(p.name for p in plugins.broken)]
    if name is not None and name not in names:
        known = [*plugins.step_types, *names]
        fix = "finery plugin new NAME" if name == "new" else did_you_mean(name, known)
        raise PluginError(f"there is no plugin or step type '{name}'", fix=fix)
    listed = [plugin for plugin in plugins.plugins if name in (None, plugin.name)]
    broken = [plugin for plugin in plugins.broken if name in (None, plugin.name)]
    if check:
        return _check(plugins, listed, broken, as_json)
    for plugin in listed:
        _print_plugin(plugins, plugin, as_json)
    for broken_plugin in broken:
        _print_broken(broken_plugin, as_json)
    return 0


def _check(
    plugins: "Plugins",
    listed: "Sequence[Plugin]",
    broken: "Sequence[BrokenPlugin]",
    as_json: bool,
) -> int:
    """Print what is wrong with each plugin; the exit code."""
    from finery.testing.checks import Problem, problems_of_plugins

    problems = problems_of_plugins(plugins, listed)
    for plugin in listed:
        own = [problem for owner, problem in problems if owner is plugin]
        _print_problems(plugin, own, as_json)
    for broken_plugin in broken:
        error = broken_plugin.error
        whole = Problem("the plugin", error.what, error.fix or "")
        _print_problems(broken_plugin, [whole], as_json)
    count = len(problems) + len(broken)
    if not as_json:
        checked = counted(len(listed) + len(broken), "plugin")
        click.echo(f"{checked}, {counted(count, 'problem')}")
    return 1 if count else 0


def _print_problems(
    plugin: "Plugin | BrokenPlugin", problems: "Sequence[Problem]", as_json: bool
) -> None:
    if as_json:
        found = [problem._asdict() for problem in problems]
        print_json({"plugin": plugin.name, "from": plugin.origin, "problems": found})
        return
    state, colour = ("broken", "red") if problems else ("ok", "green")
    name = click.style(f"{plugin.name:<12}", bold=True)
    click.echo(f"{name}  {click.style(f'{state:<6}', fg=colour)}  {plugin.origin}")
    for problem in problems:
        click.echo(f"  {problem.subject}: {visible(problem.what)}")
        if problem.fix:
            click.echo(f"    {click.style('fix:', fg='green')} {visible(problem.fix)}")


def _print_plugin(plugins: "Plugins", plugin: "Plugin", as_json: bool) -> None:
    steps = sorted(n for n, (_, owner) in plugins.step_types.items() if owner is plugin)
    engines = [n for n, (_, owner) in plugins.engines.items() if owner is plugin]
    commands = [n for n, (_, owner) in plugins.commands.items() if owner is plugin]
    if as_json:
        print_json({
            "plugin": plugin.name, "from": plugin.origin, "steps": steps,
            "engines": engines, "commands": commands,
        })  # fmt: skip
        return
    _print_head(plugin)
    for name in steps:
        click.echo(f"  {name:<22} {_summary(plugins, name)}")
    for label, names in (("engine for", engines), ("command", commands)):
        if names:
            click.echo(click.style(f"  {label} {', '.join(names)}", dim=True))


def _print_head(plugin: "Plugin | BrokenPlugin") -> None:
    click.echo(f"{click.style(plugin.name, bold=True)}  {click.style(plugin.origin, dim=True)}")


def _print_broken(plugin: "BrokenPlugin", as_json: bool) -> None:
    if as_json:
        error = plugin.error.to_dict()
        print_json({"plugin": plugin.name, "from": plugin.origin, "broken": error})
        return
    _print_head(plugin)
    click.echo(f"  {click.style('broken:', fg='red', bold=True)} {visible(plugin.error.what)}")
    for line in (plugin.error.where, *plugin.error.details):
        if line:
            click.echo(click.style(f"  {visible(line)}", dim=True))
    if plugin.error.fix:
        click.echo(f"  {click.style('fix:', fg='green')} {visible(plugin.error.fix)}")


def _summary(plugins: "Plugins", name: str) -> str:
    """The first line of a step type's docstring, or why it can't be used."""
    try:
        return (plugins.step_type(name).__doc__ or "").strip().partition("\n")[0]
    except PluginError as error:
        return f"{click.style('broken:', fg='red', bold=True)} {visible(error.what)}"


def _print_step_type(plugins: "Plugins", name: str, as_json: bool) -> None:
    from finery.recipe.messages import phrase
    from finery.recipe.schema import step_schema
    from finery.step.inspect import inputs_of, sections_of

    cls = plugins.step_type(name)
    schema = step_schema(cls)
    if as_json:
        print_json({"step_type": name, "schema": schema})
        return
    click.echo(f"{click.style(name, bold=True)}  in {', '.join(sections_of(cls))}")
    click.echo((cls.__doc__ or "").strip())
    inputs = inputs_of(cls)
    rows = []
    for key, field in schema["properties"].items():
        if key in ("use", "needs", "seed", "env"):
            continue
        required = key in schema["required"]
        kind = (
            f"{inputs[key].kind.kind}{'s' if inputs[key].many else ''}"
            if key in inputs
            else phrase(field)
        )
        default = (
            "required"
            if required
            else f"default {_shown(field.get('default'))}"
            if "default" in field
            else ""
        )
        rows.append((key, f"{kind}; {default}" if default else kind, field.get("description", "")))
    width = max(len(r[0]) for r in rows) if rows else 0
    for key, kind, text in rows:
        click.echo(f"  {click.style(f'{key:<{width}}', fg='cyan')}  {kind}")
        if text:
            click.echo(click.style(f"  {'':<{width}}  {text}", dim=True))


def _shown(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
