"""The differences between two evaluations by the same step: scores, and changed answers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from finery import Metrics
from finery.advanced import counted, in_points
from finery.rows.report import Report, ReportTable
from finery.views import (
    Change,
    Column,
    Field,
    Finding,
    Part,
    Plot,
    Quantity,
    Record,
    Records,
    Table,
    Text,
)
from finery_eval.measure import MCNEMAR, SIGN_FLIPS, Measure
from finery_eval.predictions import (
    SIDES,
    Facts,
    Incomparable,
    Pairs,
    by_model,
    measure_between,
    paired,
)
from finery_eval.stats import holm
from finery_eval.tables import BETTER, NOT_SHOWN, verdict_of
from finery_eval.view.answers import PLACE, answer_of, question_fields, reasons
from finery_eval.view.tables import headline, own_tables

CONVERSATIONS = "sign flips of conversations"
"""The test where answers are to the turns of conversations."""


def difference_of(before: Metrics, after: Metrics) -> dict[str, Any]:
    """The differences as JSON values, with every changed answer."""
    reports = before.report(), after.report()
    answers = by_model(before.predictions()), by_model(after.predictions())
    models = [report.scores.keys() for report in reports]
    shared = [model for model in models[1] if model in models[0]]
    compared = {
        model: _of_model(model, reports, (answers[0].get(model, []), answers[1].get(model, [])))
        for model in shared
    }
    tests = [f["test"] for m in compared.values() for f in m["metrics"].values() if f["test"]]
    for test, p_value in zip(tests, holm([test["p_value"] for test in tests]), strict=True):
        test["p_holm"] = p_value
    return {
        "rows": [report.rows for report in reports],
        "only_before": [model for model in models[0] if model not in models[1]],
        "only_after": [model for model in models[1] if model not in models[0]],
        "models": compared,
        "changes": _changes(compared),
    }


def _of_model(
    model: str, reports: tuple[Report, Report], answers: tuple[Sequence[Facts], Sequence[Facts]]
) -> dict[str, Any]:
    pairs = paired(*answers)
    scores = [report.scores.get(model, {}) for report in reports]
    metrics = {}
    for metric in (m for m in headline(reports[1]) if m in scores[0] and m in scores[1]):
        values, is_share = [s[metric].value for s in scores], reports[1].is_share(metric)
        measure = measure_between(pairs, metric, *reports)
        test = _test(pairs, measure) if isinstance(measure, Measure) else None
        facts: dict[str, Any] = {"values": values, "test": test, "is_share": is_share}
        if isinstance(measure, Incomparable):
            facts |= {
                "incomparable": measure.reason,
                "intervals": [s[metric].interval for s in scores],
            }
        metrics[metric] = facts
    rights = [(pair, pair[0].get("correct"), pair[1].get("correct")) for pair in pairs.pairs]
    return {
        "metrics": metrics,
        "paired": len(pairs.pairs),
        "changed": pairs.changed,
        "only_before": pairs.only_first,
        "only_after": pairs.only_second,
        "gained": [flip(*pair) for pair, a, b in rights if a is False and b is True],
        "lost": [flip(*pair) for pair, a, b in rights if a is True and b is False],
        "answers_changed": sum(answer_of(a) != answer_of(b) for a, b in pairs.pairs),
    }


def _test(pairs: Pairs, measure: Measure) -> dict[str, Any] | None:
    """The difference of a metric on the paired rows, with interval and p-value; None without one.

    gained, lost: answers that count only for the second or only for the first; None if the metric
    isn't yes or no.
    """
    between = measure.difference(*SIDES)
    if between is None:
        return None
    counts: dict[str, int | None] = {"gained": None, "lost": None}
    if measure.test in (MCNEMAR, SIGN_FLIPS):
        both = list(zip(*measure.values.values(), strict=True))
        counts = {"gained": both.count((False, True)), "lost": both.count((True, False))}
    conversations = measure.test == SIGN_FLIPS and any("turn" in facts for facts, _ in pairs.pairs)
    test = CONVERSATIONS if conversations else measure.test
    return {**msgspec.to_builtins(between), **counts, "test": test}


def flip(before: Facts, after: Facts) -> dict[str, Any]:
    """An answer that is right before or after only, as JSON values."""
    place = {name: after[name] for name in PLACE if name in after}
    wrong = before if before.get("correct") is False else after
    return {
        "id": after.get("id", ""),
        **place,
        "prompt": after.get("prompt", ""),
        "expected": after.get("expected"),
        "before": answer_of(before),
        "after": answer_of(after),
        "why": list(reasons(wrong)),
    }


def _changes(models: Mapping[str, Any]) -> dict[str, list[str]]:
    """`better`, `worse` or `unclear` → the first metric of each model that changed, in words."""
    changes: dict[str, list[str]] = {}
    for model, model_facts in models.items():
        moved = [each for each in model_facts["metrics"].items() if len({*each[1]["values"]}) > 1]
        for metric, facts in moved[:1]:
            test, (before, after) = facts["test"], facts["values"]
            kind = verdict_of(test["difference"], test["p_holm"]) if test else NOT_SHOWN
            gap = f"{in_points(after - before)} points" if facts["is_share"] else "changed"
            gap = "can't be compared" if "incomparable" in facts else gap
            is_clear = kind != NOT_SHOWN and facts["is_share"]  # of others, lower may be better
            texts = changes.setdefault(kind if is_clear else "unclear", [])
            texts.append(f"{model} {metric} {gap}")
    return changes


# -- as parts -------------------------------------------------------------------------------------


TONES: Mapping[str, Literal["good", "bad", "open"]] = {
    "better": "good", "worse": "bad", "unclear": "open",
}  # fmt: skip


def compared_parts(data: Mapping[str, Any], rows_shown: int) -> Iterator[Part]:
    """What changed in a line, scores side by side, then answers that flipped.

    rows_shown: how many answers of each model that flipped one way.
    """
    for kind, texts in data["changes"].items():
        yield from (Finding("What changed?", text, TONES[kind]) for text in texts)
    same = [model for model, facts in data["models"].items() if _is_same(facts)]
    changed = {model: facts for model, facts in data["models"].items() if model not in same}
    if changed:
        yield _table(data["rows"], changed)
    if same:
        yield Text(f"the same answers in both: {', '.join(same)}")
    for name, models in (("A", data["only_before"]), ("B", data["only_after"])):
        if models:
            yield Text(f"judged only in {name}: {', '.join(models)}")
    yield from (Text(line, "soft") for line in _remarks(changed))
    for model, model_facts in data["models"].items():
        yield from flipped(model, model_facts, rows_shown)


def changed_parts(before: Report, after: Report) -> Iterator[Part]:
    """The plots and the tables of the evaluator itself that differ, by their titles."""
    sides = []
    for report in (before, after):
        parts: list[ReportTable | Plot] = [*report.plots, *own_tables(report)]
        sides.append({part.title: part for part in parts})
    for title in dict.fromkeys([*sides[1], *sides[0]]):
        old, new = (side.get(title) for side in sides)
        if old is None or new is None:
            yield Text(f"only in {'A' if new is None else 'B'}: {title}", "soft")
        elif getattr(old, "columns", None) != getattr(new, "columns", None):
            yield Text(f"with other columns in B: {title}", "soft")
        elif old != new:
            yield Change(old, new)


def _is_same(model_facts: Mapping[str, Any]) -> bool:
    """Whether a model gave the same answers to the same rows, and has the same scores."""
    rows = model_facts["paired"] and not (
        model_facts["changed"] or model_facts["only_before"] or model_facts["only_after"]
    )
    values = [facts["values"] for facts in model_facts["metrics"].values()]
    return bool(rows) and not model_facts["answers_changed"] and all(a == b for a, b in values)


def _table(rows: Sequence[int], models: Mapping[str, Any]) -> Table:
    before, after = rows
    counts = f"{before} rows" if before == after else f"{before} → {after} rows"
    heads = (
        "model",
        "metric",
        "A",
        "B",
        "diff.",
        "p (Holm)",
        Column("gained", 2),
        Column("lost", 2),
    )
    cells = []
    for model, model_facts in models.items():
        for index, (metric, facts) in enumerate(model_facts["metrics"].items()):
            test = facts["test"]
            unit: Literal["share", ""] = "share" if facts["is_share"] else ""
            ends = facts.get("intervals") or (None, None)
            values = zip(facts["values"], ends, strict=True)
            row = ["" if index else model, metric, *(Quantity(v, unit, ci) for v, ci in values)]
            row += [None if "incomparable" in facts else _gap(facts), *[None] * 3]
            if test is not None:
                row[-3:] = Quantity(test["p_holm"], "p"), test["gained"], test["lost"]
            cells.append(row)
    return Table(heads, cells, f"{counts}; differences in points, B minus A")


def _gap(facts: Mapping[str, Any]) -> Quantity:
    """The difference of a metric, with its interval, and its colour if the test shows it."""
    (before, after), test = facts["values"], facts["test"]
    unit: Literal["difference", "change"] = "difference" if facts["is_share"] else "change"
    if test is None:
        return Quantity(after - before, unit)
    verdict = verdict_of(test["difference"], test["p_holm"])
    tone: Literal["", "good", "bad"] = ""
    if facts["is_share"] and verdict != NOT_SHOWN:  # of others, lower may be better
        tone = "good" if verdict == BETTER else "bad"
    return Quantity(test["difference"], unit, tuple(test["interval"]), tone)


def _remarks(models: Mapping[str, Any]) -> Iterator[str]:
    """Remarks on the rows behind the tests; one remark if it applies to all models."""
    texts: dict[str, list[str]] = {}
    for model, facts in models.items():
        for text in _remark(facts):
            texts.setdefault(text, []).append(model)
    for text, names in texts.items():
        yield text if len(names) == len(models) else f"{', '.join(names)}: {text}"


def _remark(model_facts: Mapping[str, Any]) -> Iterator[str]:
    for metric, facts in model_facts["metrics"].items():
        if why := facts.get("incomparable"):
            yield f"{metric} can't be compared: {why}"
    changed, before, after = (
        model_facts["changed"],
        model_facts["only_before"],
        model_facts["only_after"],
    )
    if changed or before or after:
        parts = [f"{counted(model_facts['paired'], 'row')} paired"]
        parts += [f"{counted(before, 'row')} only in A"] if before else []
        parts += [f"{counted(after, 'row')} only in B"] if after else []
        parts += [f"{counted(changed, 'row')} with another question or answer"] if changed else []
        yield f"{', '.join(parts)}; difference and test are of the paired rows"
        tests = {m: f["test"] for m, f in model_facts["metrics"].items() if "incomparable" not in f}
        untested = [metric for metric, test in tests.items() if test is None]
        if untested:
            names = ", ".join(untested)
            yield f"untested: {names}; the difference is between all rows of each side"


def flipped(
    model: str, facts: Mapping[str, Any], rows_shown: int, sides: tuple[str, str] = ("A", "B")
) -> Iterator[Records]:
    """The answers that are right on one side only. facts: `lost` and `gained`, see `flip`."""
    first, second = sides
    for kind in ("lost", "gained"):
        flips, is_lost = facts[kind], kind == "lost"
        text = f"{'right' if is_lost else 'wrong'} in {first}, "
        text += f"{'wrong' if is_lost else 'right'} in {second}"
        records = [
            Record(
                [
                    *question_fields(flip),
                    Field(first, flip["before"], "good" if is_lost else "bad"),
                    Field(second, flip["after"], "bad" if is_lost else "good"),
                    *([Field("why wrong", "\n".join(flip["why"]), "soft")] if flip["why"] else []),
                ]
            )
            for flip in flips
        ]
        hint = f"(--flips {len(flips)}: all)" if len(flips) > rows_shown else ""
        yield Records(records, len(flips), f"{model}: {text}", rows_shown, more=hint)
