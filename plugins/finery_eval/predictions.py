"""The lines of `predictions.jsonl`: how they are written, and how those of two sides are paired.

Each line has the `values` of an answer by metric and, where rows belong together, their `group`. So
`diff`, `select` and reports compare any metric of two evaluations on the rows that both judged.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pkgutil import resolve_name
from typing import Any, NamedTuple

from finery import code_digest
from finery.rows import Row
from finery.rows.parts import prompt as prompt_of
from finery.util.text import percent
from finery_eval.measure import Group, Measure, Statistic, frozen, mean, measure_of
from finery_eval.verdicts import Answers, Verdicts, together

PROMPT_SHOWN = 300
"""Characters of a prompt that a line repeats."""
GROUP = "group"
"""The fact that names the group of a row, if it has related ones."""
STATISTICS = "statistics"
"""The entry of `details`: metric → the reference of its statistic, if it has one."""
DEFINITIONS = "definitions"
"""The entry of `details`: metric → the digest of its statistic's code."""
MEAN = f"{mean.__module__}:{mean.__qualname__}"
Facts = Mapping[str, Any]
"""A line of `predictions.jsonl`."""
Place = tuple[str, Any, Any, int]
"""(row id, turn, message or context, how often the place came before) of an answer."""
ASKED = ("prompt", "expected")
"""Facts that must be the same for two answers to be compared."""


# -- written -------------------------------------------------------------------------------------


def predictions(
    rows: Sequence[Row], answers: Answers | None, verdicts: Verdicts
) -> Iterator[dict[str, Any]]:
    """Each model's answer to each row, its verdict and, where rows belong together, the group.

    `correct` is the first metric, if that is yes or no. answers: None where nothing is generated.
    """
    grouped = facts_of(rows)
    first = next(iter(verdicts.metrics), "")
    for i, row in enumerate(rows):
        prompt = prompt_of(row)[:PROMPT_SHOWN]
        for name in answers or verdicts.judged:
            line: dict[str, Any] = {"id": row["id"], "model": name, "prompt": prompt}
            values, facts = verdicts.judged[name][i]
            correct = values.get(first)
            verdict: dict[str, Any] = {"correct": correct} if isinstance(correct, bool) else {}
            verdict |= {**facts, "values": values}
            if answers is not None:
                answer = answers[name][i]
                unspoken = {"tool_calls": answer.tool_calls, "reasoning": answer.reasoning}
                line |= {"answer": answer.text, **{k: v for k, v in unspoken.items() if v}}
                verdict["finish_reason"] = answer.finish_reason
            yield line | verdict | grouped[i]


