"""What `finery plan` says of a generator that would run: calls, tokens, cost."""

import copy
from collections.abc import Sequence
from itertools import islice

from finery import (
    Dataset,
    Estimate,
    FineryError,
    Graph,
    Model,
    Node,
    Price,
    Results,
    files_of,
    find_files,
    formats_of,
    prompt_tokens,
    sampling_of,
)
from finery_synth.ask.prompts import Prompt
from finery_synth.estimate.costs import (
    Load,
    cost_words,
    costs,
    earlier,
    facts_of,
    mean,
    price_of,
    source_of,
    tokens_words,
)
from finery_synth.estimate.judged import judging
from finery_synth.generator import Generator
from finery_synth.judge.scores import TRIES
from finery_synth.steps.judge import JudgeRows

MOST_READ = 20_000
"""Requests that are looked up in the record cache one by one; of more, it is left open."""
SAMPLED = 500
"""Prompts whose lengths are looked at, where the cache isn't."""
SINGLE = frozenset({"api", "prompted"})
"""Formats of models whose engines answer each request alone: its record can be looked up."""

Asking = Generator | JudgeRows
"""Steps that ask a model one thing after the other."""


def estimates(graph: Graph, results: Results, steps: Sequence[str]) -> list[Estimate]:
    """An estimate for each generator among the steps."""
    nodes = [graph.nodes[name] for name in steps]
    return [_estimate(graph, results, n) for n in nodes if isinstance(n.step, Asking)]


def _estimate(graph: Graph, results: Results, node: Node) -> Estimate:
    step = node.step
    assert isinstance(step, Asking)
    try:
        load = load_of(graph, results, node)
        judged = judging(graph, results, node, opened(graph, results, node), load)
    except FineryError as error:
        lines = [f"calls unknown: {error.what}"]
        return Estimate(step=node.name, lines=lines, warning=error.what, fix=error.fix or "")
    price = price_of(graph, results, source_of(node, "model"))
    bounds = costs(load, step.max_tokens, price)
    words = [tokens_words(load, step.max_tokens), cost_words(bounds, price)]
    lines = [_calls_line(load, step), *words, judged.line if judged is not None else ""]
    loads = [(load, price), *([(judged.load, judged.price)] if judged is not None else [])]
    facts = {
        "requests": load.total,
        "answered_before": load.answered,
        **facts_of(load, step.max_tokens, bounds),
        **({"judge": judged.facts} if judged is not None else {}),
    }
    return Estimate(
        step=node.name, lines=[line for line in lines if line], facts=facts,
        **_budget(step, loads),
    )  # fmt: skip


# -- the requests --------------------------------------------------------------------------------


def load_of(graph: Graph, results: Results, node: Node) -> Load:
    """What is known of the requests. Raises what would stop the step: a broken template, say."""
    likely = _likely(results, node)
    step = opened(graph, results, node)
    if step is None:
        return _unbuilt(graph, results, node)._replace(likely=likely)
    total = step.requests(step.seed_count())
    tasks = step.tasks(Prompt.of(step.prompt, step.default_prompt()))
    few = total <= MOST_READ
    seen = list(islice(tasks, total if few else SAMPLED))
    model = results.artifact(source_of(node, "model").step, source_of(node, "model").output)
    answered = None
    if few and isinstance(model, Model) and formats_of(model) <= SINGLE:
        requests = (task.request(0) for task in seen)
        answered = results.answered(node.name, model, requests, sampling_of(**step.sampling()))
    rows = sum(task.wanted for task in seen) if few else None
    prompt = mean(prompt_tokens(task.request(0)) for task in seen)
    return Load(total, answered, prompt, likely, rows)


def opened(graph: Graph, results: Results, node: Node) -> Asking | None:
    """The step with its rows and files, as it would run; None where some rows aren't built."""
    sources = [s for s in node.sources if s.field == "rows"]
    found = [results.artifact(s.step, s.output) for s in sources]
    rows = [dataset for dataset in found if isinstance(dataset, Dataset)]
    if len(rows) < len(found):
        return None
    step = copy.deepcopy(node.step)
    assert isinstance(step, Asking)
    step.rows = rows
    for name, files in files_of(step).items():
        there = find_files(graph.recipe, (*node.place, *name.split(".")), files)
        files.paths = [path for _, path in there]
    return step


def _unbuilt(graph: Graph, results: Results, node: Node) -> Load:
    """What is known while the rows aren't built: their number, maybe."""
    from finery import count_rows

    step = node.step
    assert isinstance(step, Asking)
    counts = [count_rows(graph, results, s) for s in node.sources if s.field == "rows"]
    known = [count.rows for count in counts if count is not None]
    if len(known) < len(counts) or step.needs_rows():
        return Load(None)
    return Load(step.requests(sum(known)))


def _likely(results: Results, node: Node) -> float | None:
    """Mean tokens of an answer: of this step's last build, else of steps of the same type."""
    used = earlier(results, node, "answers")
    return None if used is None else used["completion_tokens"] / used["requests"]


# -- the budget ------------------------------------------------------------------------------------


def _budget(step: Asking, loads: Sequence[tuple[Load, Price | None]]) -> dict[str, str]:
    """A warning where the budget is reached before all is asked.

    loads: of the step's models, with their prices. What prompts take counts, and what answers took
    in earlier builds; before the first it isn't known, and may be more.
    """
    calls = sum(load.calls or 0 for load, _ in loads)
    if step.budget is None or not calls:
        return {}
    tokens = sum(sum(load.known) for load, _ in loads)
    dollars = sum(price.of(*load.known) for load, price in loads if price is not None)
    share = min(_share(step.budget.tokens, tokens), _share(step.budget.dollars, dollars))
    if share >= 1:
        return {}
    judged = ", the judge's among them" if len(loads) > 1 else ""
    return {
        "warning": f"the budget ({step.budget}) ends it after about {share * calls:,.0f} of "
        f"{calls:,} calls{judged}",
        "fix": "raise the budget, or build again then: what was answered is kept",
    }


def _share(limit: float | None, needed: float) -> float:
    return 1.0 if limit is None or not needed else limit / needed


# -- words ---------------------------------------------------------------------------------------


def _calls_line(load: Load, step: Asking) -> str:
    if load.total is None:
        return "calls: known once the rows are built"
    more = step.retries if isinstance(step, Generator) else TRIES - 1
    retries = f"; up to {more} more for each that can't be used" if more else ""
    if load.answered:
        return (
            f"calls: {load.calls:,} ({load.answered:,} of {load.total:,} requests were answered "
            f"before){retries}"
        )
    return f"calls: {load.total:,}{retries}"
