"""The section of evaluations on a page: scores, tests, tables, and every answer with filters."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from finery import Dataset
from finery.rows.parts import id_of, prompt
from finery.util.text import in_points, range_in_points
from finery.views import Output, PageContext, PageSection, render_page
from finery_eval.predictions import Facts
from finery_eval.steps.curve import TITLES
from finery_eval.view.answers import answer_of, compact, context_of, reasons
from finery_eval.view.confusion import pairs_of
from finery_eval.view.learning import drawn, learned
from finery_eval.view.report.findings import (
    ORDER,
    Comparison,
    Judgement,
    comparisons_of,
    findings,
    judgements,
)
from finery_eval.view.tables import (
    Report,
    cell_text,
    headline,
    interval_text,
    own_words,
    score_text,
)

TEMPLATE = "finery_eval.view.report/section.html.jinja"
CONFUSED = 8
"""Confused pairs of classes that are listed for a field."""


def section_of(outputs: Sequence[Output], context: PageContext) -> PageSection:
    """The section about all evaluations of a build, or about one."""
    judged = judgements(outputs, context.graph)
    answers = list(_answers(judged, context))
    learns = any(node.trains for node in context.graph.nodes.values())
    html = render_page(
        TEMPLATE,
        steps=[_step(output.title, of) for output in outputs if (of := _by(judged, output.step))],
        tests=[_test(test) for test in comparisons_of(judged)],
        browsers=[(group["id"], group["title"], len(group["rows"])) for group in answers],
    )
    return PageSection(
        "Scores and answers",
        html,
        rank=40,
        findings=list(findings(judged, has_training=learns)),
        style=_file("section.css"),
        script=_file("answers.js") if answers else "",
        data={group["id"]: group for group in answers},
    )


def _by(judged: Sequence[Judgement], step: str) -> list[Judgement]:
    return [each for each in judged if each.step == step]


def _step(title: str, judged: Sequence[Judgement]) -> dict[str, Any]:
    report = judged[0].report
    tables = [(t["title"], t["columns"], _cells(t)) for t in _tables(report)]
    tuned = [each.model for each in judged if each.role == "tuned"]
    open_ones = {title for title, *_ in tables if _is_open(title, tuned)}
    return {
        "title": title,
        "use": judged[0].use,
        "rows": report["rows"],
        "metrics": headline(report),
        "models": [
            (each.model, each.role, [_score(report, each.model, m) for m in headline(report)])
            for each in judged
        ],
        "words": [f"{text}." for text in own_words(report)],
        "learned": drawn(curve) if (curve := learned(report)) is not None else None,
        "remarks": [
            f"{remark['text']}. {remark.get('advice', '')}".strip()
            for remark in report["details"].get("remarks", ())
        ],
        "slices": list(_slices(report)),
        "open_tables": [t for t in tables if t[0] in open_ones],
        "tables": [t for t in tables if t[0] not in open_ones],
        "confused": list(_confused(report)),
    }


def _is_open(title: str, tuned: Sequence[str]) -> bool:
    """Whether readers look for this table: a learning curve, or a verdict on a baseline."""
    return title in TITLES or any(title.startswith(f"{m} against the baseline ") for m in tuned)


def _score(report: Report, model: str, metric: str) -> tuple[str, str]:
    """(value, 95 % interval) as text."""
    value = report["scores"].get(model, {}).get(metric)
    interval = report["intervals"].get(model, {}).get(metric)
    bounds = interval_text(report, metric, interval) if interval else ""
    return ("—" if value is None else score_text(report, metric, value)), bounds


def _tables(report: Report) -> list[Mapping[str, Any]]:
    """The evaluator's tables without those of slices, which are shown differently."""
    sliced = report["details"].get("slices", {})
    tables = report["details"].get("tables", [])
    return [
        table
        for table in tables
        if table["columns"][0] not in sliced or table["columns"][1:3] != ["rows", "model"]
    ]


