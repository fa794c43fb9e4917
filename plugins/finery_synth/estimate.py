"""Estimates for steps that have a model write rows or judge answers: calls, tokens, cost.

They cover any step type with a forecast of its requests, see `finery.Forecast`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec

from finery import Dataset, Estimate, FineryError, Inputs, Model, Request, Requests
from finery.advanced import (
    Budget,
    Forecasts,
    Graph,
    Node,
    Price,
    Results,
    Source,
    in_dollars,
    value_of,
)
from finery.rows.parts import is_conversation
from finery_synth.checks import Checks, Rubric
from finery_synth.judges import SCORE_PROMPT, score_messages
from finery_synth.prompts import Prompt

MOST_READ = 20_000
"""Maximum number of requests that are looked up in the cache."""
SAMPLED = 500
"""Number of prompts that are measured if the cache isn't used."""
SAMPLED_SEEDS = 100
"""Number of seed rows that are measured in place of the rows to judge."""


class Load(NamedTuple):
    """The requests to a model, in numbers; None if unknown.

    total: all requests of the first attempt. max_tokens: of an answer. answered: cached ones.
    prompt: mean tokens of a prompt. likely: mean tokens of an answer in earlier builds. rows: rows
    wanted.
    """

    total: int | None
    max_tokens: int
    price: Price | None
    answered: int | None = None
    prompt: float | None = None
    likely: float | None = None
    rows: int | None = None

    @property
    def calls(self) -> int | None:
        """Requests that aren't cached, as far as is known."""
        return None if self.total is None else self.total - (self.answered or 0)

    def tokens(self, each: float | None) -> int | None:
        """Tokens of all calls, with `each` in one."""
        return None if self.calls is None or each is None else round(self.calls * each)

    def dollars(self, each: float | None) -> float | None:
        """The cost of the first attempts with answers of `each` tokens."""
        if self.price is None or self.calls is None:
            return None
        if self.price.of(1, 1) == 0:
            return 0.0
        if self.prompt is None or each is None:
            return None
        return self.price.of(self.calls * self.prompt, self.calls * each)

    def facts(self) -> dict[str, Any]:
        """Calls, tokens and dollars."""
        return {
            "calls": self.calls,
            "prompt_tokens": self.tokens(self.prompt),
            "completion_tokens_at_most": self.tokens(self.max_tokens),
            "completion_tokens_likely": self.tokens(self.likely),
            "dollars_at_most": self.dollars(self.max_tokens),
            "dollars_likely": self.dollars(self.likely),
        }

    def tokens_line(self) -> str:
        """Tokens of prompts and answers as text; empty if there are no calls."""
        if not self.calls:
            return ""
        prompts = "" if self.prompt is None else f"about {self.tokens(self.prompt):,} in prompts, "
        most = f"at most {self.tokens(self.max_tokens):,} in answers"
        likely = self.tokens(self.likely)
        more = "" if likely is None else f", likely {likely:,} as in earlier builds"
        return f"tokens: {prompts}{most}{more}"

    def cost_line(self, *, about: bool = False) -> str:
        """Dollars as text; empty if there are no calls. about: whether prompts may get longer."""
        if self.price is None:
            return "cost: unknown, since the model has no `price`"
        is_free = self.price.of(1, 1) == 0
        most, likely = self.dollars(self.max_tokens), self.dollars(self.likely)
        if most is None:
            return "" if is_free else "cost: known once the rows are built"
        if most == 0:
            return "cost: none, since the model runs on this machine" if is_free else ""
        more = "" if likely is None else f", likely {in_dollars(likely)}"
        return f"cost: at most {'about ' if about else ''}{in_dollars(most)}{more}, without retries"


def estimate_requests(inputs: Inputs) -> Estimate | None:
    """Calls, tokens and cost of a step that forecasts its requests; None for another one."""
    graph, results, node = inputs.graph, inputs.results, inputs.node
    try:
        asked = Forecasts(graph, results).requests(node)
        if asked is None:
            return None
        load = _load(graph, results, node, asked)
        judge = _judge_load(graph, results, node, load)
    except FineryError as error:
        lines = [f"calls unknown: {error.what}"]
        return Estimate(lines=lines, warning=error.what, fix=error.fix or "")
    lines = [
        _calls_line(node, asked, load),
        load.tokens_line(),
        load.cost_line(about=asked.is_most),
    ]
    facts = {"requests": load.total, "answered_before": load.answered, **load.facts()}
    loads = [load]
    if judge is not None:
        lines.append(_judge_line(judge))
        facts["judge"] = judge.facts()
        last = results.last(node.name)
        if last is not None and "judged" in last.meta and load.total and load.rows:
            # Rows with cached answers have cached scores.
            judge = judge._replace(answered=round(load.rows * (load.answered or 0) / load.total))
        loads.append(judge)
    lines = [line for line in lines if line]
    return Estimate(lines=lines, facts=facts, **_warning(asked.budget, loads))


def _load(graph: Graph, results: Results, node: Node, asked: Requests) -> Load:
    """What is known about the requests. Raises errors that would stop the step, e.g. a bad row."""
    total, source = asked.total, _source(node, asked.model)
    load = Load(total, asked.sampling["max_tokens"], _price(graph, results, source))
    used = _earlier(results, node, "answers")
    if used is not None:
        load = load._replace(likely=used["completion_tokens"] / used["requests"])
    few = total is not None and total <= MOST_READ
    seen = list(islice(asked.requests, total if few else SAMPLED))
    if total is None or not seen:
        return load
    model = results.artifact(source.step, source.output)
    if few and isinstance(model, Model):
        engines = (graph.plugins.engine(name) for name in model.formats)
        if not any(engine.batched for engine in engines):  # each request has its own record
            requests = (request for request, _ in seen)
            answered = results.answered(node.name, model, requests, asked.sampling)
            load = load._replace(answered=answered)
    rows = sum(wanted for _, wanted in seen) if few else None
    return load._replace(prompt=_mean(request.estimated_tokens() for request, _ in seen), rows=rows)


