"""Estimates of the judge's requests, for `finery plan`."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from finery import Dataset, FineryError, Graph, Node, Price, Request, Results
from finery.rows.parts import is_conversation
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
from finery_synth.generator import Generator
from finery_synth.judge.scores import SCORE_PROMPT, score_messages

SAMPLED = 100
"""Number of seed rows that are measured in place of the rows to judge."""


class Judging(NamedTuple):
    """The judge's requests: a line for people, and the same as numbers.

    load: the requests; `answered` estimates the cached ones. price: the judge's.
    """

    line: str
    facts: dict[str, Any]
    load: Load
    price: Price | None


def judging(graph: Graph, results: Results, node: Node, asked: Load) -> Judging | None:
    """The judge's requests for the rows in `asked`, one for each row that passes the checks.

    None without a judge. Tokens are those of earlier builds. Before the first build, prompts are
    assumed to be as long as those for seed rows.
    """
    step = node.step
    if not isinstance(step, Generator) or step.checks.judge is None:
        return None
    used, rubric = earlier(results, node, "judged"), step.checks.judge
    prompt = likely = None
    if used is not None:
        prompt, likely = (used[f"{n}_tokens"] / used["requests"] for n in ("prompt", "completion"))
    else:
        prompt = mean(_prompts(graph, results, node))
    rows = asked.rows
    load = Load(rows, prompt=prompt, likely=likely)
    price = price_of(graph, results, source_of(node, "judge"))
    bounds = costs(load, rubric.max_tokens, price)
    calls = (
        f"up to {rows:,} calls" if rows else "one call for each row that passes the other checks"
    )
    words = [calls, tokens_words(load, rubric.max_tokens)]
    if rows and (price is None or bounds.most is not None):
        words.append(cost_words(bounds, price))
    line = f"judge: {'; '.join(filter(None, words))}"
    facts = facts_of(load, rubric.max_tokens, bounds)
    return Judging(line, facts, load._replace(answered=_answered(results, node, asked)), price)


def _answered(results: Results, node: Node, asked: Load) -> int | None:
    """Scores cached by an earlier build with a judge: those of rows with cached answers."""
    last = results.last(node.name)
    if last is None or "judged" not in last.meta or not asked.total or not asked.rows:
        return None
    return round(asked.rows * (asked.answered or 0) / asked.total)


def _prompts(graph: Graph, results: Results, node: Node) -> Iterator[float]:
    """Lengths of prompts in tokens; none if seed rows can't be judged."""
    step = graph.with_files(node)
    rubric = step.checks.judge if isinstance(step, Generator) else None
    assert rubric is not None
    template = Prompt.of(rubric.prompt, SCORE_PROMPT)
    artifacts = [results.artifact(s.step, s.output) for s in node.sources if s.field == "rows"]
    if not all(isinstance(rows, Dataset) for rows in artifacts):
        return
    rows = (row for rows in artifacts if isinstance(rows, Dataset) for row in rows)
    for row in islice(rows, SAMPLED):
        with suppress(FineryError):  # a template may need columns that only generated rows have
            if is_conversation(row):
                messages = score_messages(template, row, rubric.rubric, rubric.scale)
                yield Request(messages).estimated_tokens()
