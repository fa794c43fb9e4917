"""Evaluators: judge models on rows with known answers, and check what a build requires.

In go models and rows, out come metrics with confidence intervals, a prediction for each row, and
comparisons with the first model. Public for other plugins: `finery_eval.evaluator` and `.verdicts`,
for evaluators; `finery_eval.database`, which runs queries against a scratch database; and
`finery_eval.calls.broken`, which finds calls that break the schema of their tool.
"""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {
        "eval.classification": "finery_eval.steps.classification:Classification",
        "eval.dialog": "finery_eval.steps.dialog:Dialog",
        "eval.exact": "finery_eval.steps.exact:Exact",
        "eval.json": "finery_eval.steps.structured:Json",
        "eval.preference": "finery_eval.steps.preference:Preference",
        "eval.rules": "finery_eval.steps.rules:Rules",
        "eval.select": "finery_eval.steps.select:Select",
        "eval.sql": "finery_eval.steps.sql:Sql",
        "eval.tools": "finery_eval.steps.tools:ToolCalls",
    }


@hookimpl
def finery_views() -> dict[str, str]:
    """What evaluations look like."""
    return {"Metrics": "finery_eval.view.metrics:MetricsView"}
