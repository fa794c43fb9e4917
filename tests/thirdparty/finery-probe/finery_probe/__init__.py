"""Keeps rows that are long enough, times every step, and writes down what builds do."""

import os
import time
from collections.abc import Generator, Mapping
from typing import Any

from finery import Job, Note, hookimpl, outside_key
from finery.advanced import About


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types."""
    return {"probe.min_length": "finery_probe.steps:MinLength"}


@hookimpl
def finery_commands() -> Mapping[str, str]:
    """The commands."""
    return {"probe": "finery_probe.commands:probe"}


@hookimpl
def finery_notes() -> Mapping[str, About]:
    """The kinds of notes."""
    return {"probe-seed": About(when="the recipe has no seed", why="A seed can be passed on.")}


@hookimpl
def finery_checks(graph: Any, results: Any) -> list[Note]:
    """Advice."""
    if "seed" in graph.recipe.data:
        return []
    return [Note(name="probe-seed", text="probe: say which seed you want", fix="seed: 1")]


@outside_key
@hookimpl(wrapper=True)
def finery_run_step(step: Any, job: Job) -> Generator[None, Any, Any]:
    """Time every step, wherever it runs."""
    began = time.perf_counter()
    result = yield
    job.metric("probe_seconds", time.perf_counter() - began, 1)
    job.log(f"probe timed {type(step).__name__}")
    return result


@hookimpl
def finery_build_event(event: Mapping[str, Any], graph: Any) -> None:
    """Note what happens to a build and its steps."""
    match event["event"]:
        case "build_started":
            _note(f"build started {len(graph.nodes)}")
        case "build_finished":
            _note(f"build finished {event['ok']}")
        case "step_started":
            _note(f"started {event['step']} {event['use']}")
        case "step_finished":
            _note(f"finished {event['step']} {event['use']} ran")
        case "step_cached":
            _note(f"finished {event['step']} {event['use']} cached")
        case "step_failed":
            _note(f"failed {event['step']} {event['use']} {event['error']['error']}")


def _note(text: str) -> None:
    if "PROBE_NOTES" in os.environ:
        with open(os.environ["PROBE_NOTES"], "a", encoding="utf-8") as out:
            out.write(f"{text}\n")
