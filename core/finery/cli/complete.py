"""Shell completion: recipes, steps and step types. docs/reference/recipe.md has the set-up.

Nothing here may fail or print: the caller is a shell.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from finery.cli.targets import RECIPE, names_recipe, steps_in


def complete_words(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Recipes, and the steps of the recipe that the words before name."""
    if os.sep in incomplete:
        return [CompletionItem(incomplete, type="file")]
    named = _recipe_of(ctx) is not None
    return [*([] if named else _recipes(incomplete)), *complete_steps(ctx, param, incomplete)]


def complete_steps(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The steps of the recipe that the words before name."""
    steps = steps_in(_recipe_of(ctx) or Path(RECIPE))
    return [CompletionItem(n, help=use) for n, use in steps.items() if n.startswith(incomplete)]


def complete_types(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Plugins and step types that are installed, and recipes."""
    from finery.plugin.manager import load_plugins

    plugins = load_plugins()
    plugins.are_broken_reported = True
    names = [*(plugin.name for plugin in plugins.plugins), *sorted(plugins.step_types)]
    types = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return [*types, *_recipes(incomplete)]


def _recipe_of(ctx: click.Context) -> Path | None:
    """The recipe that the words before name."""
    option = ctx.params.get("recipe")
    words = [str(option)] if option else [str(word) for word in ctx.params.get("words") or ()]
    named = next((Path(word) for word in words if option or names_recipe(word)), None)
    return named / RECIPE if named is not None and named.is_dir() else named


def _recipes(incomplete: str) -> Iterator[CompletionItem]:
    """Recipe files here, and folders with a recipe."""
    for entry in sorted(os.scandir("."), key=lambda entry: entry.name):
        is_recipe = entry.name.endswith((".yaml", ".yml")) and entry.is_file()
        if entry.name.startswith(incomplete) and (
            is_recipe or os.path.exists(os.path.join(entry.name, RECIPE))
        ):
            yield CompletionItem(entry.name, help="recipe")
