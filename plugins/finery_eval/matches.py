"""Compares the calls of an answer with the expected ones."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from finery import Completion
from finery.rows.report import ReportTable
from finery_eval.arguments import Equality, Normal
from finery_eval.calls import Call, Tools, names_of, readable
from finery_eval.verdicts import Verdict

NO_CALL = "no call"
TOO_FEW = "too few calls"
EMPTY = "the answer is empty"
ONLY_THINKING = "the answer is only thinking, which isn't closed or has nothing after it"
CUT_OFF = "the answer was cut off before it began: max_tokens is too small for the thinking"
Form = tuple[str, Normal | None]
"""A tool's name and the normal form of its arguments; None if it has none."""


class Wanted(NamedTuple):
    """The expected calls of a row; none if no call is due. text: of the expected turn."""

    calls: list[Call]
    tools: Tools
    text: str


class Match:
    """An answer's calls against the expected ones."""

    def __init__(
        self, want: Wanted, calls: list[Call], equality: Equality, answer: Completion
    ) -> None:
        self.want = want
        self.calls = calls
        self._answer = answer
        self._equality = equality

    @property
    def is_due(self) -> bool:
        """Whether the row expects a call."""
        return bool(self.want.calls)

    @cached_property
    def expected(self) -> Counter[str]:
        """Tool → how often it should be called."""
        return Counter(names_of(self.want.calls))

    @cached_property
    def called(self) -> Counter[str]:
        """Tool → how often it is called."""
        return Counter(names_of(self.calls))

    @cached_property
    def right(self) -> Counter[str]:
        """Tool → how often it is called with the arguments of an expected call."""
        forms = [Counter(map(self._form, calls)) for calls in (self.want.calls, self.calls)]
        return Counter(name for name, _ in (forms[0] & forms[1]).elements())

    @property
    def has_tools(self) -> bool:
        """Whether exactly the expected tools are called, each as often as expected."""
        return self.expected == self.called

    @property
    def is_right(self) -> bool:
        """Whether the calls are the expected ones, and the answer isn't empty."""
        return self.has_tools and self.right == self.expected and not self.is_empty

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a call nor a text, e.g. after thinking that was cut off."""
        return not self.calls and not self._answer.text.strip()

    @property
    def is_valid(self) -> bool | None:
        """Whether all calls are well-formed; None if there are none."""
        return all(call.problem is None for call in self.calls) if self.calls else None

    def instead(self) -> Iterator[tuple[str, str]]:
        """(expected tool that isn't called, what is called instead)."""
        surplus = list((self.called - self.expected).elements())
        for name in (self.expected - self.called).elements():
            yield name, surplus.pop(0) if surplus else TOO_FEW if self.calls else NO_CALL

    def verdict(self) -> Verdict:
        """The values of the metrics; None for a metric that doesn't apply."""
        problems = [call.problem.text for call in self.calls if call.problem]
        if self.is_empty:
            is_cut, has_thinking = self._answer.finish_reason == "length", self._answer.reasoning
            problems.append(CUT_OFF if is_cut else ONLY_THINKING if has_thinking else EMPTY)
        return Verdict(
            {
                "accuracy": self.is_right,
                "tool": self.has_tools if self.is_due else None,
                "arguments": self.is_right if self.is_due and self.has_tools else None,
                "no_call": None if self.is_due else not self.calls and not self.is_empty,
                "valid": self.is_valid,
            },
            {
                "expected": readable(self.want.calls, self.want.text),
                "prediction": readable(self.calls, self._answer.text),
                "problem": "; ".join(problems) or None,
                "differs": dict(self._differing()),
            },
        )

    def _form(self, call: Call) -> Form:
        tool = self.want.tools.get(call.name)
        if tool is None or call.arguments is None or call.problem is not None:
            return call.name, None  # a malformed call is never the expected one
        return call.name, self._equality.normal(tool.name, tool.schema, call.arguments)

    def _differing(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(argument, its two values) where a call of the right tool has other arguments.

        Calls of one tool are compared in their order, after those that are right.
        """
        expected, answered = self._remaining(self.want.calls), self._remaining(self.calls)
        pairs = ((name, *pair) for name, calls in expected.items()
                 for pair in zip(calls, answered.get(name, []), strict=False))  # fmt: skip
        for name, want, call in pairs:
            if want.arguments is None or call.arguments is None:
                continue
            schema = self.want.tools[name].schema
            values = {"expected": want.arguments, "answered": call.arguments}
            for argument in self._equality.differing(name, schema, *values.values()):
                present = {k: v[argument] for k, v in values.items() if argument in v}
                yield f"{name}.{argument}", present

    def _remaining(self, calls: Sequence[Call]) -> dict[str, list[Call]]:
        """Tool → its calls without those that are right."""
        right = Counter(map(self._form, self.want.calls)) & Counter(map(self._form, self.calls))
        remaining: dict[str, list[Call]] = {}
        for call in calls:
            form = self._form(call)
            if right[form]:
                right[form] -= 1
            else:
                remaining.setdefault(call.name, []).append(call)
        return remaining


MALFORMED_SHOWN = 5
"""Kinds of malformed calls that are shown of each model."""


def calls_table(model: str, matches: Sequence[Match]) -> list[ReportTable]:
    """Each tool that is expected or called: how often, how often rightly, what came instead."""
    expected, called, shared, right = (Counter[str]() for _ in range(4))
    instead: dict[str, Counter[str]] = {}
    for match in matches:
        expected += match.expected
        called += match.called
        shared += match.expected & match.called
        right += match.right
        for name, substitute in match.instead():
            instead.setdefault(name, Counter())[substitute] += 1
    substitutes = {
        name: ", ".join(f"{substitute} {n}×" for substitute, n in counts.most_common(2))
        for name, counts in instead.items()
    }
    rows = [
        [n, expected[n], called[n], shared[n], right[n], substitutes.get(n, "")]
        for n in sorted({*expected, *called})
    ]
    columns = ["tool", "expected", "called", "right tool", "right arguments", "instead"]
    return [ReportTable(f"{model}: calls by tool", columns, rows, model=model)] if rows else []


def due_table(matches: Mapping[str, Sequence[Match]]) -> ReportTable:
    """How often each model calls a tool when a call is due, and when none is due."""
    rows: list[list[Any]] = []
    for name, model_matches in matches.items():
        for is_due, words in ((True, "a call is due"), (False, "no call is due")):
            calls = [bool(match.calls) for match in model_matches if match.is_due == is_due]
            if calls:
                share = sum(calls) / len(calls)
                rows.append([name, words, len(calls), sum(calls), calls.count(False), share])
    columns = ["model", "row", "rows", "with a call", "without", "share with a call"]
    return ReportTable("Calls when they are due", columns, rows, units={columns[-1]: "share"})


def malformed_table(calls: Mapping[str, Sequence[Call]]) -> list[ReportTable]:
    """Why calls of each model are malformed, the most frequent reasons first, with an example."""
    rows: list[list[Any]] = []
    for name, model_calls in calls.items():
        problems = [call.problem for call in model_calls if call.problem]
        examples = {problem.kind: problem.text for problem in reversed(problems)}
        for kind, n in Counter(p.kind for p in problems).most_common(MALFORMED_SHOWN):
            rows.append([name, kind, n, examples[kind]])
    columns = ["model", "malformed calls", "calls", "example"]
    return [ReportTable("Malformed calls", columns, rows, is_private=True)] if rows else []
