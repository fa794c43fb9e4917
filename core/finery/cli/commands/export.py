"""`finery export STEP DIR`: an output as plain files, to hand to someone else."""

import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finery.cli.console import is_terminal, print_json
from finery.cli.options import json_option, matrix_option, recipe_and_step
from finery.errors import DISK_FULL, UsageError
from finery.util.paths import shown
from finery.util.text import a_or_an, counted, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finery.artifact.manifest import Manifest
    from finery.store.copies import Copy, Progress

SHOWN_FROM = 256 << 20
"""Minimum size in bytes for which the progress is shown."""


@click.command("export")
@recipe_and_step
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@matrix_option
@click.option("--force", is_flag=True, help="Write into DIR even if it isn't empty.")
@click.option(
    "--with-base",
    is_flag=True,
    help="Also copy the models that the output can't be used without, e.g. the base of an adapter "
    "to DIR/base.",
)
@json_option
def command(
    step: str,
    folder: Path,
    recipe: Path,
    overrides: tuple[str, ...],
    force: bool,
    with_base: bool,
    as_json: bool,
) -> None:
    """Copy the output of STEP to DIR, as plain files.

    Several outputs get a folder each in DIR.
    """
    from finery.builder.project import built_output, open_graph, open_store, result_of
    from finery.cli.commands.show import check_step
    from finery.cli.views import output_of, titled, view_of
    from finery.store.copies import check_target, copy_files, files_of, put_in_place

    store = open_store(recipe)
    graph = open_graph(recipe, overrides, store)
    name, _, chosen = step.partition(".")
    check_step(graph, name, chosen)
    result, fresh = result_of(graph, store, name)
    if not fresh:
        text = "not up to date: this is the output of the last build (see `finery plan`)"
        click.secho(text, fg="yellow", err=True)
    outputs = titled(name, result.outputs)
    if chosen:
        outputs = {step: built_output(graph, result, name, chosen)}
    target = Path(os.path.realpath(folder))
    check_target(store, target, force=force)
    files = {title: files_of(store, m, references=with_base) for title, m in outputs.items()}
    for title, of in files.items():
        if not of:
            raise _no_files(title, outputs[title])
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
        _print(title, target / places[title], of, notes[title], as_json=as_json)


def _no_files(title: str, manifest: "Manifest") -> UsageError:
    format_ = manifest.meta.get("format")
    what = f"{manifest.kind} of the format '{format_}'" if format_ else manifest.kind
    return UsageError(
        f"'{title}' has no files to copy: it is {a_or_an(what)}",
        fix="add --with-base to copy the models that it uses" if manifest.refs else None,
    )


@contextmanager
def _progress(total: int) -> "Iterator[Progress]":
    """A bar on the terminal while much is copied."""
    if total < SHOWN_FROM or not is_terminal(sys.stderr):
        yield lambda done, total: None
        return
    with click.progressbar(length=total, label="copying", file=sys.stderr) as bar:
        yield lambda done, total: bar.update(done - bar.pos)


def _print(
    title: str, folder: Path, files: "Sequence[Copy]", notes: "Sequence[str]", *, as_json: bool
) -> None:
    total = sum(file.size for file in files)
    if as_json:
        print_json({
            "name": title, "path": str(folder), "files": len(files), "bytes": total, "notes": notes,
        })  # fmt: skip
        return
    click.echo(f"{title}: {counted(len(files), 'file')}, {size(total)}, in {shown(folder)}")
    for note in notes:
        click.echo(f"  {note}")