def _cells(table: Mapping[str, Any]) -> list[list[str]]:
    units = table.get("units", {})
    return [
        [
            cell_text(value, units.get(name))
            for name, value in zip(table["columns"], row, strict=True)
        ]
        for row in table["rows"]
    ]


def _confused(report: Report) -> Iterator[tuple[str, list[Any]]]:
    """(model and field, the most confused pairs of classes)."""
    for model, fields in report["details"].get("confusion", {}).items():
        for field, matrix in fields.items():
            pairs = pairs_of(matrix)[:CONFUSED]
            if pairs:
                yield f"{model}: {field}", pairs


def _test(test: Comparison) -> tuple[str, str, str, str, str, str, str]:
    """(models, metric, rows, difference, interval, p, p of all) as text."""
    return (test.models, test.metric, f"{test.rows:,}", in_points(test.difference),
            range_in_points(test.interval), _p(test.p_value), _p(test.p_holm))  # fmt: skip


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _slices(report: Report) -> Iterator[tuple[str, str, list[str], list[Any]]]:
    """(column, metric, models, (value, rows, scores)) of each slicing, by the first metric."""
    metric = next(iter(headline(report)), "")
    for name, values in report["details"].get("slices", {}).items():
        models = list(report["scores"])
        rows = [
            (value, f"{of['rows']:,}", [_score(of, model, metric) for model in models])
            for value, of in values.items()
        ]
        yield name, metric, models, rows


# -- the browser of answers ----------------------------------------------------------------------


def _answers(judged: Sequence[Judgement], context: PageContext) -> Iterator[dict[str, Any]]:
    """The answers in groups: steps of one type with the same rows share one."""
    groups: dict[Any, list[Judgement]] = {}
    for every in judged:
        each = every._replace(answers=[a for a in every.answers if "correct" in a or "answer" in a])
        if each.answers:
            groups.setdefault((each.use, *_places(each.answers)), []).append(each)
    for number, group in enumerate(groups.values()):
        unique = {each.model: each for each in group}
        yield _group(f"answers-{number}", list(unique.values()), group, context)


def _places(answers: Sequence[Facts]) -> tuple[Any, ...]:
    return tuple((a.get("id"), a.get("turn"), a.get("message")) for a in answers)


def _group(
    name: str, judged: Sequence[Judgement], every: Sequence[Judgement], context: PageContext
) -> dict[str, Any]:
    steps = list(dict.fromkeys(each.step for each in every))
    ordered = sorted(judged, key=lambda each: ORDER[each.role])
    prompts = _prompts(steps[0], context)
    rows = [
        {
            "id": str(lines[0].get("id", "")),
            "at": f"turn {lines[0]['turn']}" if "turn" in lines[0] else context_of(lines[0]),
            "prompt": prompts.get(str(lines[0].get("id", "")), str(lines[0].get("prompt", ""))),
            "expected": compact(lines[0].get("expected", "")),
            "answers": [_answer(line) for line in lines],
        }
        for lines in zip(*(each.answers for each in ordered), strict=True)
    ]
    roles = [each.role for each in ordered]
    return {"id": name, "title": ", ".join(steps), "models": [e.model for e in ordered],
            "roles": roles, "rows": rows}  # fmt: skip


def _answer(facts: Facts) -> list[Any]:
    """[the answer, whether it is right (None: not judged), why it is wrong, thinking]."""
    correct = facts.get("correct")
    right = correct if isinstance(correct, bool) else None
    why = "\n".join(reasons(facts)) if right is False else ""
    return [answer_of(facts), right, why, str(facts.get("reasoning") or "")]


def _prompts(step: str, context: PageContext) -> dict[str, str]:
    """Row id → its complete prompt, for rows in the store."""
    node = context.graph.nodes.get(step)
    found: dict[str, str] = {}
    for source in node.sources_of(Dataset) if node else ():
        dataset = context.built(source.ref)
        if isinstance(dataset, Dataset):
            found |= {id_of(row): text for row in dataset if (text := prompt(row))}
    return found


@cache
def _file(name: str) -> str:
    return files("finery_eval.view.report").joinpath(name).read_text(encoding="utf-8")
