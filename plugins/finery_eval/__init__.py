"""Evaluators: judge models on rows with known answers, and check what a build requires.

Input: models and rows. Output: metrics with confidence intervals, a prediction for each row, and
comparisons with the first model. Public for other plugins:

- `finery_eval.evaluator`, the contract of evaluators, with `.verdicts` and groups of related rows;
- `finery_eval.asking`, `.evaluation`, `.predictions` and `.tables`: its parts, for steps that judge
  in another way;
- `finery_eval.measure` and `.stats`: statistics of metrics on the same rows;
- `finery_eval.nested`, for steps with an evaluator inside;
- `finery_eval.database`, which runs queries against a scratch database;
- `finery_eval.calls`, which finds calls that break the schema of their tool.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {
        "eval.classification": "finery_eval.steps.classification:Classification",
        "eval.curve": "finery_eval.steps.curve:Curve",
        "eval.dialog": "finery_eval.steps.dialog:Dialog",
        "eval.exact": "finery_eval.steps.exact:Exact",
        "eval.json": "finery_eval.steps.structured:Json",
        "eval.preference": "finery_eval.steps.preference:Preference",
        "eval.rules": "finery_eval.steps.rules:Rules",
        "eval.select": "finery_eval.steps.select:Select",
        "eval.speed": "finery_eval.steps.speed:Speed",
        "eval.sql": "finery_eval.steps.sql:Sql",
        "eval.tools": "finery_eval.steps.tools:ToolCalls",
    }


@hookimpl
def finery_chooser() -> str:
    """The step type that chooses a variant of a matrix."""
    return "eval.select"


@hookimpl
def finery_notes() -> Mapping[str, Any]:
    """The kinds of notes on evaluators."""
    from finery_eval.planning import ABOUT

    return ABOUT


@hookimpl
def finery_checks(graph: Any, results: Any) -> Sequence[Any]:
    """Notes on evaluators."""

    if not any(node.evaluates or node.trains for node in graph.nodes.values()):
        return []
    from finery_eval.planning import notes_on_baselines, notes_on_classes, notes_on_limits

    return [
        *notes_on_limits(graph, results),
        *notes_on_baselines(graph),
        *notes_on_classes(graph, results),
    ]


@hookimpl
def finery_views() -> dict[str, str]:
    """The display of evaluations."""
    return {"Metrics": "finery_eval.view.metrics:MetricsView"}
