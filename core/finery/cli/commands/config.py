"""`finery config`: the settings of this machine and project."""

import json
from pathlib import Path
from typing import Any

import click

from finery.cli.console import print_json
from finery.cli.options import json_option, recipe_words
from finery.config import DEFAULT, settings_in_force


@click.command("config")
@recipe_words
@json_option
def command(recipe: Path, as_json: bool) -> None:
    """Print the settings in force for RECIPE, and where each comes from.

    They come from `finery.toml`, from your own `config.toml`, from variables like FINERY_REMOTE,
    and from options, later ones first. None of them changes an output.
    """
    settings = settings_in_force(recipe)
    if as_json:
        print_json([s._asdict() for s in settings])
        return
    from finery.recipe.yaml import without_secrets

    wide = max(len(s.name) for s in settings)
    values = [without_secrets(_text(s.value)) for s in settings]
    column = min(max(map(len, values)), 40)
    for setting, value in zip(settings, values, strict=True):
        click.secho(
            f"{setting.name:{wide}}  {value:{column}}  {setting.origin}",
            dim=setting.origin == DEFAULT,
        )


def _text(value: Any) -> str:
    return "—" if value in (None, [], {}) else json.dumps(value, ensure_ascii=False)
