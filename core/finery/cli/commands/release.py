"""`finery release`: record an output under a tag, list and compare releases, go back to one."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from finery.cli.console import print_json, print_note, print_result
from finery.cli.options import json_option, recipe_and_step
from finery.cli.targets import RECIPE, recipe_file
from finery.errors import UsageError
from finery.util.paths import shown
from finery.util.text import counted, percent, visible
from finery.util.text import size as size_text

if TYPE_CHECKING:
    from finery.builder.project import Project
    from finery.recipe.releases import Release
    from finery.views.parts import Cell, Part
    from finery.views.view import Output, View

MAKE = "make"
"""The command that `finery release` is without another word."""


class _Default(click.Group):
    """A group whose first word may also be a recipe or an output."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = next((arg for arg in args if not arg.startswith("-")), "")
        is_help = args[:1] in ([], ["-h"], ["--help"])
        return super().parse_args(ctx, args if is_help or named in self.commands else [MAKE, *args])


recipe_option = click.option(
    "--recipe", "-r", type=click.Path(path_type=Path), default=Path(RECIPE), show_default=True,
    help="The recipe beside which the releases are.",
)  # fmt: skip


@click.group("release", cls=_Default)
def command() -> None:
    """Record an output as a release, list and compare releases, go back to one.

    Without one of the commands below, `finery release [RECIPE] STEP --as TAG` is `finery release
    make`.
    """


@command.command(MAKE)
@recipe_and_step
@click.option("--as", "tag", metavar="TAG", help="The tag, e.g. production.  [required]")
@click.option("--force", is_flag=True, help="Also if a requirement of the recipe isn't met.")
@json_option
def make(recipe: Path, step: str, tag: str | None, force: bool, as_json: bool) -> None:
    """Record the output of STEP in releases.json beside the recipe, and keep its files.

    It must be built. It is recorded with its digest, the build, the git commit and the scores of
    all evaluations that judged it. A later release under TAG replaces it as the current one.
    """
    from finery.builder.project import Project
    from finery.builder.releases import candidate, check_entry, keep
    from finery.recipe.releases import Releases, check_tag
    from finery.util.events import new_run_id

    if tag is None:
        fix = f"finery release {shlex.quote(step)} --as production"
        raise UsageError("a release needs a tag", where="--as", fix=fix)
    check_tag(tag)
    releases, project = Releases(recipe), Project(recipe)
    project.store.check_writable()
    project.store.hold(new_run_id())
    release, manifests = candidate(project, step, force=force)
    check_entry(project, releases, tag, release)
    is_shared = keep(project, release, manifests)
    current = releases.current(tag)
    is_new = current is None or (current.digest, current.output) != (release.digest, release.output)
    number = releases.add(tag, release) if is_new else len(releases.tags[tag])
    where = "the store and the shared store keep" if is_shared else "the store keeps"
    verb = "released" if is_new else "already released"
    text = f"{verb} {release.output} as {tag} {number}: {release.digest[:12]}; {where} its files"
    data = {"tag": tag, "number": number, "is_new": is_new, "is_shared": is_shared}
    lines = [f"  {visible(step)}: {_scores_of(release, step)}" for step in release.evaluations]
    lines += [f"  not met: {visible(line)}" for line in release.unmet]
    print_result(data | msgspec.to_builtins(release), "\n".join([text, *lines]), as_json=as_json)
    if as_json:
        return
    if is_new:
        print_note(f"commit {shown(releases.path)}, so that others have the release", err=True)
    if release.dirty:
        fix = "commit, build and release again to have one that can be repeated"
        print_note("tracked files differ from the commit that is recorded", fix, err=True)
    if not release.evaluations:
        print_note(f"no evaluation judged {step}, so no score is recorded", err=True)


