"""Judge models on rows with known answers, and hold a build to what it promises."""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {
        "eval.classification": "finery_eval.classification:Classification",
        "eval.exact": "finery_eval.exact:Exact",
        "eval.json": "finery_eval.structured:Json",
        "eval.preference": "finery_eval.preference:Preference",
        "eval.rules": "finery_eval.rules:Rules",
        "eval.sql": "finery_eval.sql:Sql",
    }


@hookimpl
def finery_views() -> dict[str, str]:
    """What evaluations look like."""
    return {"Metrics": "finery_eval.view.metrics:MetricsView"}
