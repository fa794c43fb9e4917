"""`finery fetch`: copy outputs here that only a shared store has."""

import sys
from pathlib import Path

import click

from finery.cli.console import is_terminal, print_result, with_recipe
from finery.cli.options import json_option, matrix_option, recipe_and_optional_step
from finery.errors import UsageError
from finery.util.paths import shown
from finery.util.text import counted, size


@click.command("fetch")
@recipe_and_optional_step
@matrix_option
@json_option
def command(recipe: Path, step: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Copy the outputs of RECIPE or of STEP from the shared store to this machine.

    A build leaves outputs there that other steps use, see --fetch of finery build.
    """
    from finery.builder.outputs import OutputLinks, build_folder
    from finery.builder.project import Project
    from finery.cli.commands.show import check_step
    from finery.config import load_config

    load_config(recipe)  # raises if the shared store isn't allowed
    project = Project(recipe, overrides)
    graph, shared = project.graph, project.store.shared
    name, _, output = (step or "").partition(".")
    if name:
        check_step(graph, name, output)
        result = project.with_shared.get(name) or project.result(name)[0]
        outputs = {name: result.outputs}
    else:
        outputs = {each: result.outputs for each, result in project.with_shared.items()}
    if not outputs:
        raise UsageError("nothing is built yet", fix=with_recipe("finery build"))
    manifests = [m for by_name in outputs.values() for m in by_name.values()]
    blobs = [blob for missing in shared.missing(manifests).values() for blob in missing]
    total = sum(blob.size for blob in blobs)
    if total and is_terminal(sys.stderr):
        bar = click.progressbar(length=total, label="fetching", file=sys.stderr)
        bar.hidden = True  # until bytes arrive: without a connection there are none

        def count(number: int) -> None:
            bar.hidden = bar.hidden and not number
            bar.update(number)

        with bar:
            shared.bring(manifests, count)
    else:
        shared.bring(manifests)
    folder = build_folder(graph.recipe)
    links = OutputLinks(project.store, folder, {}, graph.recipe.argument)
    for each, by_name in outputs.items():
        links.link(each, by_name)
    fetched = f"fetched {counted(len(blobs), 'file')}, {size(total)}"
    text = f"{fetched if blobs else 'all files are here'}: {shown(folder / name)}"
    data = {"steps": [*outputs], "files": len(blobs), "bytes": total}
    print_result(data, text, as_json=as_json)
