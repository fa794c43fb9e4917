"""`finery cache`: what the store contains, how large it is, how to make room and to check it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finery.cli.console import print_json, print_progress, print_result, print_wrapped
from finery.cli.options import json_option, recipe_and_optional_step
from finery.cli.targets import RECIPE, names_recipe, recipe_file
from finery.errors import RemoteError, UsageError
from finery.store.uses import JOB
from finery.util.text import counted, did_you_mean, size, some_of, visible

if TYPE_CHECKING:
    from finery.store.database import Store

SIZES = "sizes"
"""The command that `finery cache` is without another word."""


class _Default(click.Group):
    """A group whose first word may also be a recipe."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = next((arg for arg in args if not arg.startswith("-")), None)
        is_recipe = named is None or (named not in self.commands and names_recipe(named))
        if is_recipe and not {"-h", "--help"} & {*args}:
            args = [SIZES, *args]
        elif named is not None and named not in self.commands:
            raise UsageError(
                f"'{named}' is neither a command of finery cache nor a recipe",
                fix=did_you_mean(named, self.commands),
            )
        return super().parse_args(ctx, args)


@click.group("cache", cls=_Default)
def command() -> None:
    """Show how large the store is, make room, and check it.

    Without another word, `finery cache [RECIPE]` prints the sizes by recipe and step.
    """


@command.command(SIZES)
@click.argument("recipe", required=False, type=click.Path(path_type=Path), metavar="[RECIPE]")
@json_option
def sizes(recipe: Path | None, as_json: bool) -> None:
    """Print the sizes by recipe and step.

    A file that several results share is counted once, for the step that made it.
    """
    from finery.builder.garbage import blob_sizes, blobs_in, own_bytes, take_stock
    from finery.cli.views import stdout
    from finery.recipe.document import load
    from finery.store.catalogue import Catalogue
    from finery.util.files import size_of
    from finery.views.parts import Quantity, Table
    from finery.views.terminal import print_part

    store, keep = _store(recipe)
    stock = take_stock(store, keep)
    on_disk = {blob.digest: blob.size for blob in blobs_in(store)}
    total = sum(on_disk.values())
    present = {*on_disk}
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for key, held in own_bytes(store, stock, on_disk).items():
        owner, outputs = stock.owner(key), stock.results[key]
        line = lines.setdefault(owner[:2], {
            "recipe": owner.recipe, "step": owner.step, "kinds": [], "results": 0, "bytes": 0,
            "removable": 0, "used": owner.used, "elsewhere": 0,
        })  # fmt: skip
        line["kinds"] = sorted({*line["kinds"], *(m.kind for m in outputs.values())})
        line["results"] += 1
        line["bytes"] += held
        line["elsewhere"] += not present.issuperset(blob_sizes(outputs))
        line["removable"] += 0 if key in stock.needed else held
        line["used"] = max(line["used"], owner.used)
    ordered = sorted(lines.values(), key=lambda line: (line["recipe"], -line["bytes"]))
    if recipe is not None:
        name = load(recipe_file(recipe)).name
        ordered = [line for line in ordered if line["recipe"] == name]
    count, answered = Catalogue(store).answers()
    folders = {
        path.name: size_of(path)
        for path in store.root.iterdir()
        if path.is_dir() and path.name not in ("objects", "uses")
    } | {"database": sum(size_of(path) for path in store.root.glob("finery.db*"))}
    rest = {"unfinished": sum(on_disk.values()), **folders}
    total += sum(folders.values())
    if as_json:
        for line in ordered:
            print_json(line)
        print_json({"folders": rest, "bytes": total, "answers": count, "answer_bytes": answered})
        return
    for name, group in groupby(ordered, lambda line: str(line["recipe"])):
        table = [(Quantity(line["bytes"], "bytes"), *_size_row(line)) for line in group]
        held = sum(int(row[0].value) for row in table)
        title = visible(name) or "of no recorded build"
        click.echo(f"{click.style(title, bold=True)}  {size(held)}")
        print_part(stdout(), Table([""] * 5, table))
    words = {
        "unfinished": "files without a result", "work": "scratch and checkpoints",
        "runs": "logs of builds", "environments": "environments of steps",
        "views": "links and manifests", "pinned": "rows of queries",
        "database": f"database, with {counted(count, 'answer')} of models ({size(answered)})",
    }  # fmt: skip
    click.echo()
    _print_sizes((held, words.get(name, name)) for name, held in rest.items() if held)
    click.secho(f"{size(total):>10}  in {visible(str(store.root))}", bold=True)
    removable = sum(line["removable"] for line in ordered) + rest["unfinished"]
    if removable:
        text = f"finery cache gc removes about {size(removable)}, which no recent build needs"
        print_wrapped("", text, hang=0, dim=True)