def facts_of(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Each row's group in `predictions.jsonl`: its name, for rows that have related ones.

    The name is the first of the ids of its rows and of their parents.
    """
    facts: list[dict[str, str]] = [{} for _ in rows]
    for group in together(rows) or ():
        name = min(one for i in group for one in (rows[i]["id"], *(rows[i].get("parents") or ())))
        for i in group:
            facts[i] = {GROUP: name}
    return facts


def references(verdicts: Verdicts) -> dict[str, dict[str, str]]:
    """The statistics of the metrics and digests of their code, for `details`.

    The name of one that isn't a function, such as a `functools.partial`, can't be resolved.
    """
    used = {m: of for m in verdicts.metrics if (of := verdicts.statistic(m))}
    named = {
        m: f"{of.__module__}:{getattr(of, '__qualname__', type(of))}" for m, of in used.items()
    }
    codes = {of: code_digest(of) for of in used.values()}
    digests = {m: digest for m, of in used.items() if (digest := codes[of])}
    return {STATISTICS: named, DEFINITIONS: digests} if named else {}


# -- read and paired -----------------------------------------------------------------------------


def recorded(*sides: Sequence[Facts]) -> list[Group] | None:
    """The answers that belong together, as their lines of `predictions.jsonl` say, or None.

    sides: the lines of each model or build, by answer. Answers to one row belong together, e.g. to
    the turns of a conversation, and rows with the same `group` on any side.
    """
    rows = [
        {"id": str(lines[0].get("id", f"line {number}")),
         "parents": [line[GROUP] for line in lines if GROUP in line]}
        for number, lines in enumerate(zip(*sides, strict=True))
    ]  # fmt: skip
    return together(rows)


class Pairs(NamedTuple):
    """Answers by place. pairs: (first, second) that answer the same. changed: whose question or
    expected answer differs. only_first, only_second: without a partner. sides: all answers."""

    pairs: Sequence[tuple[Facts, Facts]]
    changed: int
    only_first: int
    only_second: int
    sides: tuple[Sequence[Facts], Sequence[Facts]]


def by_model(lines: Iterable[Facts]) -> dict[str, list[Facts]]:
    """Model → its answers, in order."""
    models: dict[str, list[Facts]] = {}
    for facts in lines:
        models.setdefault(str(facts.get("model", "")), []).append(facts)
    return models


def paired(first: Sequence[Facts], second: Sequence[Facts]) -> Pairs:
    """Two models' answers, or those of one model in two builds."""
    before, after = _placed(first), _placed(second)
    both = [(before[place], facts) for place, facts in after.items() if place in before]
    pairs = [(a, b) for a, b in both if all(a.get(name) == b.get(name) for name in ASKED)]
    alone = len(before) - len(both), len(after) - len(both)
    return Pairs(pairs, len(both) - len(pairs), *alone, (first, second))


def _placed(lines: Iterable[Facts]) -> dict[Place, Facts]:
    seen: Counter[tuple[str, Any, Any]] = Counter()
    placed: dict[Place, Facts] = {}
    for facts in lines:
        within = facts.get("message") or facts.get("context")
        place = str(facts.get("id", "")), facts.get("turn"), within
        placed[(*place, seen[place])] = facts
        seen[place] += 1
    return placed


def measure_between(pairs: Pairs, metric: str, *reports: Mapping[str, Any]) -> Measure | None:
    """A metric of the first and the second of pairs of lines, over the groups of the evaluations.

    reports: of the two evaluations. None if the lines don't have the metric's values, or if a
    report's statistic isn't that of today's code, see `changed_statistic`.
    """
    values = {
        side: [pair[place].get("values", {}).get(metric) for pair in pairs.pairs]
        for place, side in enumerate(("first", "second"))
    }
    has_values = all(any(value is not None for value in of) for of in values.values())
    if not has_values or changed_statistic(pairs, metric, *reports):
        return None
    details = reports[-1]["details"]
    reference = details.get(STATISTICS, {}).get(metric)
    groups = recorded(*([pair[place] for pair in pairs.pairs] for place in (0, 1)))
    statistic, unbounded = reference and resolve_name(reference), details.get("unbounded", ())
    return measure_of(values, groups, statistic=statistic, is_share=metric not in unbounded)


def changed_statistic(pairs: Pairs, metric: str, *reports: Mapping[str, Any]) -> str:
    """Why the values of a metric can't be compared by today's code; empty if they can.

    Another definition of its statistic would give them another meaning, and so would other data
    that it uses, e.g. of a subclass or a file. Then the scores of today's code are others.
    """
    used = [_statistic_in(report, metric) for report in reports]
    reference = used[-1][0]
    if all(each == (MEAN, None) for each in used):
        return ""
    digests = {_digest_now(MEAN) if each == (MEAN, None) else each[1] for each in used}
    if None in digests:
        return "the code of its statistic isn't recorded"
    if len(digests) > 1:
        return "the code of its statistic isn't the same in both"
    try:
        statistic, is_same = resolve_name(reference), _digest_now(reference) in digests
    except (ImportError, AttributeError, ValueError):  # e.g. of a plugin that isn't installed here
        return (
            f"its statistic, {reference.partition(':')[2]}, isn't found as a function of a module"
        )
    if not is_same:
        return "the code of its statistic has changed"
    for side, lines, report in zip("AB", pairs.sides, reports, strict=True):
        if other := _other_score(statistic, metric, lines, report):
            return f"today's code gives another score for {side}: {other}"
    return ""


def _other_score(
    statistic: Statistic, metric: str, lines: Sequence[Facts], report: Mapping[str, Any]
) -> str:
    """Today's score of a model's answers and the stored one; empty if they agree."""
    values = [of for line in lines if (of := line.get("values", {}).get(metric)) is not None]
    model = str(lines[0].get("model", "")) if values else ""
    stored = report["scores"].get(model, {}).get(metric)
    if stored is None:
        return ""
    try:
        score = float(statistic(Counter(map(frozen, values))))
    except Exception as error:  # of a plugin
        return f"none ({type(error).__name__}: {error})"
    if math.isclose(score, stored, abs_tol=1e-9):
        return ""
    is_share = metric not in report["details"].get("unbounded", ())
    now, then = (percent(of) if is_share else f"{of:.6g}" for of in (score, stored))
    return f"{now} instead of {then}"


@cache
def _digest_now(reference: str) -> str | None:
    return code_digest(resolve_name(reference))


def _statistic_in(report: Mapping[str, Any], metric: str) -> tuple[str, str | None]:
    """The reference and the digest of a metric's statistic; (MEAN, None) of a share."""
    details = report["details"]
    reference = details.get(STATISTICS, {}).get(metric, MEAN)
    return reference, details.get(DEFINITIONS, {}).get(metric)