def _judge_load(graph: Graph, results: Results, node: Node, asked: Load) -> Load | None:
    """The judge's requests for the rows in `asked`, one for each row that passes the checks.

    None without a judge. Tokens are those of earlier builds. Before the first build, prompts are
    assumed to be as long as those for seed rows.
    """
    rubric = _rubric(node.step)
    if rubric is None:
        return None
    price = _price(graph, results, _source(node, "judge"))
    load = Load(asked.rows, rubric.max_tokens, price)
    used = _earlier(results, node, "judged")
    if used is None:
        return load._replace(prompt=_mean(_judge_prompts(graph, results, node)))
    prompt, likely = (used[f"{n}_tokens"] / used["requests"] for n in ("prompt", "completion"))
    return load._replace(prompt=prompt, likely=likely)


def _judge_prompts(graph: Graph, results: Results, node: Node) -> Iterator[float]:
    """Lengths of prompts in tokens; none if seed rows can't be judged."""
    rubric = _rubric(graph.with_files(node))
    assert rubric is not None
    template = Prompt.of(rubric.prompt, SCORE_PROMPT)
    artifacts = [results.artifact(s.step, s.output) for s in node.sources if s.field == "rows"]
    datasets = [rows for rows in artifacts if isinstance(rows, Dataset)]
    if len(datasets) < len(artifacts):
        return
    for row in filter(is_conversation, islice(chain.from_iterable(datasets), SAMPLED_SEEDS)):
        with suppress(FineryError):  # a template may need columns that only generated rows have
            messages = score_messages(template, row, rubric.rubric, rubric.scale)
            yield Request(messages).estimated_tokens()


def _rubric(step: Any) -> Rubric | None:
    """How a generator has its rows judged; None for one without a judge, and for other steps."""
    checks = getattr(step, "checks", None)
    return checks.judge if isinstance(checks, Checks) else None


def _earlier(results: Results, node: Node, what: str) -> dict[str, int] | None:
    """`meta[what]` of this step's last build, or of steps of its type."""
    last = results.last(node.name)
    for past in chain([last] if last is not None else [], results.history(node.use)):
        used: dict[str, int] | None = past.meta.get(what) if past.use == node.use else None
        if used and used["requests"]:
            return used
    return None


def _source(node: Node, field: str) -> Source:
    """The source of a step's model."""
    return next(s for s in node.sources if s.field == field)


def _price(graph: Graph, results: Results, source: Source) -> Price | None:
    """What a model costs: nothing if it runs on this machine; None if unknown."""
    node = graph.nodes[source.step]
    built = results.artifact(source.step, source.output)
    if isinstance(built, Model):
        runtime: Mapping[str, Any] = built.runtime
    else:
        runtime = value_of(Forecasts(graph, results).forecast(node).runtime)
    if "price" in runtime:
        price = runtime["price"]
        return None if price is None else msgspec.convert(price, Price)
    under = node.base_models
    return _price(graph, results, under[0]) if under else Price(input=0.0, output=0.0)


def _mean(values: Iterable[float]) -> float | None:
    """The mean; None without values."""
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None


# -- words ---------------------------------------------------------------------------------------


def _calls_line(node: Node, asked: Requests, load: Load) -> str:
    is_only = len({source.field for source in node.sources_of(Model)}) < 2
    calls = "calls" if is_only or asked.model == "model" else f"calls of the {asked.model}"
    if load.total is None:
        return f"{calls}: known once the rows are built"
    most = "at most " if asked.is_most else ""
    more = f"; up to {asked.retries} more for each unusable answer" if asked.retries else ""
    if load.answered:
        before = f" ({load.answered:,} of {load.total:,} requests were answered before)"
        return f"{calls}: {most}{load.calls:,}{before}{more}"
    return f"{calls}: {most}{load.total:,}{more}"


def _judge_line(load: Load) -> str:
    calls = "one call for each row that passes the other checks"
    cost = ""
    if load.total:
        calls = f"up to {load.total:,} calls"
        if load.price is None or load.dollars(load.max_tokens) is not None:
            cost = load.cost_line()
    return f"judge: {'; '.join(filter(None, (calls, load.tokens_line(), cost)))}"


def _warning(budget: Budget | None, loads: Sequence[Load]) -> dict[str, str]:
    """A warning if the budget is too small for all requests.

    Counts prompts, and answers as in earlier builds. Before the first build, the length of answers
    is unknown.
    """
    calls = sum(load.calls or 0 for load in loads)
    if budget is None or not calls:
        return {}
    tokens = dollars = 0.0
    for load in loads:
        sizes = [(load.calls or 0) * (each or 0) for each in (load.prompt, load.likely)]
        tokens += sum(sizes)
        dollars += load.price.of(*sizes) if load.price is not None else 0.0
    needs = ((budget.tokens, tokens), (budget.dollars, dollars))
    share = min((limit / needed for limit, needed in needs if limit and needed), default=1.0)
    if share >= 1:
        return {}
    who = ", including the judge's" if len(loads) > 1 else ""
    return {
        "warning": f"the budget ({budget}) is enough for about {share * calls:,.0f} of "
        f"{calls:,} calls{who}",
        "fix": "raise the budget, or build again afterwards: answers so far are kept",
    }
