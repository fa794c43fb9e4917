"""`finery card STEP`: the model card of a built model."""

from pathlib import Path

import click

from finery import UsageError
from finery.cli.options import matrix_option, recipe_and_step


@click.command("card")
@recipe_and_step
@matrix_option
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the card to a file instead of the terminal.",
)
@click.option(
    "--repo",
    metavar="OWNER/NAME",
    help="The repository in the card's title and commands. "
    "[default: that of a hub.push of the model, else OWNER/<recipe>]",
)
def command(
    step: str, recipe: Path, overrides: tuple[str, ...], output: Path | None, repo: str | None
) -> None:
    """Print the model card of STEP, a built model or a hub.push.

    The card of a model has all its evaluations that are built. That of a hub.push is the one that
    it pushes.
    """
    from finery import Project, shown
    from finery_hub.card.built import card_of

    text = card_of(Project(recipe, overrides), step, repo)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"can't be written: {error.strerror}", where=str(output)) from error
    click.echo(f"card of {step}: {shown(output)}")
