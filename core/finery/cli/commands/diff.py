"""`finery diff A B`: what differs between two builds, or between a build and the recipe."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import click

from finery.cli.console import print_json
from finery.cli.options import json_option, matrix_option
from finery.cli.targets import RECIPE, names_recipe, recipe_file
from finery.errors import UsageError


@click.command("diff")
@click.argument("words", nargs=-1, metavar="[RECIPE] [A] [B]")
@click.option(
    "--recipe", "-r", type=click.Path(path_type=Path),
    help=f"The recipe, if it isn't an argument. [default: {RECIPE}]",
)  # fmt: skip
@matrix_option
@click.option(
    "--flips", type=click.IntRange(0), default=3, show_default=True, metavar="N",
    help="Number of rows to print of each kind: added rows, answers that are right now, …",
)  # fmt: skip
@json_option
def command(
    words: tuple[str, ...], recipe: Path | None, overrides: tuple[str, ...], flips: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Compare A with B: settings, files, code, packages, rows, scores, answers, curves, time, size.

    Each is a run (its id, `last`, `previous`), a git revision of the recipe, `now`, or a variant of
    a matrix (`r=8`, `sft@r=8`, `winner`). Without B, compare with `now`, and a variant with the
    winner; without both, the last two runs.
    """
    from finery.builder.project import Project
    from finery.cli.diff_view import Comparison, difference_parts
    from finery.cli.views import stdout
    from finery.views.parts import Section
    from finery.views.terminal import print_sections

    file, (first, second) = _targets(words, recipe)
    project = Project(file, overrides)
    compared = Comparison(project.graph, project.store, first, second)
    if not as_json:
        print_sections(stdout(), [Section("", difference_parts(compared, flips))])
    for line in compared.data() if as_json else ():
        print_json(line)


def _targets(words: Sequence[str], recipe: Path | None) -> tuple[Path, tuple[str, str | None]]:
    """(the recipe's file, the two sides). A word that names a recipe that exists is the recipe."""
    from finery.builder.runs import LAST_RUN, PREVIOUS_RUN

    named = (
        word
        for word in words
        if word.endswith((".yaml", ".yml")) or (names_recipe(word) and Path(word).exists())
    )
    recipes = [] if recipe is not None else [*islice(named, 1)]
    sides = [word for word in words if word not in recipes]
    if len(sides) > 2:
        raise UsageError(
            f"diff compares two states, not {len(sides)}: {', '.join(sides)}",
            fix=f"finery diff {sides[0]} {sides[1]}",
        )
    file = recipe_file(recipe or Path(recipes[0] if recipes else RECIPE))
    if not sides:
        return file, (PREVIOUS_RUN, LAST_RUN)
    return file, (sides[0], sides[1] if len(sides) == 2 else None)
