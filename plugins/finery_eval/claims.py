"""Requirements that rest on a test: `not worse than sft by 0.03`, `significantly better than base`.

The first is met if the lower end of the 95 % interval of the paired difference is above the margin
(a non-inferiority test). The second is met if the difference is above 0 with p < 0.05; where a step
requires several, their p-values are adjusted after Holm. A gate of the first kind needs no
adjustment: the build fails unless all are met.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from finery import UsageError
from finery.advanced import did_you_mean, in_points, range_in_points, signed
from finery.rows.report import Difference, Report
from finery_eval import stats
from finery_eval.measure import Measure, between, mean
from finery_eval.predictions import SIDES, Facts, by_model, measure_between, paired
from finery_eval.stats import LEVEL, Z95, not_worse_z, rows_to_show
from finery_eval.verdicts import effective

NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_NOT_WORSE = re.compile(rf"\s*not\s+worse\s+than\s+(?P<of>\S+)\s+by\s+(?P<margin>{NUMBER})\s*")
_BETTER = re.compile(r"\s*significantly\s+better\s+than\s+(?P<of>\S+)\s*")
_MEANT = re.compile(r"worse|inferior|better|signific|equal to|as good", re.IGNORECASE)
_MEANS_BETTER = re.compile(r"better|signific", re.IGNORECASE)
_MARGIN = re.compile(rf"(?P<number>{NUMBER})\s*(?P<unit>%|points?|pp)?")

Metric = tuple[str, str]
"""(model, metric)."""
Lines = Callable[[], Iterable[Facts]]
"""Gives the lines of `predictions.jsonl`, for what the report alone doesn't say."""
FEW = 40
"""Numbers and groups that differ up to which a bootstrap can miss what is rare."""


class Claim(msgspec.Struct, frozen=True):
    """A claim about `subject`: that it isn't worse by more than `margin`, or that it is better.

    than: a model of the step, whose value of the same metric is compared, or a number. margin: None
    for "significantly better". is_share: whether the metric is a share, with differences in points.
    """

    subject: Metric
    than: str | float
    margin: float | None
    text: str
    is_share: bool = True

    def __str__(self) -> str:
        """The metric that it is about."""
        return ".".join(self.subject)

    @property
    def rests_on_p(self) -> bool:
        """Whether it is tested by a p-value."""
        return self.margin is None and isinstance(self.than, str)


class Names(msgspec.Struct, frozen=True):
    """Names that a requirement may use.

    more: what would make further metrics known, as part of the fix. nouns: what has the scores.
    unbounded: the metrics that are no shares → `higher` or `lower`, which is better. releases: the
    models that were released earlier.
    """

    models: Sequence[str]
    metrics: Sequence[str]
    more: str = ""
    nouns: tuple[str, str] = ("model", "models")
    unbounded: Mapping[str, str] = {}
    releases: Sequence[str] = ()

    def metric(self, name: str, where: str) -> Metric:
        """(model, metric) of `<model>.<metric>`; `UsageError` when one of them isn't known."""
        if "." not in name:
            metric = name if name in self.metrics else self.metrics[0]
            raise UsageError(
                f"'{name}' must name a model and its metric, <model>.<metric>",
                where=where,
                fix=f"write e.g. {self.models[0]}.{metric}",
            )
        # Either may hold dots: split at the dot where both are known, else at the last one after
        # which a metric may be meant.
        dots = [i for i, character in enumerate(name) if character == "."]
        splits = [(name[:i], name[i + 1 :]) for i in reversed(dots)]
        of_models = [split for split in splits if split[0] in self.models]
        both = (split for split in of_models if split[1] in self.metrics)
        model, metric = next(both, (of_models or splits)[0])
        if model not in self.models:
            raise self.unknown(model, where)
        if metric not in self.metrics:
            fixes = filter(None, (did_you_mean(metric, self.metrics), self.more))
            raise UsageError(
                f"this step has no metric '{metric}'", where=where, fix="; ".join(fixes)
            )
        return model, metric

    def unknown(self, model: str, where: str) -> UsageError:
        """The error for an unknown model."""
        return UsageError(
            f"'{model}' is not one of the step's {self.nouns[1]}",
            where=where,
            fix=did_you_mean(model, self.models),
        )


