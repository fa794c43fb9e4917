"""`require:` what a build must reach, e.g. `sft.accuracy: ">= base.accuracy + 0.3"`."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from finery.errors import UsageError, did_you_mean

_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_EXPRESSION = re.compile(
    rf"\s*(?P<op>>=|<=|>|<)\s*"
    rf"(?:(?P<number>{_NUMBER})|"
    # A step's name may hold a hyphen, so a minus needs a space before it.
    rf"(?P<of>[^\s><=].*?)(?:(?:\s*(?P<plus>\+)|\s+(?P<minus>-))\s*(?P<offset>{_NUMBER}))?)\s*"
)
_EXAMPLES = 'write ">= 0.85" or ">= base.accuracy + 0.3" (with >=, >, <= or <)'
_SLACK = 1e-9
"""What 0.1 + 0.2 may be off by and still count as 0.3."""

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda seen, bound: seen >= bound - _SLACK,
    "<=": lambda seen, bound: seen <= bound + _SLACK,
    ">": lambda seen, bound: seen > bound + _SLACK,
    "<": lambda seen, bound: seen < bound - _SLACK,
}

Metric = tuple[str, str]
"""(model, metric)."""


class Requirement(msgspec.Struct, frozen=True):
    """`subject` compared by `op` with `number`, added to the metric `of` if there is one."""

    subject: Metric
    op: str
    number: float
    of: Metric | None
    text: str

    def bound(self, scores: Mapping[str, Mapping[str, float]]) -> float:
        """The figure that `subject` is held against."""
        return self.number + (scores[self.of[0]][self.of[1]] if self.of else 0.0)

    def met(self, scores: Mapping[str, Mapping[str, float]]) -> bool:
        """Whether `scores` (model → metric → value) fulfil it."""
        seen = scores[self.subject[0]][self.subject[1]]
        return _COMPARE[self.op](seen, self.bound(scores))


def parse(
    require: Mapping[str, str], models: Sequence[str], metrics: Sequence[str]
) -> list[Requirement]:
    """Read `require:`; `UsageError` for bad syntax and for an unknown model or metric."""
    return [_parse_one(key, text, models, metrics) for key, text in require.items()]


def unmet(requirements: Sequence[Requirement], report: Mapping[str, Any]) -> list[str]:
    """One line for each requirement that a `Metrics` report doesn't meet."""
    return [_line(r, report) for r in requirements if not r.met(report["scores"])]


def _parse_one(key: str, text: str, models: Sequence[str], metrics: Sequence[str]) -> Requirement:
    where = f"require: {key}: {text!r}"
    subject = _metric(key, models, metrics, where)
    found = _EXPRESSION.fullmatch(text)
    if found is None or _numeric(found["of"] or "", models):
        raise UsageError("a requirement must be a comparison", where=where, fix=_EXAMPLES)
    number = float(found["number"] or found["offset"] or 0.0)
    if number > 1:
        percent = f"{number / 100:g}" if number <= 100 else "0.85"
        raise UsageError(
            f"{number:g} is out of reach: metrics are shares from 0 to 1",
            where=where,
            fix=f"write {percent}",
        )
    of = _metric(found["of"], models, metrics, where) if found["of"] else None
    signed = -number if found["minus"] else number
    return Requirement(subject=subject, op=found["op"], number=signed, of=of, text=text.strip())


def _numeric(of: str, models: Sequence[str]) -> bool:
    """Whether a metric's name is rather a number gone wrong, e.g. `85%` or `-0.1`."""
    return of[:1] in tuple("+-.0123456789") and not of.startswith(tuple(f"{m}." for m in models))


def _metric(name: str, models: Sequence[str], metrics: Sequence[str], where: str) -> Metric:
    """Split `<model>.<metric>` at the last dot: a model's name may hold dots, a metric's not."""
    model, dot, metric = name.rpartition(".")
    if not dot:
        raise UsageError(
            f"'{name}' must name a model and its metric, <model>.<metric>",
            where=where,
            fix=f"write e.g. {models[0]}.{name if name in metrics else metrics[0]}",
        )
    if model not in models:
        raise UsageError(
            f"'{model}' is not one of the step's models",
            where=where,
            fix=did_you_mean(model, models),
        )
    if metric not in metrics:
        raise UsageError(
            f"the step has no metric '{metric}'", where=where, fix=did_you_mean(metric, metrics)
        )
    return model, metric


def _line(requirement: Requirement, report: Mapping[str, Any]) -> str:
    bound = requirement.text
    if requirement.of:
        bound += f" = {requirement.bound(report['scores']):.4g}"
        bound += f" ({_seen(requirement.of, report)})"
    return f"{_seen(requirement.subject, report)}; required {bound}"


def _seen(of: Metric, report: Mapping[str, Any]) -> str:
    model, metric = of
    low, high = report["intervals"][model][metric]
    value = report["scores"][model][metric]
    return (
        f"{model}.{metric} is {value:.4g} (95 % CI {low:.3f} to {high:.3f}, {report['rows']} rows)"
    )
