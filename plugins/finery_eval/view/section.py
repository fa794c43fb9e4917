"""The section of evaluations on a page: scores, tests, tables, and every answer with filters."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from finery import Dataset
from finery.rows.parts import prompt_text, row_id_of
from finery.rows.report import Report, Table
from finery.util.text import in_points, range_in_points
from finery.views import Finding, Output, PageContext, PageSection, render_page
from finery_eval.planning import unseen_classes
from finery_eval.predictions import Facts
from finery_eval.steps.classification import confusion_of
from finery_eval.steps.curve import TITLES
from finery_eval.view.answers import answer_of, compact, context_of, reasons
from finery_eval.view.confusion import pairs_of
from finery_eval.view.findings import findings
from finery_eval.view.judgements import ORDER, Judgement, comparisons_of, judgements
from finery_eval.view.learning import drawn, learned
from finery_eval.view.tables import cell_text, headline, own_words, p_text, score_texts

TEMPLATE = "finery_eval.view/section.html.jinja"
CLASSES = "Does the training have all classes of the test?"
CONFUSED = 8
"""Confused pairs of classes that are listed for a field."""


def section_of(outputs: Sequence[Output], context: PageContext) -> PageSection:
    """The section about all evaluations of a build, or about one."""
    judged = judgements(outputs, context.graph)
    by_answer = [each for each in judged if not each.is_timed]
    answers = list(_answers(by_answer, context))
    learns = any(node.trains for node in context.graph.nodes.values())
    steps = [(output.title, [j for j in judged if j.step == output.step]) for output in outputs]
    unseen = (Finding(CLASSES, f"No. {text}.", "bad", 2) for _, text in unseen_classes(
        context.graph, lambda source: context.built(source.ref)
    ))  # fmt: skip
    html = render_page(
        TEMPLATE,
        steps=[_step(title, of) for title, of in steps if of],
        tests=[
            (
                models,
                test.metric,
                f"{test.rows:,}",
                in_points(test.difference.value),
                range_in_points(test.difference.interval),
                p_text(test.difference.p_value),
                p_text(test.p_holm),
            )
            for models, test in comparisons_of(by_answer)
        ],
        browsers=[(group["id"], group["title"], len(group["rows"])) for group in answers],
    )
    return PageSection(
        "Scores and answers",
        html,
        rank=10,
        findings=[*findings(judged, has_training=learns), *unseen],
        style=_file("section.css"),
        script=_file("answers.js") if answers else "",
        data={group["id"]: group for group in answers},
    )


def _step(title: str, judged: Sequence[Judgement]) -> dict[str, Any]:
    report = judged[0].report
    metrics = headline(report)
    # Slices have tables of their own.
    tables = [
        (table.title, table.columns, _cells(table))
        for table in report.tables
        if table.columns[0] not in report.slices or table.columns[1:3] != ["rows", "model"]
    ]
    # What readers ask for: a learning curve, or a verdict on a baseline.
    tuned = [each.model for each in judged if each.role == "tuned"]
    starts = (*TITLES, *(f"{model} against the baseline " for model in tuned))
    open_ones = [table for table in tables if table[0].startswith(starts)]
    return {
        "title": title,
        "use": judged[0].use,
        "rows": report.rows,
        "metrics": metrics,
        "models": [
            (
                each.model,
                each.role,
                [score_texts(report.score(each.model, m), m, report) for m in metrics],
            )
            for each in judged
        ],
        "words": [f"{text}." for text in own_words(report)],
        "learned": drawn(curve) if (curve := learned(report)) is not None else None,
        "remarks": [f"{remark.text}. {remark.advice}".strip() for remark in report.remarks],
        "slices": list(_slices(report)),
        "open_tables": open_ones,
        "tables": [table for table in tables if table not in open_ones],
        "confused": [
            (f"{model}: {field}", pairs[:CONFUSED])
            for model, fields in confusion_of(report).items()
            for field, matrix in fields.items()
            if (pairs := pairs_of(matrix))
        ],
    }


def _cells(table: Table) -> list[list[str]]:
    units = [table.units.get(name) for name in table.columns]
    return [[cell_text(*cell) for cell in zip(row, units, strict=True)] for row in table.rows]


def _slices(report: Report) -> Iterator[tuple[str, str, list[str], list[Any]]]:
    """(column, metric, models, (value, rows, scores)) of each slicing, by the first metric."""
    metric, models = next(iter(headline(report)), ""), list(report.scores)
    for name, values in report.slices.items():
        rows = []
        for value, part in values.items():
            texts = [score_texts(part.score(model, metric), metric, report) for model in models]
            rows.append((value, f"{part.rows:,}", texts))
        yield name, metric, models, rows


# -- the browser of answers ----------------------------------------------------------------------


def _answers(judged: Sequence[Judgement], context: PageContext) -> Iterator[dict[str, Any]]:
    """The answers in groups: steps of one type with the same rows share one."""
    groups: dict[Any, list[Judgement]] = {}
    for every in judged:
        each = every._replace(answers=[a for a in every.answers if "correct" in a or "answer" in a])
        if each.answers:
            places = ((a.get("id"), a.get("turn"), a.get("message")) for a in each.answers)
            groups.setdefault((each.use, *places), []).append(each)
    for number, group in enumerate(groups.values()):
        steps = list(dict.fromkeys(each.step for each in group))
        models = {each.model: each for each in group}.values()
        ordered = sorted(models, key=lambda each: ORDER[each.role])
        prompts = _prompts(steps[0], context)
        yield {
            "id": f"answers-{number}",
            "title": ", ".join(steps),
            "models": [each.model for each in ordered],
            "roles": [each.role for each in ordered],
            "rows": [
                _row(lines, prompts) for lines in zip(*(e.answers for e in ordered), strict=True)
            ],
        }


def _row(lines: Sequence[Facts], prompts: Mapping[str, str]) -> dict[str, Any]:
    """The answers of all models to one row."""
    first = lines[0]
    row_id = str(first.get("id", ""))
    return {
        "id": row_id,
        "at": f"turn {first['turn']}" if "turn" in first else context_of(first),
        "prompt": prompts.get(row_id, str(first.get("prompt", ""))),
        "expected": compact(first.get("expected", "")),
        "answers": [_answer(line) for line in lines],
    }


def _answer(facts: Facts) -> list[Any]:
    """[the answer, whether it is right (None: not judged), why it is wrong, thinking]."""
    right = facts.get("correct")
    why = "\n".join(reasons(facts)) if right is False else ""
    return [answer_of(facts), right, why, str(facts.get("reasoning") or "")]


def _prompts(step: str, context: PageContext) -> dict[str, str]:
    """Row id → its complete prompt, for rows in the store."""
    node = context.graph.nodes.get(step)
    found: dict[str, str] = {}
    for source in node.sources_of(Dataset) if node else ():
        dataset = context.built(source.ref)
        if isinstance(dataset, Dataset):
            found |= {row_id_of(row): text for row in dataset if (text := prompt_text(row))}
    return found


@cache
def _file(name: str) -> str:
    return files("finery_eval.view").joinpath(name).read_text(encoding="utf-8")
