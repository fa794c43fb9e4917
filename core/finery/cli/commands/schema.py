"""`finery schema`: JSON Schemas for editors and for `schemas/`."""

from pathlib import Path

import click
import msgspec

from finery.errors import UsageError


@click.command("schema")
@click.argument("step_type", required=False)
@click.option(
    "--all",
    "folder",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value=Path("schemas"),
    help="Write all schemas into a folder. [default folder: schemas]",
)
@click.option("--check", is_flag=True, help="With --all: write nothing, fail if a file is stale.")
@click.option(
    "--recipe",
    "-r",
    type=click.Path(path_type=Path, exists=True),
    help="Include the plugin files of this recipe.",
)
def command(step_type: str | None, folder: Path | None, check: bool, recipe: Path | None) -> int:
    """Print the JSON Schema of recipes, or of one STEP_TYPE, with the installed plugins."""
    from finery.build.project import open_recipe
    from finery.plugin.manager import load_plugins
    from finery.recipe.schema import recipe_schema, step_schema

    plugins = open_recipe(recipe)[1] if recipe else load_plugins()
    if folder is None:
        made = step_schema(plugins.step_type(step_type)) if step_type else recipe_schema(plugins)
        click.echo(formatted(made), nl=False)
        return 0
    files = {
        f"{name}.schema.json": formatted(step_schema(plugins.step_type(name)))
        for name in plugins.step_types
    }
    files["recipe.schema.json"] = formatted(recipe_schema(plugins))
    return _check(folder, files) if check else _write(folder, files)


def formatted(schema: object) -> str:
    """A schema as the text of its file."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def _write(folder: Path, files: dict[str, str]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.schema.json"):
        if stale.name not in files:
            stale.unlink()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    click.echo(f"{len(files)} schemas in {folder}")
    return 0


def _check(folder: Path, files: dict[str, str]) -> int:
    there = {p.name: p.read_text(encoding="utf-8") for p in folder.glob("*.schema.json")}
    stale = sorted(name for name in {*files, *there} if files.get(name) != there.get(name))
    if stale:
        raise UsageError(
            f"stale: {', '.join(stale)}", where=str(folder), fix=f"finery schema --all {folder}"
        )
    return 0
