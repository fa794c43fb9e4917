"""`[RECIPE] [STEP]`, in either order: which word names the recipe, and which ones steps.

The rule: a word with a `/`, a word that ends in `.yaml` or `.yml`, and the name of a folder with a
`recipe.yaml` in it name the recipe; every other word names a step. A word that could be both names
the recipe, and finery says so. Without a recipe, it is `recipe.yaml` in the working directory.
"""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from finery.cli.console import name_recipe
from finery.errors import FineryError, UsageError
from finery.util.files import check_plain, read_plain
from finery.util.paths import shown

RECIPE = "recipe.yaml"
"""The default recipe, and the recipe of a folder."""


class Target(NamedTuple):
    """The recipe's file, the steps that are named, and how an ambiguous word was read."""

    recipe: Path
    steps: tuple[str, ...]
    note: str = ""


def find_target(
    words: Sequence[str], option: Path | None, command: str, *, takes_step: bool = True
) -> Target:
    """The recipe and the steps that a command line names.

    option: the value of `--recipe`. command: the name of the command, for errors. takes_step:
    whether it accepts steps. Raises `UsageError` if a recipe doesn't exist, or if the words name
    two.
    """
    if option is not None:
        paths = [word for word in words if looks_like_path(word)]
        if paths:
            raise _two_recipes(str(option), paths[0])
        return Target(recipe_file(option), tuple(words))
    candidates = [word for word in words if names_recipe(word)]
    if not candidates:
        return Target(_recipe_here(words, command, takes_step), tuple(words))
    if sum(map(looks_like_path, candidates)) > 1:
        raise _two_recipes(*candidates[:2])
    chosen, *other_words = sorted(candidates, key=lambda word: not _fits(word, words))
    note = _ambiguous(chosen, other_words, words, command)
    return Target(recipe_file(Path(chosen)), _without(words, chosen), note)


def looks_like_path(word: str) -> bool:
    """Whether a word must be a path: a step can't have such a name."""
    return os.sep in word or word.startswith((".", "~")) or word.endswith((".yaml", ".yml"))


def names_recipe(word: str, *, strict: bool = False) -> bool:
    """Whether a word can name a recipe.

    strict: a file or folder that only happens to have that name doesn't count.
    """
    if looks_like_path(word) or os.path.exists(os.path.join(word, RECIPE)):
        return True
    return not strict and os.path.exists(word) and not is_step(word, Path(RECIPE))


def recipe_file(path: Path) -> Path:
    """The file of a recipe that is named by its file or folder. `UsageError` if it is missing."""
    file = Path(os.path.expanduser(path))
    file = file / RECIPE if os.path.isdir(file) else file
    if not os.path.exists(file):
        # Checked here, before a store is created next to a missing recipe.
        near = _near(file.parent)
        name = f"name {shown(near)}" if near else "name one"
        raise UsageError(
            f"there is no recipe {file}", fix=f"{name}, or create one: finery init DIR"
        )
    name_recipe(file)
    return file


def _near(folder: Path) -> Path | None:
    """The only recipe of a folder under another name, or else the nearest one above it."""
    files = [file for file in folder.glob("*.y*ml") if _is_recipe(file)]
    above = (each / RECIPE for each in folder.absolute().parents)
    return files[0] if len(files) == 1 else next(filter(_is_recipe, above), None)


def _is_recipe(path: Path) -> bool:
    try:
        return re.search(rb"(?m)^finery:", read_plain(path, 1 << 20)) is not None
    except OSError:
        return False


def is_step(word: str, recipe: Path) -> bool:
    """Whether a word names a step of a recipe, or an output of a step."""
    name = word.partition(".")[0]
    try:
        check_plain(recipe)
        if name.encode() not in recipe.read_bytes():  # most often, so there is nothing to parse
            return False
    except (OSError, UnicodeEncodeError):
        return False
    return name in steps_in(recipe)


def steps_in(recipe: Path) -> dict[str, str]:
    """Name → step type of each step as written. A broken recipe has none."""
    from finery.recipe.document import load
    from finery.step.inspect import SECTIONS

    try:
        data = load(recipe).data
    except FineryError:
        return {}
    sections = [steps for name in SECTIONS if isinstance(steps := data.get(name), dict)]
    return {
        str(name): str(step.get("use") or "") if isinstance(step, dict) else ""
        for steps in sections
        for name, step in steps.items()
    }


def _recipe_here(words: Sequence[str], command: str, takes_step: bool) -> Path:
    """`recipe.yaml` here, with the steps that the words name."""
    path = Path(RECIPE)
    if words and not takes_step:
        raise UsageError(f"there is no recipe '{words[0]}'", fix=f"finery {command} RECIPE")
    if words and not path.exists():
        near = _near(Path())
        call = shlex.join([shown(near), *words]) if near else "RECIPE STEP"
        raise UsageError(
            f"'{words[0]}' is not a recipe, and there is no {RECIPE} here with a step of that name",
            fix=f"name the recipe: finery {command} {call}",
        )
    return recipe_file(path)


def _fits(recipe: str, words: Sequence[str]) -> bool:
    """Whether the other words name steps of this recipe."""
    path = Path(recipe)
    file = path / RECIPE if path.is_dir() else path
    return looks_like_path(recipe) or all(is_step(w, file) for w in _without(words, recipe))


def _ambiguous(chosen: str, others: Sequence[str], words: Sequence[str], command: str) -> str:
    """A note if the chosen word could also be a step; otherwise empty."""
    if looks_like_path(chosen) or chosen in others:
        return ""
    if others:
        if not _fits(others[0], words):
            return ""
        recipe = others[0]
    elif is_step(chosen, Path(RECIPE)):
        recipe = RECIPE
    else:
        return ""
    call = shlex.join(["finery", command, "-r", recipe, chosen])
    return f"'{chosen}' is read as the recipe {chosen}/{RECIPE}; for the step of that name: {call}"


def _without(words: Sequence[str], word: str) -> tuple[str, ...]:
    """The words without the first one that equals `word`."""
    at = list(words).index(word)
    return (*words[:at], *words[at + 1 :])


def _two_recipes(first: str, second: str) -> UsageError:
    return UsageError(f"two recipes are named: {first} and {second}", fix="name one of them")
