"""`require:` what a build must reach, e.g. `sft.accuracy: ">= base.accuracy + 0.3"`.

`claims` has the requirements that rest on a test. `broken` isn't a metric of an evaluator: it
compares the answers of a model with those of a release, or of another model, row by row.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from finery import UsageError
from finery.advanced import counted, percent
from finery.rows.report import Report
from finery_eval import claims
from finery_eval.claims import NUMBER, Claim, Lines, Metric, Names, more_rows
from finery_eval.flips import BROKEN, flips_between

_EXPRESSION = re.compile(
    rf"\s*(?P<op>>=|<=|>|<)\s*"
    rf"(?:(?P<number>-?{NUMBER})|"
    # A step's name may hold a hyphen, so a minus needs a space before it.
    rf"(?P<of>[^\s><=].*?)(?:(?:\s*(?P<plus>\+)|\s+(?P<minus>-))\s*(?P<offset>{NUMBER}))?)\s*"
)
_EXAMPLES = (
    'write ">= 0.85" or ">= base.accuracy + 0.3" (with >=, >, <= or <), "not worse than base by '
    '0.03" or "significantly better than base"'
)
_MALFORMED = re.compile(rf"\s*(?P<op>[<>=]{{0,2}})\s*(?P<number>{NUMBER})\s*(?P<percent>%?)\s*")
"""A number without a comparison, in percent, or with another language's sign."""
_SLACK = 1e-9
"""Rounding error that counts as equal: 0.1 + 0.2 is 0.3."""

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda score, bound: score >= bound - _SLACK,
    "<=": lambda score, bound: score <= bound + _SLACK,
    ">": lambda score, bound: score > bound + _SLACK,
    "<": lambda score, bound: score < bound - _SLACK,
}


class Requirement(msgspec.Struct, frozen=True):
    """`subject` compared by `op` with `number`, added to the metric `of` if there is one."""

    subject: Metric
    op: str
    number: float
    of: Metric | None
    text: str

    def measured(self, report: Report) -> bool:
        """Whether a report has both metrics. A metric that applies to no row is missing."""
        metrics = [self.subject, *([self.of] if self.of else [])]
        return all(report.score(*metric) for metric in metrics)

    def bound(self, report: Report) -> float:
        """The number that `subject` is compared with."""
        return self.number + (report.scores[self.of[0]][self.of[1]].value if self.of else 0.0)

    def met(self, report: Report) -> bool:
        """Whether a report meets it."""
        score = report.scores[self.subject[0]][self.subject[1]].value
        return _COMPARE[self.op](score, self.bound(report))


class Broken(msgspec.Struct, frozen=True):
    """At most the share `most` of the rows that `earlier` gets right is wrong with the subject."""

    subject: Metric
    earlier: str
    most: float
    text: str


Condition = Requirement | Claim | Broken
_BROKEN = re.compile(
    rf"\s*<=?\s*(?P<most>{NUMBER})\s*(?P<percent>%?)(?:\s+against\s+(?P<of>\S+))?\s*"
)


def parse(
    require: Mapping[str, str], models: Sequence[str], metrics: Sequence[str], **facts: Any
) -> list[Condition]:
    """Read `require:`; `UsageError` for bad syntax and for an unknown model or metric.

    facts: others of `Names`.
    """
    allowed = Names(models, metrics, **facts)
    return [_parse_one(key, text, allowed) for key, text in require.items()]


def unchecked(
    require: Mapping[str, str], unreleased: Mapping[str, str], models: Sequence[str],
    metrics: Sequence[str], *, releases: Sequence[str] = (), **facts: Any,
) -> dict[str, str]:  # fmt: skip
    """The requirements that name an unreleased model → why it doesn't exist.

    unreleased: model → that reason. What can't be read with it, either, is for `parse` to report.
    """

    def can_be_read(key: str, absent: Collection[str] = ()) -> bool:
        present = [name for name in unreleased if name not in absent]
        allowed = Names([*models, *present], metrics, releases=[*releases, *present], **facts)
        try:
            _parse_one(key, require[key], allowed)
        except UsageError:
            return False
        return True

    return {
        key: why
        for name, why in unreleased.items()
        for key in require
        if can_be_read(key) and not can_be_read(key, [name])
    }


def unmet(requirements: Sequence[Condition], report: Report, answers: Lines = tuple) -> list[str]:
    """One line for each requirement that a `Metrics` report doesn't meet.

    answers: gives the lines of `predictions.jsonl`.
    """
    bounds = [r for r in requirements if isinstance(r, Requirement)]
    failed = [_line(r, report) for r in bounds if not r.measured(report) or not r.met(report)]
    failed += claims.unmet([r for r in requirements if isinstance(r, Claim)], report, answers)
    broken = (_broken_line(r, answers) for r in requirements if isinstance(r, Broken))
    return failed + [line for line in broken if line]


def doubts_about(
    requirements: Sequence[Condition],
    report: Report,
    unbounded: Collection[str],
) -> list[str]:
    """For each met requirement that hardly any model could miss: why, and a better one."""
    lines = []
    for r in requirements:
        if not isinstance(r, Requirement) or r.subject[1] in unbounded or not r.measured(report):
            continue
        bound = r.bound(report)
        if bound > 0 if r.op[0] == ">" else bound < 1:
            continue
        why = "it can't fail" if r.op[1:] else "one row is enough"
        name, baseline = ".".join(r.subject), r.of[0] if r.of and r.op[0] == ">" else r.subject[0]
        is_test = baseline != r.subject[0]
        better = f'{name}: "significantly better than {baseline}"' if is_test else "another number"
        text = f"{name} {r.text} proves little: the bound is {percent(bound)}"
        lines.append(f"{text}, so {why}. Write {better}")
    return lines


