"""`finery synth`: the templates of prompts, to edit."""

import click

from finery import UsageError, did_you_mean


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
    known = templates()
    template = known.get(name) or known.get(f"synth.{name}")
    if template is None:
        raise UsageError(f"'{name}' asks with no template", fix=did_you_mean(name, known))
    return template


def templates() -> dict[str, str]:
    """Step type → its template; `judge` is that check's, `pairs` that of pairs in `synth.judge`,
    `context` the one that `synth.from_docs` puts a question and its context into."""
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