@command.command("list")
@click.argument("tag", required=False)
@recipe_option
@json_option
def list_releases(tag: str | None, recipe: Path, as_json: bool) -> None:
    """Print the releases under TAG, or of all tags, the current one last."""
    from finery.cli.views import stdout
    from finery.recipe.releases import Releases
    from finery.views.parts import Table, Text
    from finery.views.terminal import print_part

    releases = Releases(recipe_file(recipe))
    if tag is not None:
        releases.numbered(tag)
    elif not releases.tags and not as_json:
        text = f"nothing is released beside {shown(recipe_file(recipe))}"
        print_note(text, "finery release STEP --as production")
    for name, entries in releases.tags.items():
        if tag not in (None, name):
            continue
        if as_json:
            for number, release in enumerate(entries, 1):
                place = {"tag": name, "number": number, "is_current": number == len(entries)}
                print_json(place | msgspec.to_builtins(release))
            continue
        click.secho(visible(name), bold=True)
        rows = [[*_row(str(number), release), ""] for number, release in enumerate(entries, 1)]
        rows[-1][-1] = Text("current", "good")
        print_part(stdout(), Table([""] * len(rows[0]), rows))


def _row(label: str, release: "Release") -> "list[Cell]":
    """The cells of a release. label: its number, or which side it is of two."""
    from finery.views.parts import Text

    words = {step: _scores_of(release, step).partition(", ")[0] for step in release.evaluations}
    scores = (f"{step} {text.partition(' on ')[0]}" for step, text in words.items())
    last = f"again {release.rollback}" if release.rollback else next(scores, "")
    revision = f"{(release.commit or '')[:8]}{' + changes' if release.dirty else ''}"
    date = release.date[:10]
    texts = (release.output, release.digest[:12], date, revision, size_text(release.size), last)
    state = Text("requirements not met", "warning") if release.unmet else ""
    return [label, *map(visible, texts), state]


@command.command("diff")
@click.argument("tag")
@click.argument("first", required=False, type=click.IntRange(1), metavar="[A]")
@click.argument("second", required=False, type=click.IntRange(1), metavar="[B]")
@recipe_option
@click.option(
    "--flips", type=click.IntRange(0), default=3, show_default=True, metavar="N",
    help="Number of rows to print that are better, and that are worse.",
)  # fmt: skip
@json_option
def diff(
    tag: str, first: int | None, second: int | None, recipe: Path, flips: int, as_json: bool
) -> None:
    """Compare release A of TAG with release B, or with the output as it is built now.

    By default, A is the current release. Scores are compared on the rows that both were judged on.
    """
    from finery.builder.project import Project
    from finery.builder.releases import candidate
    from finery.cli.views import context_of, stdout
    from finery.recipe.releases import Releases
    from finery.views.parts import Section, Table, Text
    from finery.views.terminal import print_sections
    from finery.views.view import Detail, comparison_of

    file = recipe_file(recipe)
    releases, project = Releases(file), Project(file)
    before = releases.numbered(tag, first)
    if second is not None:
        after, label = releases.numbered(tag, second), f"{tag} {second}"
    elif before.output.partition(".")[0] not in project.graph.nodes:
        problem = f"the recipe has no '{visible(before.output)}' any more, as it was released"
        raise UsageError(problem, fix=f"compare two releases: finery release diff {tag} A B")
    else:
        (after, _), label = candidate(project, before.output, force=True), "now"
    number = first or len(releases.tags[tag])
    evaluations = [*_evaluations(project, before, after)]
    if as_json:
        print_json(
            {
                "a": msgspec.to_builtins(before) | {"number": number},
                "b": msgspec.to_builtins(after) | {"number": second},
            }
        )
        for view, old, new in evaluations:
            print_json({"evaluation": old.title, "difference": view.difference(old, new)})
        return
    rows = [_row(f"A  {tag} {number}", before), _row(f"B  {label}", after)]
    parts: list[Part] = [Table([""] * len(rows[0]), rows)]
    context = context_of(project.graph, project.store, detail=Detail(flips))
    for view, old, new in evaluations:
        parts.append(Section(old.title, list(comparison_of(view, old, new, context))))
    compared = {old.title for _, old, _ in evaluations}
    for step in [step for step in before.evaluations if step not in compared]:
        text = f"A: {_scores_of(before, step)}; B: {_scores_of(after, step)}. Not compared: "
        parts.append(Section(step, [Text(f"{text}the answers aren't in the store on both sides")]))
    print_sections(stdout(), [Section("", parts)])


