"""`finery export`: an output as plain files, or a build as one file that `finery import` reads."""

import os
import shlex
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finery.cli.console import is_terminal, print_json, print_note, print_result, with_recipe
from finery.cli.options import json_option, matrix_option, recipe_step_and_folder
from finery.errors import DISK_FULL, UsageError
from finery.util.events import new_run_id
from finery.util.paths import plain_path, shown
from finery.util.text import a_or_an, counted, size, some_of, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from finery.artifact.manifest import Manifest
    from finery.builder.project import Project
    from finery.store.copies import Progress

SHOWN_FROM = 256 << 20
"""Minimum size in bytes for which the progress is shown."""


@click.command("export")
@recipe_step_and_folder
@matrix_option
@click.option(
    "--bundle", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Instead, write the build of the recipe, or STEP and what it needs, to FILE, for "
    "`finery import` on a machine without a network.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Write into DIR even if it isn't empty.")
@click.option(
    "--with-base", is_flag=True,
    help="Also copy the models that the output can't be used without, e.g. the base of an adapter "
    "to DIR/base.",
)  # fmt: skip
@json_option
def command(
    step: str | None, folder: Path | None, recipe: Path, bundle: Path | None,
    overrides: tuple[str, ...], force: bool, with_base: bool, as_json: bool,
) -> None:  # fmt: skip
    """Copy the output of STEP to DIR as plain files, or write a build to one file.

    Several outputs get a folder each in DIR.
    """
    from finery.builder.project import Project
    from finery.cli.commands.show import check_step
    from finery.compare.outputs import titled

    project = Project(recipe, overrides)
    graph = project.graph
    if bundle is not None:
        _export_bundle(project, step, bundle, as_json=as_json)
        return
    assert step is not None
    assert folder is not None
    name, _, chosen = step.partition(".")
    check_step(graph, name, chosen)
    result, fresh = project.result(name)
    if not fresh:
        text = "not up to date: this is the output of the last build (see `finery plan`)"
        click.secho(with_recipe(text), fg="yellow", err=True)
    outputs = titled(name, result.outputs)
    if chosen:
        outputs = {step: project.output(result, name, chosen)}
    copy_out(project, outputs, folder, force=force, with_base=with_base, as_json=as_json)


def copy_out(
    project: "Project", outputs: "Mapping[str, Manifest]", folder: Path, *, force: bool,
    with_base: bool, as_json: bool,
) -> None:  # fmt: skip
    """Copy outputs to a folder as plain files, and print what was copied. outputs: by title."""
    from finery.store.copies import check_target, copy_files, files_of, put_in_place

    graph, store = project.graph, project.store
    target = Path(os.path.realpath(folder))
    check_target(store, target, force=force)
    files = {title: files_of(store, m, references=with_base) for title, m in outputs.items()}
    for title, files_of_output in files.items():
        if not files_of_output:
            kind, format_ = outputs[title].kind, outputs[title].meta.get("format")
            subject = a_or_an(f"{kind} of the format '{format_}'" if format_ else kind)
            fix = "add --with-base to copy the models that it uses"
            raise UsageError(
                f"'{title}' has no files of its own to copy: it is {subject}",
                fix=fix if outputs[title].refs else None,
            )
    places = {t: t.partition(".")[2] if len(files) > 1 else "" for t in files}
    # In a folder that exists, which may be on a disk of its own, or have only itself writable.
    beside = target if target.is_dir() else target.parent
    staged = beside / f".{target.name}.{os.getpid()}.partial"
    try:
        placed = [
            f._replace(name=Path(places[t], f.name).as_posix())
            for t, files_of_output in files.items()
            for f in files_of_output
        ]
        with _progress(sum(file.size for file in placed)) as progress:
            copy_files(placed, staged, progress)
        notes: dict[str, list[str]] = {}
        for title, manifest in outputs.items():
            complete = graph.plugins.copy_completer(str(manifest.meta.get("format", "")))
            artifact, place = store.artifact(manifest), target / places[title]
            refs = {role: place / role for role in manifest.refs} if with_base else {}
            copy = staged / places[title]
            notes[title] = complete(title, artifact, copy, refs) if complete else []
        put_in_place(staged, target)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        named = error.filename or folder
        raise UsageError(f"can't be copied: {error.strerror}", where=str(named)) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    for title, files_of_output in files.items():
        place, total = target / places[title], sum(file.size for file in files_of_output)
        if as_json:
            print_json({
                "name": title, "path": str(place), "files": len(files_of_output), "bytes": total,
                "notes": notes[title],
            })  # fmt: skip
            continue
        text = f"{title}: {counted(len(files_of_output), 'file')}, {size(total)}, in {shown(place)}"
        click.echo("\n  ".join([text, *notes[title]]))


