"""`finery show STEP`: the outputs of a step, for people."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from finery.cli.console import print_json, with_recipe
from finery.cli.options import complete_steps, json_option, matrix_option, recipe_and_optional_step
from finery.errors import UsageError
from finery.util.text import did_you_mean

if TYPE_CHECKING:
    from finery.recipe.graph import Graph
    from finery.store.database import Store

MATRIX = "matrix"
"""Names the variants of a recipe, in place of a step."""


@click.command("show")
@recipe_and_optional_step
@matrix_option
@click.option(
    "--rows", "-n", type=click.IntRange(0), default=3, show_default=True,
    help="Number of rows, or of wrong answers of an evaluator, to print.",
)  # fmt: skip
@click.option(
    "--html", is_flag=False, flag_value="", metavar="[FILE]",
    help="Write an HTML page, e.g. a report on rows or the curves of a training. [default FILE: "
    "next to the outputs, e.g. build/<recipe>/<step>-report.html]",
)  # fmt: skip
@click.option(
    "--tokenizer", metavar="MODEL", shell_complete=complete_steps,
    help="Model whose tokenizer measures row lengths on the page; `none` counts characters. "
    "[default: the model that is trained on the rows, if it is built]",
)  # fmt: skip
@click.option(
    "--model", metavar="NAME",
    help="Of an evaluator: the model whose tables and wrong answers are shown. [default: the best]",
)  # fmt: skip
@click.option(
    "--wrong", is_flag=True,
    help="Of an evaluator: the wrong answers, each with the training rows nearest to it. All of "
    "them, unless -n is given.",
)  # fmt: skip
@click.option(
    "--jsonl", is_flag=True,
    help="With --wrong: a JSON object a line, for a file to label. It has the whole prompt.",
)  # fmt: skip
@click.option(
    "--run", "run_id", metavar="ID",
    help="The output as a build of the past made or found it: an id of `finery runs`, `last` or "
    "`previous`.",
)  # fmt: skip
@click.option(
    "--effective", is_flag=True,
    help="The settings: what was asked, what was used, and why that differs.",
)  # fmt: skip
@click.option("--dropped", is_flag=True, help="All rows that a data step dropped or reported.")
@click.option(
    "--row", "row_id", metavar="ID",
    help="The story of a row, from its source to the answers of models. The beginning of the id is "
    "enough. With STEP, only the events before it.",
)  # fmt: skip
@json_option
def command(
    step: str | None, recipe: Path, overrides: tuple[str, ...], rows: int, html: str | None,
    tokenizer: str | None, model: str | None, wrong: bool, jsonl: bool, run_id: str | None,
    effective: bool, dropped: bool, row_id: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Show the outputs of STEP: rows, scores, model sizes and curves, files.

    Without STEP, list the outputs of all steps. `finery show matrix` shows the variants of a matrix
    with their scores.
    """
    from finery.artifact.kinds import Metrics
    from finery.builder.checks import failed_gates
    from finery.builder.project import Project
    from finery.cli.effective import effective_settings, table_of
    from finery.cli.row_view import story_parts
    from finery.cli.views import overview, print_records, show_outputs, stdout, write_pages
    from finery.compare.outputs import titled
    from finery.lineage.story import story_of
    from finery.views.parts import Section
    from finery.views.terminal import print_sections
    from finery.views.view import Detail

    project = Project(recipe, overrides)
    graph, store = project.graph, project.store
    if step is None and html is not None:  # a step after --html is read as its file
        suggestion = html if html in graph.nodes else "STEP"
        raise UsageError("--html needs a step", fix=f"finery show {suggestion} --html")
    if jsonl and not wrong:
        raise UsageError(
            "--jsonl needs --wrong", where="--jsonl", fix="finery show STEP --wrong --jsonl"
        )
    for option, is_given in (
        ("--dropped", dropped),
        ("--effective", effective),
        ("--model", model is not None),
        ("--wrong", wrong),
        ("--run", run_id is not None),
    ):
        if is_given and (step is None or row_id is not None):
            raise UsageError(
                f"{option} is for the outputs of one step",
                where=option,
                fix=f"finery show STEP {option}",
            )
    if step is None and row_id is None:
        overview(graph, store, as_json=as_json)
        return
    if step == MATRIX and graph.matrix is not None and MATRIX not in graph.nodes:
        _show_matrix(graph, store, as_json=as_json)
        return
    name, _, output = (step or "").partition(".")
    if step is not None:
        check_step(graph, name, output)
    if row_id is not None:
        if html is not None:
            text = "the story of a row has no HTML page"
            raise UsageError(text, where="--html", fix="remove --html")
        if not row_id:
            fix = "write the beginning of a row's id"
            raise UsageError("the id is empty", where="--row", fix=fix)
        story = story_of(graph, store, row_id, step=name, output=output)
        if as_json:
            print_json(story)
        else:
            print_sections(stdout(), [Section("", story_parts(graph, story))])
        return
    if html is None and tokenizer is not None:
        raise UsageError(
            "--tokenizer needs --html", where="--tokenizer", fix=f"finery show {step} --html"
        )
    if run_id is not None:
        from finery.compare.outputs import result_in

        result, fresh = result_in(graph, store, name, run_id), False
    else:
        result, fresh = project.result(name)
    if not fresh and run_id is None:
        text = "not up to date: this is the output of the last build (see `finery plan`)\n"
        click.secho(with_recipe(text), fg="yellow", err=True)
    if effective:
        settings = list(effective_settings(graph.nodes[name].step, result))
        if not as_json:
            print_sections(stdout(), [Section(name, list(table_of(settings)))])
        for setting in settings if as_json else ():
            print_json(setting)
        return
    if output:
        manifests = {f"{name}.{output}": project.output(result, name, output, run_id)}
    else:
        manifests = titled(name, result.outputs)
    pages = {} if html is None else write_pages(graph, store, manifests, html, tokenizer)
    if model is not None and not any(m.kind == Metrics.kind for m in manifests.values()):
        raise UsageError(f"{name} judges no models", where="--model", fix="remove --model")
    detail = Detail(rows, dropped, model)
    if wrong:
        source = click.get_current_context().get_parameter_source("rows")
        max_rows = None if source is click.core.ParameterSource.DEFAULT else rows
        print_records(graph, store, manifests, detail, jsonl=jsonl or as_json, most=max_rows)
        return
    failed = failed_gates(graph.select([name]), store, {name: result}) if fresh else {}
    failure = failed.get(name)
    show_outputs(graph, store, result, manifests, detail, pages, failure, as_json=as_json)


def _show_matrix(graph: "Graph", store: "Store", *, as_json: bool) -> None:
    """The variants with their scores, if they are built for the current recipe."""
    from finery.builder.plan import Planner, make_plan
    from finery.cli.views import print_matrix
    from finery.compare.variants import lines_of

    plans = make_plan(Planner(graph, store), without_files=True)
    results = {plan.node.name: plan.result for plan in plans}
    if not as_json:
        print_matrix(graph, store, results)
    for line in lines_of(graph, store, results, {}) if as_json else ():
        scores = {name: score.data() for name, score in line.scores.items()}
        data = {"variant": line.name, "axes": line.axes, "scores": scores, "chosen": line.chosen}
        print_json(data)


def check_step(graph: "Graph", name: str, output: str) -> None:
    """Raise `UsageError` if the step or the output doesn't exist."""
    graph.require(name)
    outputs = graph.nodes[name].outputs
    if output and output not in outputs:
        raise UsageError(
            f"step '{name}' has no output '{output}'",
            fix=did_you_mean(output, [o for o in outputs if o]) or f"write {name}",
        )
