"""`finery synth`: the default prompt templates."""

from pathlib import Path

import click

from finery import UsageError
from finery.advanced import did_you_mean


@click.group("synth")
def command() -> None:
    """Show the prompts of generators."""


@command.command("prompt")
@click.argument("name", metavar="TYPE")
@click.option(
    "--recipe", "-r", type=click.Path(path_type=Path, exists=True),
    help="A recipe whose plugin files have the step type.",
)  # fmt: skip
def prompt(name: str, recipe: Path | None) -> None:
    """Print the default prompt of a generator, or of the check `judge`.

    TYPE is a step type of this or another plugin, or one of synth.instruct.text (with format:
    text), judge, pairs (of synth.judge) and context (of synth.from_docs).

    To edit it, run finery synth prompt synth.paraphrase > prompts/paraphrase.jinja, and set
    prompt: prompts/paraphrase.jinja in the recipe.
    """
    from finery.advanced import Project, load_plugins
    from finery_synth.judges import PAIR_PROMPT, SCORE_PROMPT
    from finery_synth.steps.from_docs import CONTEXT_PROMPT
    from finery_synth.steps.instruct import TEXT_TEMPLATE

    templates = {
        "synth.instruct.text": TEXT_TEMPLATE,
        "synth.judge": SCORE_PROMPT,
        "judge": SCORE_PROMPT,
        "pairs": PAIR_PROMPT,
        "context": CONTEXT_PROMPT,
    }
    if recipe is None:
        plugins = load_plugins()
    else:
        path = recipe / "recipe.yaml" if recipe.is_dir() else recipe
        plugins = Project(path).graph.plugins
    for full in (name, f"synth.{name}"):
        if full not in templates and full in plugins.step_types:
            templates[full] = getattr(plugins.step_type(full), "DEFAULT_PROMPT", "")
        if templates.get(full):
            click.echo(templates[full], nl=False)
            return
    types = (use for use in plugins.step_types if hasattr(plugins.step_type(use), "DEFAULT_PROMPT"))
    raise UsageError(
        f"'{name}' has no prompt template", fix=did_you_mean(name, (*templates, *types))
    )