def parse(text: str, subject: Metric, allowed: Names, where: str) -> Claim | None:
    """The claim that a text makes; None if it makes none. `UsageError` for a mistyped one."""
    if text.lstrip()[:1] in tuple("<>=") or not _MEANT.search(text):
        return None
    models, better = allowed.models, allowed.unbounded.get(subject[1])
    if better == "lower":
        raise UsageError(
            f"a requirement in words needs a metric of which higher values are better, and lower "
            f"values of {subject[1]} are",
            where=where,
            fix=f'compare it with a number or a metric, e.g. "<= {models[0]}.{subject[1]} + 1"',
        )
    is_share = better is None
    if match := _NOT_WORSE.fullmatch(text):
        margin = float(match["margin"])
        if margin <= 0 or (is_share and margin >= 1):
            raise UsageError(
                f"the margin must be {'a share above 0 and below 1' if is_share else 'above 0'}, "
                f"but is {match['margin']}",
                where=where,
                fix=f'write "not worse than {match["of"]} by {_share(margin) or 0.03:g}"',
            )
        return Claim(
            subject, other_model(match["of"], subject, allowed, where), margin, text, is_share
        )
    if match := _BETTER.fullmatch(text):
        if re.fullmatch(NUMBER if is_share else rf"-?{NUMBER}", match["of"]):
            number = float(match["of"])
            if is_share and number >= 1:
                raise UsageError(
                    f"nothing is better than {number:g}: metrics are shares from 0 to 1",
                    where=where,
                    fix=f'write "significantly better than {_share(number):g}"',
                )
            return Claim(subject, number, None, text, is_share)
        return Claim(
            subject, other_model(match["of"], subject, allowed, where), None, text, is_share
        )
    raise UsageError(
        'a requirement in words must be "not worse than MODEL by MARGIN" or "significantly better '
        'than MODEL"',
        where=where,
        fix=_fix(text, subject, models),
    )


def other_model(of: str, subject: Metric, allowed: Names, where: str) -> str:
    """The model that is compared with."""
    if of not in allowed.models and "." not in of:
        raise allowed.unknown(of, where)
    model, metric = (of, subject[1]) if of in allowed.models else allowed.metric(of, where)
    if metric != subject[1]:
        raise UsageError(
            f"{subject[1]} can only be compared with the same metric of another model",
            where=where,
            fix=f"write {model} instead of {of}",
        )
    if model == subject[0]:
        rivals = [name for name in allowed.models if name != model]
        raise UsageError(
            f"{model} is compared with itself",
            where=where,
            fix=f"name another model, e.g. {rivals[0]}" if rivals else "add a model to `models`",
        )
    return model


def _fix(text: str, subject: Metric, models: Sequence[str]) -> str:
    """The two forms, with the model and the number that the text names."""
    words = {word.strip(".,;:") for word in text.split()}
    rivals = [name for name in models if name != subject[0]]
    named = [n for n in rivals if n in words or f"{n}.{subject[1]}" in words] or rivals or ["base"]
    numbers = [word for word in text.split() if not word.startswith(tuple(models))]
    match = _MARGIN.search(" ".join(numbers))
    margin = _share(float(match["number"]), bool(match["unit"])) if match else 0.03
    better = f'"significantly better than {named[0]}"'
    not_worse = f'"not worse than {named[0]} by {margin:g}"'
    return f"write {better if _MEANS_BETTER.search(text) else not_worse}"


def _share(number: float, is_percent: bool = False) -> float:
    return number / 100 if is_percent or 1 <= number <= 100 else number if number < 1 else 0.03


# -- held against a report -----------------------------------------------------------------------


def unmet(claims: Sequence[Claim], report: Report, answers: Lines = tuple) -> list[str]:
    """A line for each claim that a `Metrics` report doesn't show."""
    differences = [(claim, _difference(claim, report)) for claim in claims]
    p_values = [d.p_value for claim, d in differences if d is not None and claim.rests_on_p]
    adjusted = iter(stats.holm(p_values))
    lines = []
    for claim, difference in differences:
        rows = report.rows if difference is None else difference.rows or report.rows
        if difference is None:
            lines.append(_untested(claim, report))
        elif claim.margin is not None:
            score = _score_test(claim, claim.margin, report, answers)
            lines.append(_worse(claim, difference, claim.margin, rows, score))
        elif claim.rests_on_p:
            lines.append(_not_better(claim, difference, next(adjusted), rows))
        else:
            lines.append(_not_above(claim, difference, rows))
    return [line for line in lines if line]


def _difference(claim: Claim, report: Report) -> Difference | None:
    """The subject minus what it is compared with; None if they aren't compared."""
    model, metric = claim.subject
    if isinstance(claim.than, float):
        score = report.score(model, metric)
        if score is None or score.interval is None:
            return None
        ends = (score.interval[0] - claim.than, score.interval[1] - claim.than)
        return Difference(score.value - claim.than, ends, 1.0, report.rows_of(model, metric))
    return between(report.pairs, model, str(claim.than)).get(metric)


def _untested(claim: Claim, report: Report) -> str:
    """Why there is nothing to hold a claim against."""
    model, metric = claim.subject
    names = [model, *([claim.than] if isinstance(claim.than, str) else [])]
    unknown = [name for name in names if report.score(name, metric) is None]
    if unknown:
        return f"{claim} can't be compared with {claim.than}: {unknown[0]}.{metric} isn't known"
    if isinstance(claim.than, str):
        return f"{claim} isn't compared with {claim.than} by this step"
    value = report.scores[model][metric].value
    return f"{claim} is {value:.4g}, but has no interval to compare with {claim.than:g}"


