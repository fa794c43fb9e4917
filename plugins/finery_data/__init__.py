"""Rows from files; their split into train, validation and test; and what changes or checks them.

Input: files and data sets. Output: data sets, what was dropped from them and why, and pages that
describe them. Public for other plugins: `sources.source`, the base class of step types that read
rows; `overlap`, whether training rows may repeat test rows; `checks.labels`, labels that look
wrong; `checks.audits`, the records of `data.audit`; `checks.personal`, personal data in texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {
        "data.audit": "finery_data.steps.audit:Audit",
        "data.decontaminate": "finery_data.steps.copies:Decontaminate",
        "data.dedup": "finery_data.steps.copies:Dedup",
        "data.file": "finery_data.steps.file:File",
        "data.filter": "finery_data.steps.filter:Filter",
        "data.map": "finery_data.steps.map:Map",
        "data.mix": "finery_data.steps.sample:Mix",
        "data.report": "finery_data.steps.report:DataReport",
        "data.requests": "finery_data.steps.requests:Requests",
        "data.sample": "finery_data.steps.sample:Sample",
        "data.split": "finery_data.steps.split:Split",
        "data.validate": "finery_data.steps.validate:Validate",
    }


@hookimpl
def finery_views() -> dict[str, str]:
    """The display of data sets."""
    return {
        "Dataset": "finery_data.view.dataset:DatasetView",
        "Dataset/audit": "finery_data.view.audit:AuditView",
    }


@hookimpl
def finery_notes() -> Mapping[str, Any]:
    """The kinds of notes of this plugin."""
    from finery_data.checks.drift import ABOUT as DRIFT
    from finery_data.overlap import ABOUT
    from finery_data.prompts import ABOUT as PROMPTS

    return {**ABOUT, **DRIFT, **PROMPTS}


@hookimpl
def finery_checks(graph: Any, results: Any) -> Sequence[Any]:
    """Notes on first rows, on requests that differ from training rows, and on trainings whose rows
    may give test rows away."""
    from finery_data import prompts

    notes = [*prompts.notes_on(graph, results)]
    if any(node.use == "data.requests" for node in graph.nodes.values()):
        from finery_data.checks import drift

        notes += drift.notes_on(graph, results)
    if not any(node.evaluates for node in graph.nodes.values()):
        return notes
    from finery_data.overlap import notes_on

    return [*notes, *notes_on(graph)]
