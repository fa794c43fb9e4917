"""What test rows can show, and how long a first evaluation takes: lines of `finery plan`."""

import statistics

import msgspec

from finery import Count, Estimate, Inputs
from finery.advanced import Forecasts, Graph, Node, cpu_count, rough_duration, visible_gpus
from finery.rows import answer_text
from finery_eval.stats import DISAGREEMENT, detectable_difference, wilson

CORE, GPU = 7e9, 1e12
"""Parameters × tokens that a CPU core and a GPU compute in a second, by rule of thumb."""
LOADING = 5.0
"""Seconds until a model answers."""
CHARACTERS_A_TOKEN = 4
MOST_READ = 500


def estimate(inputs: Inputs, models: int, max_tokens: int | None) -> Estimate | None:
    """The differences that the rows can show, and a guess of the time; None if nobody counts them.

    models: how many are judged. max_tokens: of their answers; None if they aren't asked.
    """
    rows = rows_of(inputs)
    if rows is None or not rows.rows:
        return None
    difference = detectable_difference(rows.rows)
    if models < 2:
        low, high = wilson(rows.rows / 2, rows.rows)
        text = f"{rows} give a score to within {50 * (high - low):.0f} points (95 % interval)"
    elif difference >= 1:
        text = f"{rows} can't tell any two models apart (at the 5 % level, with 80 % power)"
    else:
        text = (
            f"{rows} can detect differences of {100 * difference:.0f} points (at the 5 % "
            f"level, with 80 % power, if the models differ on {100 * DISAGREEMENT:.0f} % of the "
            "rows)"
        )
    facts: dict[str, float] = {"rows": rows.rows, "detectable_difference": difference}
    is_first = inputs.results.last(inputs.name) is None
    seconds = seconds_of(inputs, rows.rows, max_tokens) if is_first and max_tokens else None
    if seconds is None:
        return Estimate(lines=[text], facts=facts)
    return Estimate(
        lines=[text, f"time: about {rough_duration(seconds)} (a rough guess before the first run)"],
        facts={**facts, "seconds": round(seconds), "is_rough": True},
    )


def rows_of(inputs: Inputs) -> Count | None:
    """The rows that an evaluator judges; None if they aren't known yet."""
    return inputs.count("rows") if len(inputs.sources("rows")) == 1 else None


def seconds_of(inputs: Inputs, rows: int, max_tokens: int) -> float | None:
    """A guess of an evaluator's time; None if the sizes of its models are unknown.

    A trained model is expected to answer at the length of the expected answers if the rows are
    built, others with `max_tokens`.
    """
    sample, graph = list(inputs.sample("rows", MOST_READ) or ()), inputs.graph
    if not sample:
        return None
    prompt = statistics.fmean(len(msgspec.json.encode(row)) for row in sample) / CHARACTERS_A_TOKEN
    most = learned = float(max_tokens)
    if None not in inputs.artifacts("rows"):
        answer = statistics.fmean(len(answer_text(row)) for row in sample) / CHARACTERS_A_TOKEN
        learned = min(most, answer + 1)
    speed = GPU if visible_gpus() else CORE * cpu_count()
    seconds = 0.0
    for model in (graph.nodes[source.step] for source in inputs.sources("models")):
        if getattr(type(model.step), "is_baseline", False):
            continue
        parameters = parameters_of(graph, model)
        if parameters is None:
            return None
        answer = most if training_of(graph, model) is None else learned
        seconds += LOADING + rows * (prompt + answer) * parameters / speed
    return seconds


def parameters_of(graph: Graph, node: Node) -> float | None:
    """The number of a model's parameters, its own or those of its base; None if unknown."""
    known = Forecasts(graph).forecast(node).parameters()
    bases = (parameters_of(graph, graph.nodes[source.step]) for source in node.base_models)
    return known or next((size for size in bases if size), None)


def training_of(graph: Graph, node: Node) -> Node | None:
    """The training that a model comes from, itself or an earlier one; None if there is none."""
    if node.trains:
        return node
    earlier = (training_of(graph, graph.nodes[source.step]) for source in node.base_models)
    return next((training for training in earlier if training is not None), None)