def _worse(claim: Claim, d: Difference, margin: float, rows: int, score: bool | None) -> str:
    """Why it isn't shown that a model isn't worse; empty if it is.

    score: what the score test says, which decides where it is asked.
    """
    low, high = d.interval
    if low > -margin if score is None else score:
        return ""
    allowed = f"{100 * margin:g} points" if claim.is_share else f"{margin:g}"
    head = f"{claim} {_compared(claim, d, rows)}; required: not worse by {allowed}. "
    if high < -margin:
        return f"{head}It is worse by more than that"
    if low > -margin:
        return f"{head}Few rows differ, and the score test (Tango 1998) doesn't show it"
    worst = f"{-100 * low:z.1f} points" if claim.is_share else f"{-low:.4g}"
    may = f"It may be up to {worst} worse: {rows:,} rows don't show that it isn't"
    return f"{head}{may}{_more(d.value + margin, d, rows)}"


def _score_test(claim: Claim, margin: float, report: Report, answers: Lines) -> bool | None:
    """Whether the score test shows that a model isn't worse; None where the interval decides.

    It decides about yes or no, and about means where few numbers or groups differ. Metrics with a
    statistic, and evaluations without answers, have only the interval.
    """
    models = by_model(answers()) if claim.is_share else {}
    pairs = paired(models.get(str(claim.than), ()), models.get(claim.subject[0], ()))
    measure = measure_between(pairs, claim.subject[1], report, report) if pairs.pairs else None
    if not isinstance(measure, Measure):
        return None
    columns = zip(*(measure.values[side] for side in SIDES), strict=True)
    gains = {i: float(b) - float(a) for i, (a, b) in enumerate(columns) if None not in (a, b)}
    groups = [[i for i in group if i in gains] for group in measure.groups or [[i] for i in gains]]
    sums = [sum(gains[i] for i in group) for group in groups if group]
    if not sums:
        return None
    is_exact = measure.groups is None and {*gains.values()} <= {-1.0, 0.0, 1.0}
    if not is_exact and (sum(map(bool, sums)) >= FEW or measure.statistic not in (None, mean)):
        return None
    n = effective([group for group in groups if group])
    gained, lost = (sum(max(0.0, sign * total) for total in sums) for sign in (1, -1))
    weight = n / len(gains)
    return not_worse_z(weight * gained, weight * lost, n, margin) > Z95


def _not_better(claim: Claim, d: Difference, p_value: float, rows: int) -> str:
    """Why it isn't shown that a model is better than another; empty if it is."""
    if d.value > 0 and p_value < LEVEL:
        return ""
    p = f"p = {p_value:.2g}" if p_value == d.p_value else f"p = {p_value:.2g} after Holm"
    head = f"{claim} {_compared(claim, d, rows)}, {p}; required: significantly better. "
    if d.value <= 0:
        return f"{head}It isn't better on these rows"
    return f"{head}Such a difference can be luck with {rows:,} rows{_more(d.value, d, rows)}"


def _not_above(claim: Claim, d: Difference, rows: int) -> str:
    """Why it isn't shown that a score is above a number; empty if it is."""
    low, high = d.interval
    if low > 0:
        return ""
    assert isinstance(claim.than, float)
    score = f"{claim} is {d.value + claim.than:.4g} (95 % CI {low + claim.than:.3f} to "
    head = f"{score}{high + claim.than:.3f}, {rows:,} rows); required: {claim.text.strip()}. "
    if d.value <= 0:
        return f"{head}It is lower on these rows"
    return f"{head}A score like this can be luck with {rows:,} rows{_more(d.value, d, rows)}"


def _compared(claim: Claim, d: Difference, rows: int) -> str:
    if claim.is_share:
        value, interval = f"{in_points(d.value)} points", range_in_points(d.interval)
    else:
        value, *ends = (signed(number, ".4g") for number in (d.value, *d.interval))
        interval = " to ".join(ends)
    return f"against {claim.than}: {value} (95 % CI {interval}, {rows:,} rows)"


def _more(distance: float, d: Difference, rows: int) -> str:
    return more_rows(rows, (d.interval[1] - d.interval[0]) / 2, distance)


def more_rows(rows: int, half: float, distance: float) -> str:
    """How many rows would prove it if the difference stays the same; empty if none would.

    half: half the width of the interval.
    """
    needed = rows_to_show(rows, half, distance)
    if math.isinf(needed) or needed <= rows:
        return ""
    digits = 10 ** max(0, int(math.log10(needed)) - 1)
    return f". If it stays like this, about {math.ceil(needed / digits) * digits:,} rows would"
