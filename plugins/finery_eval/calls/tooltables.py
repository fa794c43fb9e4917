"""The tables of `eval.tools`: each tool, calls where none is due, malformed calls."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from finery_eval.calls.calls import Call
from finery_eval.calls.matches import Match
from finery_eval.tables import Unit, table

MALFORMED_SHOWN = 5
"""Kinds of malformed calls that are shown of each model."""


def calls_table(model: str, matches: Sequence[Match]) -> list[dict[str, Any]]:
    """Each tool that is expected or called: how often, how often rightly, what came instead."""
    expected, called, shared, right = (Counter[str]() for _ in range(4))
    instead: dict[str, Counter[str]] = {}
    for match in matches:
        expected += match.expected
        called += match.called
        shared += match.expected & match.called
        right += match.right
        for name, other in match.instead():
            instead.setdefault(name, Counter())[other] += 1
    rows = [
        [n, expected[n], called[n], shared[n], right[n], _most(instead.get(n, Counter()))]
        for n in sorted({*expected, *called})
    ]
    columns = ["tool", "expected", "called", "right tool", "right arguments", "instead"]
    return [table(f"{model}: calls by tool", columns, rows, model=model)] if rows else []


def due_table(matches: Mapping[str, Sequence[Match]]) -> dict[str, Any]:
    """How often each model calls where a call is due, and where none is."""
    rows: list[list[Any]] = []
    for name, of in matches.items():
        for is_due, words in ((True, "a call is due"), (False, "no call is due")):
            calls = [bool(match.calls) for match in of if match.is_due == is_due]
            if calls:
                share = sum(calls) / len(calls)
                rows.append([name, words, len(calls), sum(calls), calls.count(False), share])
    columns = ["model", "row", "rows", "with a call", "without", "share with a call"]
    units: dict[str, Unit] = {columns[-1]: "share"}
    return table("Calls where they are due", columns, rows, units=units)


def malformed_table(calls: Mapping[str, Sequence[Call]]) -> list[dict[str, Any]]:
    """Why calls of each model are malformed, the most frequent reasons first, with an example."""
    rows: list[list[Any]] = []
    for name, of in calls.items():
        problems = [call.problem for call in of if call.problem]
        examples = {problem.kind: problem.text for problem in reversed(problems)}
        for kind, n in Counter(p.kind for p in problems).most_common(MALFORMED_SHOWN):
            rows.append([name, kind, n, examples[kind]])
    columns = ["model", "malformed calls", "calls", "example"]
    return [table("Malformed calls", columns, rows)] if rows else []


def _most(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {n}×" for name, n in counts.most_common(2))
