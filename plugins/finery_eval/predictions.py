"""The lines of `predictions.jsonl`: how they are written, and how those of two sides are paired.

Each line has the `values` of an answer by metric and, where rows belong together, their `group`. So
`diff`, `select` and reports compare any metric of two evaluations on the rows that both judged.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from finery.advanced import code_digest
from finery.rows import Row
from finery.rows.parts import prompt_text as prompt_of
from finery.rows.report import Difference, Remark, Report
from finery_eval.measure import (
    Group,
    Measure,
    Statistic,
    StoredMeasure,
    Value,
    frozen,
    mean,
    measure_of,
)
from finery_eval.verdicts import Answers, Verdicts, together

PROMPT_SHOWN = 300
"""Characters of a prompt that a line repeats."""
GROUP = "group"
"""The fact that names the group of a row, if it has related ones."""
PROBES = 50
"""Values that a statistic is tried on alone, to notice what its code doesn't show."""
SIDES = ("first", "second")
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
                unspoken["stage"] = answer.stage
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


def statistics_of(verdicts: Verdicts) -> dict[str, Any]:
    """What a report has of the statistics of the metrics: references, digests and probes.

    What isn't a function of a module, such as a lambda, a `functools.partial` or a closure, has no
    digest, so builds can't be compared by it, which a remark says.
    """
    used = {m: fn for m in verdicts.metrics if (fn := verdicts.statistic(m))}
    names = {m: getattr(fn, "__qualname__", "<object>") for m, fn in used.items()}
    digests = {m: None if "<" in names[m] else code_digest(fn) for m, fn in used.items()}
    remarks = [
        Remark(
            f"finery diff can't compare {metric} of two builds: its statistic isn't a function of "
            "a module, so a change of its code wouldn't be noticed",
            "Define it with `def` at the top of a module.",
            "warning",
        )
        for metric, digest in digests.items()
        if digest is None
    ]
    return {
        "statistics": {
            m: f"{fn.__module__}:{getattr(fn, '__qualname__', type(fn))}" for m, fn in used.items()
        },
        "definitions": {metric: digest for metric, digest in digests.items() if digest},
        "remarks": [*verdicts.report.remarks, *remarks],
        "probes": {m: _probes(fn, verdicts.values(m)) for m, fn in used.items() if fn is not mean},
    }


def _probes(statistic: Statistic, values: Mapping[str, Sequence[Value]]) -> dict[str, float]:
    """The first different values → the statistic of each alone, if it has one."""
    probes, every = {}, (frozen(v) for column in values.values() for v in column if v is not None)
    for value in islice(dict.fromkeys(every), PROBES):
        with suppress(Exception):  # of a plugin, which may need more values
            probes[msgspec.json.encode(value).decode()] = float(statistic({value: 1}))
    return probes


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


class Incomparable(NamedTuple):
    """Why two evaluations can't be compared by a metric."""

    reason: str


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
    counts: Counter[tuple[str, Any, Any]] = Counter()
    placed: dict[Place, Facts] = {}
    for facts in lines:
        within = facts.get("message") or facts.get("context")
        place = str(facts.get("id", "")), facts.get("turn"), within
        placed[(*place, counts[place])] = facts
        counts[place] += 1
    return placed


def measure_between(
    pairs: Pairs, metric: str, before: Report, after: Report
) -> Measure | Incomparable | None:
    """A metric of the first and the second of pairs of lines, over the groups of the evaluations.

    before, after: the reports of the evaluations. None if the lines don't have its values. A metric
    with a statistic is compared by what the evaluations stored: nothing is computed again.
    """
    values = {
        side: [pair[place].get("values", {}).get(metric) for pair in pairs.pairs]
        for place, side in enumerate(SIDES)
    }
    if not all(any(value is not None for value in column) for column in values.values()):
        return None
    reports, is_share = (before, after), after.is_share(metric)
    groups = recorded(*([pair[place] for pair in pairs.pairs] for place in (0, 1)))
    statistics = {report.statistics.get(metric, "") for report in reports}
    if statistics <= {"", MEAN}:
        statistic = mean if MEAN in statistics else None
        return measure_of(values, groups, statistic=statistic, is_share=is_share)
    if any(metric in report.statistics and metric not in report.definitions for report in reports):
        return Incomparable("the code of its statistic isn't recorded")
    if before.definitions.get(metric) != after.definitions.get(metric):
        return Incomparable("the code of its statistic isn't the same in both")
    left, right = (report.probes.get(metric, {}) for report in reports)
    if any(not math.isclose(left[p], right[p], abs_tol=1e-9) for p in left.keys() & right.keys()):
        return Incomparable("its statistic gave other scores for the same answers")
    if not _are_same_rows(pairs, values):
        return Incomparable("it isn't a mean over rows, and the rows aren't the same in both")
    models = [str(lines[0].get("model", "")) for lines in pairs.sides]
    scores = [report.score(model, metric) for report, model in zip(reports, models, strict=True)]
    drawn = {n: s for n, s in zip(SIDES, scores, strict=True) if s is not None and s.draws}
    if len(drawn) < len(SIDES):
        return Incomparable("an earlier version of finery didn't store its resamples: build again")
    measure = measure_of(values, groups, is_share=is_share)
    return StoredMeasure(measure.values, groups, within=measure.within, scores=drawn)


def difference_between(
    pairs: Pairs, metric: str, before: Report, after: Report
) -> Difference | None:
    """The second minus the first of pairs of lines in a metric; None if they can't be compared."""
    measure = measure_between(pairs, metric, before, after)
    return measure.difference(*SIDES) if isinstance(measure, Measure) else None


def _are_same_rows(pairs: Pairs, values: Mapping[str, Sequence[Any]]) -> bool:
    """Whether both sides were resampled alike: the same rows, in the same order and groups."""
    if pairs.changed or pairs.only_first or pairs.only_second:
        return False
    in_order = zip(pairs.pairs, *pairs.sides, strict=True)
    return all(
        pair[0] is first and pair[1] is second and first.get(GROUP) == second.get(GROUP)
        for pair, first, second in in_order
    ) and all((a is None) == (b is None) for a, b in zip(*values.values(), strict=True))
