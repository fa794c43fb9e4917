"""`finery synth`: the templates of prompts, to edit."""

import click

from finery import UsageError, did_you_mean
from finery_synth.ask import defaults


@click.group("synth")
def command() -> None:
    """Look at what generators ask."""


@command.command("prompt")
@click.argument("name", metavar="TYPE")
def prompt(name: str) -> None:
    """Print the template that a step type (or the check `judge`) asks with, to edit.

    finery synth prompt synth.paraphrase > prompts/paraphrase.jinja, and in the recipe
    prompt: prompts/paraphrase.jinja.
    """
    click.echo(template_of(name), nl=False)


def template_of(name: str) -> str:
    """The default template of a step type or check."""
    known = defaults.of_types()
    found = known.get(name) or known.get(f"synth.{name}")
    if found is None:
        raise UsageError(f"'{name}' asks with no template", fix=did_you_mean(name, known))
    return found
