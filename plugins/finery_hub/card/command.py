"""`finery card STEP`: the model card of a built model, or of a step that pushes."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finery import UsageError
from finery.advanced import did_you_mean, matrix_option, recipe_and_step

if TYPE_CHECKING:
    from finery.advanced import Graph, Project, Results
    from finery_hub.push.step import HubPush

Place = tuple[str, str]
"""(step, output)."""


@click.command("card")
@recipe_and_step
@matrix_option
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the card to a file instead of the terminal.",
)
@click.option(
    "--repo",
    metavar="OWNER/NAME",
    help="The repository in the card's title and commands. "
    "[default: that of a hub.push of the model, else OWNER/<recipe>]",
)
def command(
    step: str, recipe: Path, overrides: tuple[str, ...], output: Path | None, repo: str | None
) -> None:
    """Print the model card of STEP, a built model or a hub.push.

    The card of a model has all its evaluations that are built. That of a hub.push is the one that
    it pushes.
    """
    from finery.advanced import Project, shown

    text = card_of(Project(recipe, overrides), step, repo)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"can't be written: {error.strerror}", where=str(output)) from error
    click.echo(f"card of {step}: {shown(output)}")


def card_of(project: "Project", step: str, repo: str | None = None) -> str:
    """The card of a step, or of one output. Raises `UsageError` where it isn't built."""
    from finery_hub.client import missing
    from finery_hub.push.step import HubPush

    if find_spec("huggingface_hub") is None:
        raise missing("finery card", "huggingface-hub")
    name, _, output = step.partition(".")
    graph = project.graph
    graph.require(name)
    results = project.results()
    push = graph.nodes[name].step
    if isinstance(push, HubPush):
        return _card_of_push(graph, results, name, push)
    return _card_of_model(graph, results, name, output, repo)


def _card_of_push(graph: "Graph", results: "Results", name: str, push: "HubPush") -> str:
    """The card that was pushed, or that a build would push."""
    from finery import Bundle, Model
    from finery_hub.push.files import README, place
    from finery_hub.push.gather import gather_push

    built = results.artifact(name)
    if built is not None:
        return built.file(README).read_text(encoding="utf-8")
    if push.merge:
        raise UsageError(
            f"the files of '{name}' aren't known before its models are merged",
            fix=f"finery build {graph.recipe.argument}{name} --set export.{name}.dry_run=true",
        )
    node, part = graph.nodes[name], graph.select([name])
    for source in node.sources:
        _require(graph, results, source.ref, (source.step, source.output))
    facts = gather_push(push, name, part, results)
    models, bundles = (
        [_opened(results, s.ref, (s.step, s.output)) for s in node.sources_of(kind)]
        for kind in (Model, Bundle)
    )
    placed = place(models, bundles, push.repo, None)
    files = push.files_of(facts, placed, push.target())
    return next(
        f.source.decode() for f in files if f.path == README and isinstance(f.source, bytes)
    )


def _card_of_model(
    graph: "Graph", results: "Results", name: str, output: str, repo: str | None
) -> str:
    from finery import Model
    from finery_hub.card.card import card
    from finery_hub.card.metadata import Target
    from finery_hub.push.files import place
    from finery_hub.push.gather import gather
    from finery_hub.push.step import HubPush

    kinds = graph.nodes[name].outputs
    if output and output not in kinds:
        known = [known for known in kinds if known]
        raise UsageError(f"step '{name}' has no output '{output}'", fix=did_you_mean(output, known))
    named = [o for o, kind in kinds.items() if issubclass(kind, Model)]
    if not named:
        others = [n for n, node in graph.nodes.items() if Model in node.outputs.values()]
        raise UsageError(f"'{name}' makes no model", fix=f"name a model: {', '.join(others)}")
    wanted = [output] if output else [o for o in named if o] or [""]
    places = {f"{name}.{o}" if o else name: (name, o) for o in wanted}
    for ref, where in places.items():
        _require(graph, results, ref, where)
    pushes = [n.step for n in graph.nodes.values() if isinstance(n.step, HubPush)]
    licenses = {step: text for push in pushes for step, text in push.licenses.items()}
    target = Target(repo or _repo(graph, name), recipe=False)
    facts = gather(name, places, graph, results, licenses)
    models = [_opened(results, ref, where) for ref, where in places.items()]
    placed = place(models, [], target.repo, None)
    return card(facts, placed, [file for p in placed for file in p.files], target)


def _require(graph: "Graph", results: "Results", ref: str, place: Place) -> None:
    """Raise `UsageError` where an output isn't built for the current recipe."""
    if results.artifact(*place) is None:
        raise UsageError(
            f"'{ref}' isn't built, or not up to date",
            fix=f"finery build {graph.recipe.argument}--step {place[0]}",
        )


def _opened(results: "Results", ref: str, place: Place) -> Any:
    artifact = results.artifact(*place)
    assert artifact is not None
    artifact.ref = ref
    return artifact


def _repo(graph: "Graph", name: str) -> str:
    """The repository of a push of the model, or a name to fill in."""
    for node in graph.nodes.values():
        if node.use == "hub.push" and name in [s.step for s in node.sources]:
            return str(getattr(node.step, "repo", ""))
    return f"OWNER/{graph.recipe.name}"
