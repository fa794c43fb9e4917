"""What `finery plan` says of a generator that would run: calls, tokens, cost."""

import copy
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import msgspec

from finery import Dataset, Estimate, FineryError, Model, Price
from finery.advice import Results
from finery.graph import Graph, Node, Source
from finery.outside import find_files
from finery.records import formats_of, sampling_of
from finery.step import files_of
from finery_synth.asking import Task
from finery_synth.generator import Generator
from finery_synth.judge import JudgeRows
from finery_synth.judging import TRIES
from finery_synth.prompts import Prompt

MOST_READ = 20_000
"""Requests that are looked up in the record cache one by one; of more, it is left open."""
SAMPLED = 500
"""Prompts whose lengths are looked at, where the cache isn't."""
CHARACTERS_A_TOKEN = 4
SINGLE = frozenset({"api", "prompted"})
"""Formats of models whose engines answer each request alone: its record can be looked up."""

Asking = Generator | JudgeRows
"""Steps that ask a model one thing after the other."""


class Load(NamedTuple):
    """The requests of a generator, in numbers; None where one isn't known.

    total: all requests of the first attempt. answered: those that the cache has. prompt: mean
    tokens of a prompt. likely: mean tokens of an answer, as in earlier builds. rows: rows wanted.
    """

    total: int | None
    answered: int | None = None
    prompt: float | None = None
    likely: float | None = None
    rows: int | None = None

    @property
    def calls(self) -> int | None:
        """Requests that are to be paid for, as far as is known."""
        return None if self.total is None else self.total - (self.answered or 0)


def estimates(graph: Graph, results: Results, steps: Sequence[str]) -> list[Estimate]:
    """An estimate for each generator among the steps."""
    nodes = [graph.nodes[name] for name in steps]
    return [_estimate(graph, results, n) for n in nodes if isinstance(n.step, Asking)]


