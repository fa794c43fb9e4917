"""`finery schema`: JSON Schemas for editors and for `schemas/`."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import click

from finery.cli.commands.scaffold import writing
from finery.cli.options import recipe_and_name
from finery.errors import FineryError, UsageError
from finery.util.paths import shown

LOOK_SECONDS = 0.5
"""Seconds between two looks of `--watch` at the recipe."""
OF_STEPS = {"use", "needs", "seed", "env"}
"""Properties that the schemas of all step types have."""


@click.command("schema")
@recipe_and_name("[RECIPE] [STEP_TYPE]")
@click.option(
    "--print", "to_stdout", is_flag=True, help="Print the schema of RECIPE instead of writing it."
)
@click.option(
    "--watch", is_flag=True, help="Write it again each time RECIPE changes, until Ctrl-C."
)
@click.option(
    "--all", "folder", type=click.Path(path_type=Path), is_flag=False, flag_value=Path("schemas"),
    help="Write the schemas of recipes and of all step types into a folder. [default folder: "
    "schemas]",
)  # fmt: skip
@click.option(
    "--check", is_flag=True, help="With --all: write nothing, and fail if a file is out of date."
)
def command(
    recipe: Path | None, name: str | None, to_stdout: bool, watch: bool, folder: Path | None,
    check: bool,
) -> None:  # fmt: skip
    """Write a JSON Schema with which editors complete and check RECIPE.

    The schema knows the steps of RECIPE, their outputs and metrics, and its plugins. `finery
    check` keeps it up to date. Without RECIPE, this prints the schema that all recipes share, or
    the schema of STEP_TYPE.
    """
    from finery.builder.project import open_recipe
    from finery.plugin.manager import load_plugins
    from finery.recipe.document import load
    from finery.recipe.editor import format_schema, recipe_schema, schema_of
    from finery.recipe.schema import step_schema

    if check and folder is None:
        raise UsageError(
            "--check needs --all", where="--check", fix="finery schema --all schemas --check"
        )
    for option, is_given in (("--print", to_stdout), ("--watch", watch)):
        if is_given and (recipe is None or name is not None or folder is not None):
            raise UsageError(
                f"{option} is for the schema of one recipe",
                where=option,
                fix=f"finery schema RECIPE {option}",
            )
    if to_stdout and watch:
        raise UsageError(
            "--print writes no file to keep up to date",
            where="--watch",
            fix="leave out one of --print and --watch",
        )
    plugins = open_recipe(recipe)[1] if recipe else load_plugins()
    if folder is not None:
        steps = {name: step_schema(plugins.step_type(name)) for name in plugins.step_types}
        files = {f"{name}.schema.json": format_schema(schema) for name, schema in steps.items()}
        files["recipe.schema.json"] = format_schema(recipe_schema(plugins))
        present = _written(folder, files)
        stale = sorted(name for name in {*files, *present} if files.get(name) != present.get(name))
        if check and stale:
            problem, fix = f"out of date: {', '.join(stale)}", f"finery schema --all {folder}"
            raise UsageError(problem, where=str(folder), fix=fix)
        if check:
            return
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in stale:
                if name in files:
                    (folder / name).write_text(files[name], encoding="utf-8")
                else:
                    (folder / name).unlink()
        click.echo(f"{len(files)} schemas in {folder}")
        return
    if recipe is None or name is not None:
        schema = step_schema(plugins.step_type(name)) if name else recipe_schema(plugins)
        click.echo(format_schema(schema), nl=False)
    elif to_stdout:
        click.echo(format_schema(schema_of(load(recipe), plugins)), nl=False)
    else:
        _write_one(recipe, watch=watch)


def _write_one(recipe: Path, *, watch: bool) -> None:
    """Write the schema of a recipe, and print the line for editors if the recipe lacks it.

    watch: write it again each time the recipe changes, until Ctrl-C.
    """
    from finery.builder.project import open_recipe
    from finery.recipe.editor import modeline, write_schema
    from finery.util.files import file_state

    opened, plugins = open_recipe(recipe)
    path = write_schema(opened, plugins)
    click.echo(f"{shown(path)} is up to date")
    line = modeline(opened, path)
    if line:
        click.echo(f"To use it in an editor, make this the first line of {shown(recipe)}:\n{line}")
    if watch:
        click.echo(f"Watching {shown(recipe)}. Press Ctrl-C to stop.")
    before = file_state(str(recipe))
    while watch:
        time.sleep(LOOK_SECONDS)
        if (now := file_state(str(recipe))) == before:
            continue
        before = now
        try:
            write_schema(*open_recipe(recipe))
            click.echo("updated")
        except FineryError as error:  # half-written: the next save may repair it
            click.echo(f"not updated: {error}", err=True)


def _written(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """The files in a folder that `--all` writes or wrote: name → text. Others aren't finery's."""
    texts = {}
    for path in folder.glob("*.schema.json"):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            properties = None
            with suppress(ValueError, AttributeError):  # no JSON, or no object
                properties = json.loads(text).get("properties")
            # The schema of a step type, which may no longer exist.
            is_of_step = isinstance(properties, dict) and properties.keys() >= OF_STEPS
            if path.name in files or is_of_step:
                texts[path.name] = text
    return texts
