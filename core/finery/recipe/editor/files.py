"""The schema file next to a recipe: its place, and how it stays up to date."""

import os
import re
from pathlib import Path
from typing import Any

import msgspec

from finery.errors import UsageError
from finery.recipe.document import Recipe
from finery.recipe.editor.names import schema_of
from finery.recipe.editor.schema import TITLE
from finery.recipe.steptypes import StepTypes
from finery.util.files import check_plain
from finery.util.paths import shown

MODELINE = "# yaml-language-server: $schema="
"""The form in which the first lines of a recipe name its schema, for editors."""
_NAMED = re.compile(rf"^{re.escape(MODELINE)}(?P<path>\S+)", re.M)


def formatted(schema: object) -> str:
    """A schema as the text of its file."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def schema_file(recipe: Recipe) -> Path:
    """The file for a recipe's schema: the one that its modeline names, or else one next to it.

    A schema outside the recipe's folder belongs to several recipes, so it isn't this one. Nor is
    the schema of another recipe in the folder: a copied recipe has the line of its original.
    """
    named = _NAMED.search(recipe.text)
    path = recipe.folder / named["path"] if named else None
    if (
        path is not None
        and path.resolve().is_relative_to(recipe.folder.resolve())
        and not _is_of_another(path, recipe)
    ):
        return path
    stem = recipe.path.name.removesuffix(".yaml").removesuffix(".yml")
    return recipe.path.with_name(f"{stem}.schema.json")


def _is_of_another(schema: Path, recipe: Recipe) -> bool:
    """Whether a schema is named after another recipe in the same folder."""
    stem = schema.name.removesuffix(".schema.json")
    recipes = [schema.with_name(f"{stem}{suffix}") for suffix in (".yaml", ".yml")]
    return any(path.exists() and not path.samefile(recipe.path) for path in recipes)


def modeline(recipe: Recipe, path: Path) -> str:
    """The line that lets editors find a schema; empty where the recipe has it."""
    line = f"{MODELINE}{os.path.relpath(path, recipe.folder)}"
    return "" if line in recipe.text.splitlines() else line


def write_schema(recipe: Recipe, plugins: StepTypes) -> Path:
    """Write the schema of a recipe. `UsageError` where another file is in the way."""
    path, text = schema_file(recipe), formatted(schema_of(recipe, plugins))
    if path.exists() and not _is_ours(path):
        raise UsageError(
            f"{shown(path)} is not a recipe's schema, and finery doesn't overwrite it",
            fix="move it away, or name another file in the recipe's first line: "
            f"{MODELINE}FILE.schema.json",
        )
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        part = path.with_name(f".{path.name}.part")  # an editor may read the file at any time
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        except OSError as error:
            raise UsageError(f"can't write {shown(path)}: {error.strerror}") from error
    return path


def refresh_schema(recipe: Recipe, plugins: StepTypes) -> None:
    """Update a recipe's schema if it exists and can be written."""
    path = schema_file(recipe)
    if _is_ours(path) and os.access(path, os.W_OK):
        write_schema(recipe, plugins)


def _is_ours(path: Path) -> bool:
    """Whether a file is the schema of a recipe."""
    if not path.is_file():  # reading a pipe may never end
        return False
    try:
        check_plain(path)
        schema: Any = msgspec.json.decode(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(schema, dict) and schema.get("title") == TITLE