def _export_bundle(project: "Project", step: str | None, file: Path, *, as_json: bool) -> None:
    """Write a build as one file. Raises `UsageError` where a step isn't built."""
    from finery.builder.bundle import make_bundle, write_bundle
    from finery.builder.plan import Planner, make_plan
    from finery.util.installed import version_of
    from finery.util.paths import project_folder

    graph, store = project.graph.select([step.partition(".")[0]] if step else []), project.store
    if not store.read_only:
        store.hold(new_run_id())
    results = {p.node.name: p.result for p in make_plan(Planner(graph, store), without_files=True)}
    built = {name: result for name, result in results.items() if result is not None}
    if len(built) < len(results):
        built = {name: r for name, r in project.with_shared.items() if name in results}
    if missing := [name for name in results if name not in built]:
        raise UsageError(
            f"isn't built for this recipe: {some_of(missing)}",
            fix=f"finery build {graph.recipe.argument}".strip(),
        )
    file_ = plain_path(graph.recipe.path)
    place = str(file_.relative_to(project_folder(file_)))  # wherever the store is
    bundle = make_bundle(graph.recipe.name, place, built, store, version_of("finery") or "")
    total = sum(bundle.blobs().values())
    staged = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with staged.open("xb") as out, _progress(total) as progress:
            write_bundle(bundle, store, out, progress)
            os.fsync(out.fileno())
        staged.replace(file)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        fix = f"create its folder: mkdir -p {shown(file.parent)}"
        fix = fix if isinstance(error, FileNotFoundError) else "name a file in another folder"
        raise UsageError(f"can't be written: {error.strerror}", where=str(file), fix=fix) from error
    finally:
        staged.unlink(missing_ok=True)
    left = [name for name in built if name not in bundle.steps]
    if as_json:
        print_json({"bundle": str(file), "steps": [*bundle.steps], "left_out": left,
                    "files": len(bundle.blobs()), "bytes": total})  # fmt: skip
        return
    click.echo(f"{shown(file)}: {counted(len(bundle.steps), 'step')}, {size(total)}")
    if left:
        text = f"not in it, since their files are outside of the store: {', '.join(left)}"
        print_note(text, "have the same files at the same paths on the other machine")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
def import_command(file: Path, as_json: bool) -> None:
    """Put the results of FILE, which `finery export --bundle` wrote, into the store here.

    A build of the same recipe then runs nothing. Like a plugin, a bundle must come from someone you
    trust: finery checks that it is whole, not that its outputs are right.
    """
    from finery.builder.bundle import read_bundle
    from finery.cli.targets import RECIPE
    from finery.store.database import Store
    from finery.util.paths import store_folder

    store = Store(store_folder(Path(RECIPE)))
    with _progress(file.stat().st_size) as progress:
        bundle = read_bundle(file, store, progress)
    total = sum(bundle.blobs().values())
    steps = counted(len(bundle.steps), "step")
    text = f"{visible(bundle.recipe)}: {steps}, {size(total)}, into {shown(store.root)}"
    text += f"\nbuild it: finery build {shlex.quote(visible(bundle.path))}"
    data = {"recipe": bundle.recipe, "path": bundle.path, "steps": [*bundle.steps]}
    print_result(data | {"bytes": total}, text, as_json=as_json)


@contextmanager
def _progress(total: int) -> "Iterator[Progress]":
    """A bar on the terminal while much is copied."""
    if total < SHOWN_FROM or not is_terminal(sys.stderr):
        yield lambda done, total: None
        return
    with click.progressbar(length=total, label="copying", file=sys.stderr) as bar:
        yield lambda done, total: bar.update(done - bar.pos)
