"""`finery export STEP DIR`: an output as plain files, to hand to someone else."""

import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finery.cli.console import is_terminal, print_json, with_recipe
from finery.cli.options import json_option, matrix_option, recipe_and_step
from finery.errors import DISK_FULL, UsageError
from finery.util.paths import shown
from finery.util.text import a_or_an, counted, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finery.store.copies import Progress

SHOWN_FROM = 256 << 20
"""Minimum size in bytes for which the progress is shown."""


@click.command("export")
@recipe_and_step
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@matrix_option
@click.option("--force", is_flag=True, help="Write into DIR even if it isn't empty.")
@click.option(
    "--with-base", is_flag=True,
    help="Also copy the models that the output can't be used without, e.g. the base of an adapter "
    "to DIR/base.",
)  # fmt: skip
@json_option
def command(
    step: str, folder: Path, recipe: Path, overrides: tuple[str, ...], force: bool, with_base: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Copy the output of STEP to DIR, as plain files.

    Several outputs get a folder each in DIR.
    """
    from finery.builder.project import Project
    from finery.cli.commands.show import check_step
    from finery.compare.outputs import output_of, titled, view_of
    from finery.store.copies import check_target, copy_files, files_of, put_in_place

    project = Project(recipe, overrides)
    graph, store = project.graph, project.store
    name, _, chosen = step.partition(".")
    check_step(graph, name, chosen)
    result, fresh = project.result(name)
    if not fresh:
        text = "not up to date: this is the output of the last build (see `finery plan`)"
        click.secho(with_recipe(text), fg="yellow", err=True)
    outputs = titled(name, result.outputs)
    if chosen:
        outputs = {step: project.output(result, name, chosen)}
    target = Path(os.path.realpath(folder))
    check_target(store, target, force=force)
    files = {title: files_of(store, m, references=with_base) for title, m in outputs.items()}
    for title, of in files.items():
        if not of:
            kind, format_ = outputs[title].kind, outputs[title].meta.get("format")
            what = a_or_an(f"{kind} of the format '{format_}'" if format_ else kind)
            fix = "add --with-base to copy the models that it uses"
            raise UsageError(
                f"'{title}' has no files of its own to copy: it is {what}",
                fix=fix if outputs[title].refs else None,
            )
    places = {t: t.partition(".")[2] if len(files) > 1 else "" for t in files}
    # In a folder that exists, which may be on a disk of its own, or have only itself writable.
    beside = target if target.is_dir() else target.parent
    staged = beside / f".{target.name}.{os.getpid()}.partial"
    try:
        placed = [
            f._replace(name=Path(places[t], f.name).as_posix())
            for t, of in files.items()
            for f in of
        ]
        with _progress(sum(file.size for file in placed)) as progress:
            copy_files(placed, staged, progress)
        notes = {}
        for title, manifest in outputs.items():
            view = view_of(graph.plugins, manifest)
            output = output_of(graph.plugins, store, title, manifest)
            place = target / places[title]
            refs = {role: place / role for role in manifest.refs} if with_base else {}
            notes[title] = [*view.complete_copy(output, staged / places[title], refs)]
        put_in_place(staged, target)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        named = error.filename or folder
        raise UsageError(f"can't be copied: {error.strerror}", where=str(named)) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    for title, of in files.items():
        place, total = target / places[title], sum(file.size for file in of)
        if as_json:
            print_json({
                "name": title, "path": str(place), "files": len(of), "bytes": total,
                "notes": notes[title],
            })  # fmt: skip
            continue
        click.echo(f"{title}: {counted(len(of), 'file')}, {size(total)}, in {shown(place)}")
        for note in notes[title]:
            click.echo(f"  {note}")


@contextmanager
def _progress(total: int) -> "Iterator[Progress]":
    """A bar on the terminal while much is copied."""
    if total < SHOWN_FROM or not is_terminal(sys.stderr):
        yield lambda done, total: None
        return
    with click.progressbar(length=total, label="copying", file=sys.stderr) as bar:
        yield lambda done, total: bar.update(done - bar.pos)