def _parse_one(key: str, text: str, allowed: Names) -> Condition:
    where = f"require: {key}: {text!r}"
    model, dot, metric = key.rpartition(".")
    if dot and metric == BROKEN and BROKEN not in allowed.metrics:
        return _parse_broken(model, text, allowed, where)
    subject = allowed.metric(key, where)
    claim = claims.parse(text, subject, allowed, where)
    if claim is not None:
        return claim
    better, match = allowed.unbounded.get(subject[1]), _EXPRESSION.fullmatch(text)
    baseline_name = (match["of"] or "") if match is not None else ""
    is_number = baseline_name[:1] in tuple("+-.0123456789")  # mistyped, e.g. 85% or -0.1
    if match is None or (
        is_number and not baseline_name.startswith(tuple(f"{m}." for m in allowed.models))
    ):
        raise UsageError("a requirement must be a comparison", where=where, fix=_fix(text, better))
    number = float(match["number"] or match["offset"] or 0.0)
    if number < 0 and better is None:
        raise UsageError("a requirement must be a comparison", where=where, fix=_EXAMPLES)
    if number > 1 and better is None:
        percent = f"{number / 100:g}" if number <= 100 else "0.85"
        raise UsageError(
            f"{number:g} can't be reached: metrics are shares from 0 to 1",
            where=where,
            fix=f"write {percent}",
        )
    base = allowed.metric(baseline_name, where) if baseline_name else None
    signed = -number if match["minus"] else number
    return Requirement(subject=subject, op=match["op"], number=signed, of=base, text=text.strip())


def _parse_broken(model: str, text: str, allowed: Names, where: str) -> Broken:
    match = _BROKEN.fullmatch(text)
    most = float(match["most"]) if match else 0.0
    if match is None or match["percent"] or not 0 < most < 1:
        share = most / 100 if 0 < most < 100 else 0.02
        problem = f"{BROKEN} must have an upper limit: a share of the rows above 0 and below 1"
        fix = f'write "<= {share:g}", or "<= {share:g} against base"'
        raise UsageError(problem, where=where, fix=fix)
    if model not in allowed.models:
        raise allowed.unknown(model, where)
    releases = [name for name in allowed.releases if name != model]
    if not match["of"] and len(releases) != 1:
        names = ", ".join(releases) or "none"
        problem = f"{BROKEN} compares with a release, and `models` names {names}"
        fix = f'write "<= {most:g} against {(releases or ["base"])[0]}"'
        more = "" if releases else ", or add a model with `use: release.model`"
        raise UsageError(problem, where=where, fix=f"{fix}{more}")
    subject = model, BROKEN
    earlier = claims.other_model(match["of"] or releases[0], subject, allowed, where)
    return Broken(subject, earlier, most, text.strip())


def _broken_line(broken: Broken, answers: Lines) -> str:
    """Why it isn't shown that at most that share is broken; empty if it is.

    The upper end of the 95 % interval decides, so a model with that share or more passes in at most
    2.7 % of cases.
    """
    model, _ = broken.subject
    flips = flips_between(answers(), broken.earlier, model)
    if flips is None:
        both = f"{model} and {broken.earlier}"
        return f"{model}.{BROKEN} isn't known: no answer of {both} is recorded as right or wrong"
    value, ends = flips.score.value, flips.score.interval or (0.0, 1.0)
    if ends[1] <= broken.most + _SLACK:
        return ""
    head = (
        f"{model}.{BROKEN} is {percent(value)} (95 % CI {100 * ends[0]:.1f} to "
        f"{100 * ends[1]:.1f}): {len(flips.broken):,} of {counted(flips.rows, 'row')} are right "
        f"with {broken.earlier} and wrong with {model}; required: at most {percent(broken.most)}. "
    )
    if ends[0] > broken.most:
        return f"{head}It is more"
    more = more_rows(flips.rows, (ends[1] - ends[0]) / 2, broken.most - value)
    may = f"It may be up to {percent(ends[1])}: {flips.rows:,} rows don't show that it isn't"
    return f"{head}{may}{more}"


def _fix(text: str, better: str | None) -> str:
    """The comparison that a malformed one most likely means; else some examples.

    better: for a metric that isn't a share, which of its values are better.
    """
    match = _MALFORMED.fullmatch(text)
    if match is None:
        return _EXAMPLES
    number = float(match["number"])
    operator = {"=>": ">=", "=<": "<=", "==": "", "=": ""}.get(match["op"], match["op"])
    sign = operator or ("<=" if better == "lower" else ">=")
    if better is not None:
        return _EXAMPLES if match["percent"] else f'write "{sign} {number:g}"'
    share = number / 100 if match["percent"] or number > 1 else number
    return f'write "{sign} {share:g}"' if share <= 1 else _EXAMPLES


def _line(requirement: Requirement, report: Report) -> str:
    bound = requirement.text
    if requirement.of:
        if requirement.measured(report):
            bound += f" = {requirement.bound(report):.4g}"
        bound += f" ({_seen(requirement.of, report)})"
    return f"{_seen(requirement.subject, report)}; required {bound}"


def _seen(subject: Metric, report: Report) -> str:
    model, metric = subject
    score = report.score(model, metric)
    if score is None:
        return f"{model}.{metric} applies to none of the {report.rows} rows"
    ends = score.interval
    interval = f"95 % CI {ends[0]:.3f} to {ends[1]:.3f}, " if ends else ""
    rows = counted(report.rows_of(model, metric), "row")
    return f"{model}.{metric} is {score.value:.4g} ({interval}{rows})"
