"""Tokens and dollars of the requests in an estimate."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from finery import Graph, Model, Node, Price, Results, Source


class Load(NamedTuple):
    """The requests of a generator, in numbers; None if unknown.

    total: all requests of the first attempt. answered: cached ones. prompt: mean tokens of a
    prompt. likely: mean tokens of an answer in earlier builds. rows: rows wanted.
    """

    total: int | None
    answered: int | None = None
    prompt: float | None = None
    likely: float | None = None
    rows: int | None = None

    @property
    def calls(self) -> int | None:
        """Requests that aren't cached, as far as is known."""
        return None if self.total is None else self.total - (self.answered or 0)

    @property
    def known(self) -> tuple[float, float]:
        """Tokens of prompts and of answers, as far as they are known: a lower bound."""
        calls = self.calls or 0
        return calls * (self.prompt or 0), calls * (self.likely or 0)


def source_of(node: Node, field: str) -> Source:
    """The source of a step's model."""
    return next(s for s in node.sources if s.field == field)


def earlier(results: Results, node: Node, what: str) -> dict[str, int] | None:
    """`meta[what]` of this step's last build, or of steps of its type."""
    last = results.last(node.name)
    for past in chain([last] if last is not None else [], results.history(node.use)):
        used: dict[str, int] | None = past.meta.get(what) if past.use == node.use else None
        if used and used["requests"]:
            return used
    return None


class Costs(NamedTuple):
    """Dollars; None if unknown."""

    most: float | None
    likely: float | None


def price_of(graph: Graph, results: Results, source: Source) -> Price | None:
    """What a model costs: nothing if it runs on this machine; None if unknown."""
    node = graph.nodes[source.step]
    built = results.artifact(source.step, source.output)
    if isinstance(built, Model):
        runtime: Mapping[str, Any] = built.runtime
    else:
        forecast = graph.forecast(node)
        runtime = forecast.runtime() if forecast is not None else {}
    if "price" in runtime:
        price = runtime["price"]
        return None if price is None else msgspec.convert(price, Price)
    under = node.base_models
    return price_of(graph, results, under[0]) if under else Price(input=0.0, output=0.0)


def costs(load: Load, max_tokens: int, price: Price | None) -> Costs:
    """The cost of the first attempts: at most, and with answers as in earlier builds."""
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


def facts_of(load: Load, max_tokens: int, bounds: Costs) -> dict[str, Any]:
    """Calls, tokens and dollars, as numbers."""
    return {
        "calls": load.calls,
        "prompt_tokens": _times(load.calls, load.prompt),
        "completion_tokens_at_most": _times(load.calls, max_tokens),
        "completion_tokens_likely": _times(load.calls, load.likely),
        "dollars_at_most": bounds.most,
        "dollars_likely": bounds.likely,
    }


def tokens_words(load: Load, max_tokens: int) -> str:
    """Tokens of prompts and answers as text; empty if there are no calls."""
    if not load.calls:
        return ""
    prompts = "" if load.prompt is None else f"about {load.calls * load.prompt:,.0f} in prompts, "
    most = f"at most {load.calls * max_tokens:,} in answers"
    likely = (
        ""
        if load.likely is None
        else f", likely {load.calls * load.likely:,.0f} as in earlier builds"
    )
    return f"tokens: {prompts}{most}{likely}"


def cost_words(bounds: Costs, price: Price | None, *, about: bool = False) -> str:
    """Dollars as text; empty if there are no calls. about: whether prompts may become longer."""
    if price is None:
        return "cost: unknown, since the model has no `price`"
    if bounds.most is None:
        return "cost: known once the rows are built" if price.of(1, 1) else ""
    if bounds.most == 0:
        return "" if price.of(1, 1) else "cost: none, since the model runs on this machine"
    likely = "" if bounds.likely is None else f", likely {_dollars(bounds.likely)}"
    most = "at most about" if about else "at most"
    return f"cost: {most} {_dollars(bounds.most)}{likely}, without retries"


def _times(calls: int | None, each: float | None) -> int | None:
    return None if calls is None or each is None else round(calls * each)


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if value >= 0.01 else f"${value:.4f}"


def mean(values: Iterable[float]) -> float | None:
    """The mean; None without values."""
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
