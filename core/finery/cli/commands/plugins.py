"""`finery plugins`: what is installed and what it provides."""

from pathlib import Path
from typing import Any

import click

from finery.cli.console import print_json
from finery.cli.options import json_option
from finery.errors import PluginError
from finery.util.text import counted, did_you_mean


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

    --check looks for step types and settings without texts, references that can't be loaded, and
    modules that import something heavy when they are loaded.
    """
    from finery.build.project import open_recipe
    from finery.plugin.manager import load_plugins

    plugins = open_recipe(recipe)[1] if recipe else load_plugins()
    if name in plugins.step_types:
        _print_step_type(plugins, str(name), as_json)
        return 0
    if name is not None and name not in {p.name for p in plugins.plugins}:
        known = [*plugins.step_types, *(p.name for p in plugins.plugins)]
        fix = "finery plugin new NAME" if name == "new" else did_you_mean(name, known)
        raise PluginError(f"there is no plugin or step type '{name}'", fix=fix)
    listed = [plugin for plugin in plugins.plugins if name in (None, plugin.name)]
    if check:
        return _check(plugins, listed, as_json)
    for plugin in listed:
        _print_plugin(plugins, plugin, as_json)
    return 0


def _check(plugins: Any, listed: Any, as_json: bool) -> int:
    """Print what is wrong with each plugin; the exit code."""
    from finery.testing.checks import problems_of_plugins

    found = problems_of_plugins(plugins, listed)
    for plugin in listed:
        own = [problem for owner, problem in found if owner is plugin]
        if as_json:
            problems = [problem._asdict() for problem in own]
            print_json({"plugin": plugin.name, "from": plugin.origin, "problems": problems})
        else:
            _print_problems(plugin, own)
    if not as_json:
        click.echo(f"{counted(len(listed), 'plugin')}: {counted(len(found), 'problem')}")
    return 1 if found else 0


def _print_problems(plugin: Any, problems: Any) -> None:
    state = click.style("broken", fg="red") if problems else click.style("ok", fg="green")
    name = click.style(f"{plugin.name:<14}", bold=True)
    click.echo(f"{name} {state:<6} {click.style(plugin.origin, dim=True)}")
    for problem in problems:
        click.echo(f"  {problem.subject}: {problem.what}")
        if problem.fix:
            click.echo(click.style(f"    fix: {problem.fix}", dim=True))


def _print_plugin(plugins: Any, plugin: Any, as_json: bool) -> None:
    types = {
        n: plugins.step_type(n)
        for n, (_, owner) in sorted(plugins.step_types.items())
        if owner is plugin
    }
    engines = [n for n, (_, owner) in plugins.engines.items() if owner is plugin]
    commands = [n for n, (_, owner) in plugins.commands.items() if owner is plugin]
    if as_json:
        print_json({
            "plugin": plugin.name, "from": plugin.origin, "steps": list(types),
            "engines": engines, "commands": commands,
        })  # fmt: skip
        return
    click.echo(f"{click.style(plugin.name, bold=True)}  {click.style(plugin.origin, dim=True)}")
    for name, cls in types.items():
        click.echo(f"  {name:<22} {_first_line(cls)}")
    for label, found in (("engine for", engines), ("command", commands)):
        if found:
            click.echo(click.style(f"  {label} {', '.join(found)}", dim=True))


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _print_step_type(plugins: Any, name: str, as_json: bool) -> None:
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
