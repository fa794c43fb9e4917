"""`finery synth`: the default prompt templates."""

import click

from finery import UsageError
from finery.util.text import did_you_mean


@click.group("synth")
def command() -> None:
    """Show the prompts of generators."""


@command.command("prompt")
@click.argument("name", metavar="TYPE")
def prompt(name: str) -> None:
    """Print the default prompt template of a step type, or of the check `judge`.

    To edit it, run finery synth prompt synth.paraphrase > prompts/paraphrase.jinja, and set
    prompt: prompts/paraphrase.jinja in the recipe.
    """
    click.echo(template_of(name), nl=False)


def template_of(name: str) -> str:
    """The default template of a step type or check."""
    known = templates()
    template = known.get(name) or known.get(f"synth.{name}")
    if template is None:
        raise UsageError(f"'{name}' has no prompt template", fix=did_you_mean(name, known))
    return template


def templates() -> dict[str, str]:
    """Step type → its template.

    `judge` is the template of that check, `pairs` of pairs in `synth.judge`, and `context` of rows
    with a context in `synth.from_docs`.
    """
    from finery_synth.contexts import CONTEXT_PROMPT
    from finery_synth.judge.pairs import PAIR_PROMPT
    from finery_synth.judge.scores import SCORE_PROMPT
    from finery_synth.steps import answer, from_docs, instruct, paraphrase, preferences

    generators = (
        answer.Answer,
        from_docs.FromDocs,
        paraphrase.Paraphrase,
        instruct.Instruct,
        preferences.Preferences,
    )
    return {
        **{generator.USE: generator.DEFAULT_PROMPT for generator in generators},
        f"{instruct.Instruct.USE}.text": instruct.TEXT_TEMPLATE,
        "synth.judge": SCORE_PROMPT,
        "judge": SCORE_PROMPT,
        "pairs": PAIR_PROMPT,
        "context": CONTEXT_PROMPT,
    }