def _estimate(graph: Graph, results: Results, node: Node) -> Estimate:
    step = node.step
    assert isinstance(step, Asking)
    try:
        load = load_of(graph, results, node)
    except FineryError as error:
        lines = [f"calls unknown: {error.what}"]
        return Estimate(step=node.name, lines=lines, warning=error.what, fix=error.fix or "")
    price = price_of(graph, results, _source(node, "model"))
    bounds = costs(load, step.max_tokens, price)
    lines = [_calls_line(load, step), _tokens_line(load, step), _cost_line(bounds, price, step)]
    if isinstance(step, Generator) and step.checks.judge is not None:
        judged = f"up to {load.rows:,} answers" if load.rows else "each answer"
        lines.append(f"the judge is asked for {judged} besides, which isn't in these numbers")
    facts = {
        "requests": load.total,
        "answered_before": load.answered,
        "calls": load.calls,
        "prompt_tokens": _times(load.calls, load.prompt),
        "completion_tokens_at_most": _times(load.calls, step.max_tokens),
        "completion_tokens_likely": _times(load.calls, load.likely),
        "dollars_at_most": bounds.most,
        "dollars_likely": bounds.likely,
    }
    return Estimate(
        step=node.name, lines=[line for line in lines if line], facts=facts,
        **_budget(step, load, bounds),
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
    model = results.artifact(_source(node, "model").step, _source(node, "model").output)
    answered = None
    if few and isinstance(model, Model) and formats_of(model) <= SINGLE:
        requests = (task.request(0) for task in seen)
        answered = results.answered(node.name, model, requests, sampling_of(**step.sampling()))
    rows = sum(task.wanted for task in seen) if few else None
    return Load(total, answered, _mean(map(prompt_tokens, seen)), likely, rows)


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
    from finery_advice.training import count_rows

    step = node.step
    assert isinstance(step, Asking)
    counts = [count_rows(graph, results, s) for s in node.sources if s.field == "rows"]
    known = [count.rows for count in counts if count is not None]
    if len(known) < len(counts) or step.needs_rows():
        return Load(None)
    return Load(step.requests(sum(known)))


def prompt_tokens(task: Task) -> float:
    """About how many tokens a request's prompt has."""
    asked = [task.messages, task.tools] if task.tools else task.messages
    return 1 + len(msgspec.json.encode(asked)) / CHARACTERS_A_TOKEN


def _likely(results: Results, node: Node) -> float | None:
    """Mean tokens of an answer: of this step's last build, else of steps of the same type."""
    last = results.last(node.name)
    for past in chain([last] if last is not None else [], results.history(node.use)):
        used = past.meta.get("answers") if past.use == node.use else None
        if used and used["requests"]:
            return float(used["completion_tokens"] / used["requests"])
    return None


def _source(node: Node, field: str) -> Source:
    return next(s for s in node.sources if s.field == field)


def _mean(values: Iterator[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _times(calls: int | None, each: float | None) -> int | None:
    return None if calls is None or each is None else round(calls * each)


# -- the cost ------------------------------------------------------------------------------------


class Costs(NamedTuple):
    """Dollars, or None where they aren't known."""

    most: float | None
    likely: float | None


def price_of(graph: Graph, results: Results, source: Source) -> Price | None:
    """What a model costs: nothing where it runs here, None where nobody says."""
    node = graph.nodes[source.step]
    built = results.artifact(source.step, source.output)
    if isinstance(built, Model) and built.format == "api":
        price = built.hints.get("price")
        return None if price is None else msgspec.convert(price, Price)
    if node.use == "openai.model":
        price = getattr(node.step, "price", None)
        return price if isinstance(price, Price) else None
    under = [s for s in node.sources if s.field == "model"]
    if node.section == "models" and under:
        return price_of(graph, results, under[0])
    return Price(input=0.0, output=0.0)


def costs(load: Load, max_tokens: int, price: Price | None) -> Costs:
    """What the first attempts cost, at most and as answers were before."""
    if price is None or load.calls is None:
        return Costs(None, None)
    if price.of(1, 1) == 0:
        return Costs(0.0, 0.0)
    if load.prompt is None:
        return Costs(None, None)
    most = price.of(load.calls * load.prompt, load.calls * max_tokens)
    likely = None
    if load.likely is not None:
        likely = price.of(load.calls * load.prompt, load.calls * load.likely)
    return Costs(most, likely)


def _budget(step: Asking, load: Load, bounds: Costs) -> dict[str, str]:
    """A warning where the budget is reached before all is asked."""
    if step.budget is None or not load.calls:
        return {}
    share = min(
        _share(step.budget.tokens, _tokens(load, load.likely)),
        _share(step.budget.dollars, bounds.likely),
    )
    if share >= 1:
        return {}
    return {
        "warning": f"the budget ({step.budget}) ends it after about {share * load.calls:,.0f} of "
        f"{load.calls:,} calls",
        "fix": "raise the budget, or build again then: what was answered is kept",
    }


def _tokens(load: Load, answer: float | None) -> float | None:
    if load.calls is None or load.prompt is None or answer is None:
        return None
    return load.calls * (load.prompt + answer)


def _share(limit: float | None, needed: float | None) -> float:
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


def _tokens_line(load: Load, step: Asking) -> str:
    if not load.calls:
        return ""
    prompts = "" if load.prompt is None else f"about {load.calls * load.prompt:,.0f} of prompts, "
    most = f"at most {load.calls * step.max_tokens:,} of answers"
    likely = (
        ""
        if load.likely is None
        else f", likely {load.calls * load.likely:,.0f} as in earlier ones"
    )
    return f"tokens: {prompts}{most}{likely}"


def _cost_line(bounds: Costs, price: Price | None, step: Asking) -> str:
    if price is None:
        return "cost: unknown, the model has no `price`"
    if bounds.most is None:
        return "cost: known once the rows are built" if price.of(1, 1) else ""
    if bounds.most == 0:
        return "" if price.of(1, 1) else "cost: nothing, the model runs here"
    likely = "" if bounds.likely is None else f", likely {_dollars(bounds.likely)}"
    return f"cost: at most {_dollars(bounds.most)}{likely}, retries apart"


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if value >= 0.01 else f"${value:.4f}"
