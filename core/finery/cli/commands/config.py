"""`finery config`: the settings of this machine and project."""

import json
import os
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path

import click

from finery.cli.console import print_error, print_json
from finery.cli.options import recipe_words
from finery.config import DEFAULT, NAMES, VARIABLE, Setting, load_config, settings_in_force
from finery.errors import ConsentError, FineryError
from finery.util.text import visible


@click.command("config")
@recipe_words
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@click.option(
    "--allow/--disallow", "allowed", default=None,
    help="Consent to what the project's settings may do, as they are now and in this folder; or "
    "withdraw all consents to this folder.",
)  # fmt: skip
def command(recipe: Path, as_json: bool, allowed: bool | None) -> int:
    """Print the settings in force for RECIPE, where each comes from, and what is wrong with them.

    They come from `finery.toml`. Your own `config.toml` overrides it, variables like FINERY_REMOTE
    override both, and options of a command override all. No setting changes an output.

    Settings of a project that could send data elsewhere need your consent, see --allow.
    """
    if allowed is not None:
        from finery.config import set_consent

        for line in set_consent(recipe, allowed=allowed) or ["nothing"]:
            click.echo(f"{'allowed' if allowed else 'withdrawn'}: {visible(line)}")
        return 0
    from finery.cli.views import stdout
    from finery.recipe.yaml import redact_secrets
    from finery.views.parts import Table, Text, Tone
    from finery.views.terminal import print_part

    errors: list[FineryError] = []
    try:
        settings = settings_in_force(recipe)
    except ConsentError as refusal:
        settings, errors = [*refusal.rest], [refusal]
    if as_json:
        print_json([s._asdict() for s in settings])
    else:
        rows = []
        for s in settings:
            text = "—" if s.value in (None, [], {}) else json.dumps(s.value, ensure_ascii=False)
            tone: Tone = "soft" if s.origin == DEFAULT else ""
            cells = (s.name, redact_secrets(text), s.origin)
            rows.append([Text(cell, tone) for cell in cells])
        print_part(stdout(), Table(["", "", ""], rows))
    for variable in os.environ:
        name = variable.removeprefix(VARIABLE).lower()
        if variable.startswith(VARIABLE) and name not in NAMES:
            for close in get_close_matches(name, NAMES, 1, 0.9):
                suggestion = f"did you mean {VARIABLE}{close.upper()}?"
                click.echo(f"warning: ${variable} isn't a setting; {suggestion}", err=True)
    errors = errors or list(_mistakes(recipe, settings))  # which runs the recipe's plugin files
    for error in errors:
        print_error(error)
    return max((error.exit_code for error in errors), default=0)


def _mistakes(recipe: Path, settings: list[Setting]) -> Iterator[FineryError]:
    """What a build would refuse. Asks no network."""
    from finery.builder.project import plugins_of
    from finery.builder.sharing import signing_keys
    from finery.execute.routing import check_executors
    from finery.recipe.document import load
    from finery.store.objects import open_objects

    config = load_config(recipe)
    if config.signing_key:  # which only a build that pushes reads
        config = load_config(recipe, push=True)

    def check_routes() -> None:
        loaded = load(recipe)
        check_executors(settings, plugins_of(loaded), loaded)

    checks: list[Callable[[], object]] = [
        lambda: open_objects(config.remote) if config.remote else None,
        lambda: signing_keys(config),
        lambda: config.wheels_folder(recipe), check_routes,
    ]  # fmt: skip
    for check in checks:
        try:
            with config.placing():
                check()
        except FineryError as error:
            yield error