def _evaluations(
    project: "Project", before: "Release", after: "Release"
) -> "Iterator[tuple[View, Output, Output]]":
    """(view, before, after) of the evaluations whose answers both still have."""
    from finery.builder.releases import find
    from finery.compare.outputs import output_of, view_of

    graph, store, results = project.graph, project.store, project.with_shared
    built = {m.digest: m for result in results.values() for m in result.outputs.values()}
    for step in [step for step in before.evaluations if step in after.evaluations]:
        digests = [side.evaluations[step].digest for side in (before, after)]
        ends = [m for d in digests if (m := built.get(d) or find(project, d)) is not None]
        if len(ends) == len(digests) and store.shared.reach(ends):
            old, new = (output_of(graph.plugins, store, step, each) for each in ends)
            yield view_of(graph.plugins, new.manifest), old, new


@command.command("rollback")
@click.argument("tag")
@click.option(
    "--to", "number", type=click.IntRange(1), metavar="N",
    help="The number of a release, see `finery release list`. [default: the one before]",
)  # fmt: skip
@click.option(
    "--out", "folder", type=click.Path(path_type=Path), metavar="DIR",
    help="Also copy its files to DIR.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Write into DIR even if it isn't empty.")
@recipe_option
@json_option
def rollback(
    tag: str, number: int | None, folder: Path | None, force: bool, recipe: Path, as_json: bool
) -> None:
    """Make an earlier release of TAG the current one, with the very files that it had.

    It is recorded as a release of its own, so releases.json keeps what happened. After a rollback,
    the next one goes to the release before that.
    """
    from finery.builder.project import Project
    from finery.builder.releases import bring, now
    from finery.cli.commands.export import copy_out
    from finery.recipe.releases import Releases

    file = recipe_file(recipe)
    releases = Releases(file)
    current, number = releases.numbered(tag), number or releases.previous(tag)
    target, number = releases.numbered(tag, number), releases.repeated(tag, number)
    project = Project(file)
    manifest = bring(project, target, tag)
    if folder is not None:
        outputs = {target.output: manifest}
        copy_out(project, outputs, folder, force=force, with_base=False, as_json=as_json)
    is_new = target.digest != current.digest
    if is_new:
        releases.add(tag, msgspec.structs.replace(target, date=now(), rollback=number))
    place = folder or project.store.artifact(manifest).path
    verb = "is" if is_new else "already was"
    text = f"{tag} {verb} {visible(target.output)} {target.digest[:12]} of release {number}"
    data = {"tag": tag, "number": len(releases.tags[tag]), "is_new": is_new, "path": str(place)}
    text = f"{text}: {shown(place)}"
    print_result(data | msgspec.to_builtins(releases.numbered(tag)), text, as_json=as_json)
    if is_new and not as_json:
        print_note(f"commit {shown(releases.path)}; models in recipes that bring it back change "
                   "with the next build", err=True)  # fmt: skip


def _scores_of(release: "Release", step: str) -> str:
    """The scores of an evaluation in words."""
    if step not in release.evaluations:
        return "not judged"
    evaluation = release.evaluations[step]
    words = [f"{metric} {_in_words(score)}" for metric, score in evaluation.scores.items()]
    return visible(f"{', '.join(words)} on {counted(evaluation.rows, 'row')}")


def _in_words(score: list[float]) -> str:
    """A value with its interval."""
    if any(not 0 <= number <= 1 for number in score):
        return f"{score[0]:.4g}"
    ends = f" (95 % CI {100 * score[1]:.1f} – {100 * score[2]:.1f})" if len(score) == 3 else ""
    return f"{percent(score[0])}{ends}"
