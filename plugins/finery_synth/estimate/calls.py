"""Estimates for steps that have a model write rows or judge answers: calls, tokens, cost.

They cover any step type with a forecast of its requests, see `finery.Forecast.asks`.
"""

from collections.abc import Sequence
from itertools import islice

from finery import (
    Asked,
    Budget,
    Estimate,
    FineryError,
    Forecasts,
    Graph,
    Model,
    Node,
    Price,
    Results,
)
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
from finery_synth.estimate.judged import Judging, judging

MOST_READ = 20_000
"""Maximum number of requests that are looked up in the cache."""
SAMPLED = 500
"""Number of prompts that are measured if the cache isn't used."""


def estimates(graph: Graph, results: Results, steps: Sequence[str]) -> list[Estimate]:
    """An estimate for each step that forecasts its requests."""
    nodes = [graph.nodes[name] for name in steps]
    every = (_estimate(graph, results, node) for node in nodes)
    return [estimate for estimate in every if estimate is not None]


def _estimate(graph: Graph, results: Results, node: Node) -> Estimate | None:
    try:
        asked = Forecasts(graph, results).asked(node)
        if asked is None:
            return None
        load = load_of(graph, results, node, asked)
        judged = judging(graph, results, node, load)
    except FineryError as error:
        lines = [f"calls unknown: {error.what}"]
        return Estimate(step=node.name, lines=lines, warning=error.what, fix=error.fix or "")
    max_tokens = asked.sampling["max_tokens"]
    price = price_of(graph, results, source_of(node, asked.model))
    bounds = costs(load, max_tokens, price)
    words = [tokens_words(load, max_tokens), cost_words(bounds, price, about=asked.is_most)]
    lines = [
        _calls_line(load, asked, _label(node, asked)),
        *words,
        judged.line if judged is not None else "",
    ]
    facts = {
        "requests": load.total,
        "answered_before": load.answered,
        **facts_of(load, max_tokens, bounds),
        **({"judge": judged.facts} if judged is not None else {}),
    }
    return Estimate(
        step=node.name,
        lines=[line for line in lines if line],
        facts=facts,
        **_warning(asked.budget, load, price, judged),
    )


# -- the requests --------------------------------------------------------------------------------


def load_of(graph: Graph, results: Results, node: Node, asked: Asked) -> Load:
    """What is known about the requests. Raises errors that would stop the step, e.g. a bad row."""
    likely, total = _likely(results, node), asked.total
    few = total is not None and total <= MOST_READ
    seen = list(islice(asked.requests, total if few else SAMPLED))
    if total is None or not seen:
        return Load(total, likely=likely)
    source = source_of(node, asked.model)
    model = results.artifact(source.step, source.output)
    answered = None
    if few and isinstance(model, Model) and _is_asked_one_by_one(graph, model):
        requests = (request for request, _ in seen)
        answered = results.answered(node.name, model, requests, asked.sampling)
    rows = sum(wanted for _, wanted in seen) if few else None
    prompt = mean(request.estimated_tokens() for request, _ in seen)
    return Load(total, answered, prompt, likely, rows)


def _is_asked_one_by_one(graph: Graph, model: Model) -> bool:
    """Whether each request has a record of its own, which can be looked up."""
    engines = (graph.plugins.engine(name) for name in model.formats)
    return not any(engine.batched for engine in engines)


def _likely(results: Results, node: Node) -> float | None:
    """Mean tokens of an answer in this step's last build, or in steps of the same type."""
    used = earlier(results, node, "answers")
    return None if used is None else used["completion_tokens"] / used["requests"]


# -- the budget ------------------------------------------------------------------------------------


def _warning(
    budget: Budget | None, load: Load, price: Price | None, judged: Judging | None
) -> dict[str, str]:
    """A warning if the budget is too small for all requests.

    Counts prompts, and answers as in earlier builds. Before the first build, the length of answers
    is unknown.
    """
    loads = [(load, price), *([(judged.load, judged.price)] if judged is not None else [])]
    calls = sum(load.calls or 0 for load, _ in loads)
    if budget is None or not calls:
        return {}
    tokens = sum(sum(load.known) for load, _ in loads)
    dollars = sum(price.of(*load.known) for load, price in loads if price is not None)
    share = min(_share(budget.tokens, tokens), _share(budget.dollars, dollars))
    if share >= 1:
        return {}
    who = "" if judged is None else ", including the judge's"
    return {
        "warning": f"the budget ({budget}) is enough for about {share * calls:,.0f} of "
        f"{calls:,} calls{who}",
        "fix": "raise the budget, or build again afterwards: answers so far are kept",
    }


def _share(limit: float | None, needed: float) -> float:
    return 1.0 if limit is None or not needed else limit / needed


# -- words ---------------------------------------------------------------------------------------


def _label(node: Node, asked: Asked) -> str:
    """Whose calls they are, if the step takes other models too."""
    is_only = len({source.field for source in node.sources_of(Model)}) < 2
    return "calls" if is_only or asked.model == "model" else f"calls of the {asked.model}"


def _calls_line(load: Load, asked: Asked, calls: str) -> str:
    if load.total is None:
        return f"{calls}: known once the rows are built"
    retries, most = asked.retries, "at most " if asked.is_most else ""
    more = f"; up to {retries} more for each unusable answer" if retries else ""
    if load.answered:
        return (
            f"{calls}: {most}{load.calls:,} ({load.answered:,} of {load.total:,} requests were "
            f"answered before){more}"
        )
    return f"{calls}: {most}{load.total:,}{more}"