def _size_row(line: Mapping[str, Any]) -> tuple[str, str, str, str]:
    used = f"used {line['used'][:10]}" if line["used"] else ""
    if line["elsewhere"] == line["results"]:
        used = "shared store"
    kinds = ", ".join(line["kinds"])
    return line["step"] or "(unknown)", kinds, counted(line["results"], "result"), used


def _print_sizes(lines: Iterable[tuple[int, str]]) -> None:
    for held, text in lines:
        click.echo(f"{size(held):>10}  {text}")


@command.command("gc")
@click.argument("recipe", required=False, type=click.Path(path_type=Path), metavar="[RECIPE]")
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
@click.option(
    "--keep", type=click.IntRange(1), help="Builds of each recipe to keep. [default: 3, or `keep` "
    "of finery.toml]",
)  # fmt: skip
@click.option(
    "--answers", is_flag=True,
    help="Also remove all stored answers of models. Asking again may cost money.",
)  # fmt: skip
@click.option(
    "--shared", type=click.FloatRange(0, min_open=True), metavar="DAYS",
    help="Instead, remove from the shared store what was pushed longer ago than that.",
)  # fmt: skip
@json_option
def collect_garbage(
    recipe: Path | None, dry_run: bool, keep: int | None, answers: bool, shared: float | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Remove what no recent or running build needs.

    It keeps the last builds of each recipe, and what each of its steps made last. Pinned results
    and the answers of models stay. RECIPE only names the project.
    """
    if shared is not None:
        if keep is not None or answers:
            raise UsageError(
                "the shared store goes by age alone", where="--shared",
                fix=f"remove {'--answers' if answers else '--keep'}, or --shared",
            )  # fmt: skip
        _expire(recipe, shared, dry_run=dry_run, as_json=as_json)
        return
    from finery.builder.garbage import collect
    from finery.config import settings_in_force
    from finery.execute.routing import earlier_jobs
    from finery.plugin.manager import load_plugins

    store, number = _store(recipe, keep=keep)
    jobs = [*(store.root / "work").glob(f"*{JOB}")]
    settings = settings_in_force(recipe and recipe_file(recipe), reads=True) if jobs else []
    not_removed = []
    for job in earlier_jobs(store, settings, load_plugins(())) if jobs else ():
        if not job.is_over:
            not_removed.append(str(job))
        elif not dry_run:
            job.folder.remove()
    try:
        collected = collect(
            store, number, answers=answers, dry_run=dry_run, progress=print_progress
        )
    finally:
        print_progress("")
    if as_json:
        steps = [
            {"recipe": owner.recipe, "step": owner.step, "results": count, "bytes": held}
            for owner, (count, held) in collected.steps.items()
        ]
        print_json(asdict(collected) | {"bytes": collected.bytes(), "steps": steps})
        return
    verb = "would remove" if dry_run else "removed"
    removed = sorted(collected.steps.items(), key=lambda item: -item[1][1])
    names = [visible(f"{o.recipe} {o.step}".strip()) or "of no recorded build" for o, _ in removed]
    counts = [
        *((of, name, "result") for name, (_, of) in zip(names, removed, strict=True)),
        (collected.unfinished, "without a result", "file"),
        (collected.scratch, "scratch and checkpoints", "unfinished step"),
        (collected.environments, "that no recipe.lock names", "environment"),
        (collected.runs, "logs", "old build"),
        (collected.pinned, "rows of queries", "pin"),
        (collected.answers, "of models", "answer"),
    ]
    _print_sizes((held, f"{label}: {counted(n, noun)}") for (n, held), label, noun in counts if n)
    text = f"{verb} {size(collected.bytes())}; {size(collected.kept)} of files stay"
    click.secho(text[0].upper() + text[1:], bold=True)
    if collected.is_disturbed and (not_removed or collected.builds > len(jobs)):
        leftovers = "links and answers" if answers else "links"
        text = f"a build is running, so {leftovers} stay: run it again when it has ended"
        if collected.builds <= len(jobs):
            text = f"{leftovers} stay, since jobs of earlier builds may run:"
        print_wrapped("", text, hang=0, dim=True)
        for words in not_removed:
            click.secho(f"  {words}", dim=True)


def _expire(recipe: Path | None, days: float, *, dry_run: bool, as_json: bool) -> None:
    """Remove old results from the shared store, and say what was removed."""
    from finery.config import load_config
    from finery.store.objects import open_objects, public_url
    from finery.store.remote import expire

    config = load_config(recipe_file(recipe) if recipe is not None else None)
    remote = config.remote
    if not remote:
        raise UsageError(
            "there is no shared store", where="--shared", fix="set remote in finery.toml"
        )
    try:
        with config.placing():
            objects = open_objects(remote)
        expired = expire(objects, days, dry_run=dry_run, progress=print_progress)
    except RemoteError as error:
        error.what = f"the shared store {public_url(remote)} can't be cleared: {error.what}"
        error.fix = (
            error.fix
            or "check the connection and the permissions: s3:ListBucket, "
            "s3:GetObject and s3:DeleteObject"
        )
        raise
    finally:
        print_progress("")
    verb = "Would remove" if dry_run else "Removed"
    results, kept = counted(expired.results, "result"), counted(expired.kept, "result")
    text = f"{verb} {results} and {size(expired.bytes)} from {public_url(remote)}; {kept} stay"
    data = {"remote": public_url(remote), **expired._asdict()}
    print_result(data, click.style(text, bold=True), as_json=as_json)


@command.command("pin")
@recipe_and_optional_step
@json_option
def pin(recipe: Path, step: str | None, as_json: bool) -> None:
    """Keep a result, whatever is built later.

    It is the current one of STEP, or those of all steps that are built.
    """
    from finery.builder.project import Project
    from finery.store.catalogue import Catalogue

    project = Project(recipe)
    if step is not None:
        project.graph.require(step)
    keys = {}
    for name in [step] if step is not None else project.graph.nodes:
        try:
            keys[project.result(name)[0].key] = f"{project.graph.recipe.name} {name}"
        except UsageError:
            if step is not None:
                raise
    Catalogue(project.store).pin(keys)
    names = [*keys.values()]
    print_result({"pinned": names}, f"pinned {some_of(names)}", as_json=as_json)


@command.command("unpin")
@recipe_and_optional_step
@json_option
def unpin(recipe: Path, step: str | None, as_json: bool) -> None:
    """Undo `finery cache pin`.

    Also for earlier results of STEP, or of all steps.
    """
    from finery.builder.project import open_graph
    from finery.recipe.document import load
    from finery.store.catalogue import Catalogue

    catalogue, start = Catalogue(_store(recipe)[0]), f"{load(recipe).name} {step or ''}"
    pins = catalogue.pins().items()
    gone = {k: v for k, v in pins if v == start or (step is None and v.startswith(start))}
    if step is not None and not gone:
        open_graph(recipe).require(step)
    catalogue.unpin(gone)
    text = f"unpinned {counted(len(gone), 'result')}"
    print_result({"unpinned": [*gone.values()]}, text, as_json=as_json)


@command.command("verify")
@click.argument("recipe", required=False, type=click.Path(path_type=Path), metavar="[RECIPE]")
@json_option
def check(recipe: Path | None, as_json: bool) -> int:
    """Check every file, record and link, and repair damage.

    Steps whose output was damaged run again. Exit code 1 if there was damage. RECIPE only names
    the project.
    """
    from finery.builder.garbage import repair

    store, _ = _store(recipe)
    is_damaged = False
    for text in repair(store, print_progress):
        is_damaged = True
        print_progress("")
        if as_json:
            print_json({"damage": text})
        else:
            print_wrapped(f"{click.style('damaged:', fg='red')} ", visible(text), hang=2)
    print_progress("")
    if not is_damaged and not as_json:
        click.secho("every file, record and link is as it should be", fg="green")
    return int(is_damaged)


def _store(recipe: Path | None, **options: Any) -> tuple["Store", int]:
    """The store of a recipe or of the current folder, and `keep`."""
    from finery.config import load_config
    from finery.store.database import Store
    from finery.util.paths import shown, store_folder

    path = recipe_file(recipe) if recipe is not None else Path(RECIPE)
    root = store_folder(path)
    if not root.is_dir():
        raise UsageError(f"there is no store {shown(root)}", fix="name a recipe that was built")
    return Store(root), load_config(path, reads=True, **options).keep
