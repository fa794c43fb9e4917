"""`finery plugins`: the installed plugins and what they provide."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finery.cli.console import WIDTH, print_json, print_wrapped
from finery.cli.options import json_option, recipe_and_name
from finery.cli.targets import RECIPE
from finery.errors import FineryError, PluginError
from finery.util.text import a_or_an, counted, one_or_more, suggest_nearest, visible

if TYPE_CHECKING:
    from finery.plugin.discovery import BrokenPlugin, Plugin
    from finery.plugin.manager import Plugins
    from finery.step.step import Step


@click.command("plugins")
@recipe_and_name("[RECIPE] [NAME]")
@click.option("--check", is_flag=True, help="Check the plugins; exit code 1 if there are problems.")
@json_option
def command(recipe: Path | None, name: str | None, check: bool, as_json: bool) -> int:
    """List the plugins and their step types; with NAME, one plugin or the settings of a step type.

    With RECIPE, the plugin files next to it are included. --check finds step types and settings
    without help, references that can't be loaded, and modules that import heavy libraries when
    they are loaded.
    """
    from finery.builder.project import plugins_of
    from finery.plugin.manager import load_plugins
    from finery.recipe.document import load

    plugins = plugins_of(load(recipe)) if recipe else load_plugins()
    plugins.are_broken_reported = True
    if name in plugins.step_types:
        _print_step_type(plugins, str(name), as_json)
        return 0
    names = [*(p.name for p in plugins.plugins), *(p.name for p in plugins.broken)]
    if name is not None and name not in names:
        raise _no_such(name, [*plugins.step_types, *names], recipe)
    listed = [plugin for plugin in plugins.plugins if name in (None, plugin.name)]
    broken = [plugin for plugin in plugins.broken if name in (None, plugin.name)]
    if check:
        return _check(plugins, listed, broken, as_json)
    for plugin in listed:
        _print_plugin(plugins, plugin, as_json)
    for each in broken:
        if as_json:
            print_json({"plugin": each.name, "from": each.origin, "broken": each.error.to_dict()})
            continue
        _print_head(each)
        broken_word = click.style("broken:", fg="red", bold=True)
        click.echo(f"  {broken_word} {visible(each.error.what)}")
        for line in filter(None, (each.error.where, *each.error.details)):
            click.echo(click.style(f"  {visible(line)}", dim=True))
        if each.error.fix:
            click.echo(f"  {click.style('fix:', fg='green')} {visible(each.error.fix)}")
    return 0


def _no_such(name: str, known: Sequence[str], recipe: Path | None) -> PluginError:
    """The error for an unknown name. Plugins beside a recipe may provide it."""
    what, near = f"plugin or step type '{name}' was not found", suggest_nearest(name, known)
    fixes = [near or "`finery plugins` lists those that are installed"]
    if name == "new":
        fixes = ["finery plugin new NAME"]
    elif recipe is None:
        from finery.recipe.document import load

        with suppress(FineryError):  # there is such a recipe, and it loads plugins of its own
            if load(Path(RECIPE)).data.get("plugins"):
                text = f"{RECIPE} loads plugins of its own: finery plugins {RECIPE} {name}"
                return PluginError(what, fix="; ".join([text, *fixes]))
        if near is None:
            fixes.append(f"for a plugin of a recipe: finery plugins RECIPE {name}")
    return PluginError(what, fix="; ".join(fixes))


def _check(
    plugins: "Plugins",
    listed: "Sequence[Plugin]",
    broken: "Sequence[BrokenPlugin]",
    as_json: bool,
) -> int:
    """Print the problems of each plugin. Returns the exit code."""
    from finery.testing.checks import Problem, problems_of_plugins

    problems: list[tuple[Plugin | BrokenPlugin, Problem]] = [*problems_of_plugins(plugins, listed)]
    problems += [(p, Problem("the plugin", p.error.what, p.error.fix or "")) for p in broken]
    checked: list[Plugin | BrokenPlugin] = [*listed, *broken]
    for plugin in checked:
        own = [problem for owner, problem in problems if owner is plugin]
        if as_json:
            of = [problem._asdict() for problem in own]
            print_json({"plugin": plugin.name, "from": plugin.origin, "problems": of})
            continue
        state, colour = ("broken", "red") if own else ("ok", "green")
        name = click.style(f"{plugin.name:<12}", bold=True)
        click.echo(f"{name}  {click.style(f'{state:<6}', fg=colour)}  {plugin.origin}")
        for problem in own:
            click.echo(f"  {problem.subject}: {visible(problem.what)}")
            if problem.fix:
                click.echo(f"    {click.style('fix:', fg='green')} {visible(problem.fix)}")
    count = len(problems)
    if not as_json:
        click.echo(f"{counted(len(checked), 'plugin')}, {counted(count, 'problem')}")
    return 1 if count else 0


def _print_plugin(plugins: "Plugins", plugin: "Plugin", as_json: bool) -> None:
    steps = sorted(n for n, (_, owner) in plugins.step_types.items() if owner is plugin)
    engines = [n for n, (_, owner) in plugins.engines.items() if owner is plugin]
    commands = [n for n, (_, owner) in plugins.commands.items() if owner is plugin]
    if as_json:
        print_json({
            "plugin": plugin.name, "from": plugin.origin, "apis": plugin.apis, "steps": steps,
            "engines": engines, "commands": commands,
        })  # fmt: skip
        return
    _print_head(plugin)
    for name in steps:
        try:
            summary = (plugins.step_type(name).__doc__ or "").strip().partition("\n")[0]
        except PluginError as error:
            summary = f"broken: {error.what}"
        print_wrapped(f"  {name:<22} ", summary, hang=25)
    for label, names in (("engine for", engines), ("command", commands)):
        if names:
            print_wrapped("  ", f"{label} {', '.join(names)}", hang=4, dim=True)


def _print_head(plugin: "Plugin | BrokenPlugin") -> None:
    apis = getattr(plugin, "apis", ())
    origin = f"{plugin.origin}, API {', '.join(apis)}" if apis else plugin.origin
    click.echo(f"{click.style(plugin.name, bold=True)}  {click.style(origin, dim=True)}")


def _print_step_type(plugins: "Plugins", name: str, as_json: bool) -> None:
    from finery.recipe.schema import step_schema
    from finery.step.inspect import sections_of

    cls = plugins.step_type(name)
    schema = step_schema(cls)
    if as_json:
        print_json({"step_type": name, "schema": schema})
        return
    click.echo(f"{click.style(name, bold=True)}  in {', '.join(sections_of(cls))}\n")
    for block in re.split(r"\n(?=\n|- )", schema["description"]):  # paragraphs and items of lists
        if block.startswith("\n"):
            click.echo()
        if "\n    " in block:  # code
            click.echo(block.strip("\n"))
        else:
            hang = 2 if block.lstrip().startswith("- ") else 0
            print_wrapped("", " ".join(block.split()), hang=hang, most=WIDTH)
    for title, rows in setting_tables(cls, schema):
        click.echo(f"\n{click.style(title, bold=True)}")
        width = max(len(setting) for setting, *_ in rows)
        for setting, takes, text in rows:
            start = f"  {click.style(f'{setting:<{width}}', fg='cyan')}  "
            print_wrapped(start, takes, hang=width + 4)
            if text:
                print_wrapped(" " * (width + 4), text, hang=width + 4, dim=True)


_Row = tuple[str, str, str]
"""A line of the list: the name of a setting, e.g. `lora.r`, what it accepts, and its help."""


def setting_tables(cls: "type[Step]", schema: dict[str, Any]) -> Iterator[tuple[str, list[_Row]]]:
    """(title, rows) of the inputs, the settings, and the settings of every step."""
    from finery.step.inspect import RESERVED, inputs_of

    inputs = inputs_of(cls)
    own = {k: f for k, f in schema["properties"].items() if k not in RESERVED}
    tables = {
        "inputs": {k: f for k, f in own.items() if k in inputs},
        "settings": {k: f for k, f in own.items() if k not in inputs},
        "every step": {k: f for k, f in schema["properties"].items() if k in RESERVED - {"use"}},
    }
    for title, fields in tables.items():
        rows = [row for key, field in fields.items() for row in _rows_of(cls, schema, key, field)]
        if rows:
            yield title, rows


def _rows_of(
    cls: "type[Step]", schema: dict[str, Any], key: str, field: dict[str, Any]
) -> Iterator[_Row]:
    """A setting, then those inside it, to any depth."""
    from finery.recipe.schema import settings_inside
    from finery.step.inspect import inputs_of, nested_fields

    accepts, nested = inputs_of(cls).get(key), nested_fields(cls).get(key)
    kind = None
    if accepts is not None:
        kind = one_or_more(accepts.kind.kind) if accepts.many else a_or_an(accepts.kind.kind)
    elif nested is not None:
        kind = f"a step as in section {nested.section}"
        kind += ", or a list of them" if "anyOf" in field else ""
    yield _row(key, field, key in schema["required"], kind)
    for name, inner, is_required in settings_inside(schema, key):
        yield _row(name, inner, is_required)


def _row(name: str, field: dict[str, Any], required: bool, kind: str | None = None) -> _Row:
    from finery.recipe.messages import phrase

    kind = kind or phrase(field)
    default = field.get("default")
    if required:
        kind = f"{kind}; required"
    elif default is not None:  # as a recipe would write it
        is_text = isinstance(default, str) and default
        written = default if is_text else json.dumps(default, ensure_ascii=False)
        kind = f"{kind}; default {written}"
    elif "default" in field or "anyOf" in field or "null" in field.get("type", ()):
        kind = f"{kind}; optional"
    return name, kind, field.get("description", "")
