"""Arguments and options that several commands share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from finery.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def recipe_argument(function: F) -> F:
    """RECIPE, `recipe.yaml` here by default; a folder stands for the recipe in it."""
    return click.argument(
        "recipe", type=click.Path(path_type=Path), default="recipe.yaml", callback=_as_file
    )(function)


def set_option(function: F) -> F:
    """`--set PATH=VALUE`, any number of times."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="PATH=VALUE",
        help="Override a setting: --set train.sft.epochs=1.",
    )(function)


def json_option(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")(function)


def recipe_option(function: F) -> F:
    """`--recipe RECIPE`, for commands whose argument is a step."""
    return click.option(
        "--recipe", "-r", type=click.Path(path_type=Path), default="recipe.yaml", callback=_as_file,
        help="The recipe. [default: recipe.yaml]",
    )(function)  # fmt: skip


def _as_file(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    path = value / "recipe.yaml" if os.path.isdir(value) else value
    if not os.path.exists(path):
        # Said here, before a store is made beside a recipe that isn't there.
        raise UsageError(f"there is no {path}", fix="name a recipe, or make one: finery init DIR")
    return path
