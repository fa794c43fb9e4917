"""Answers: all of them by model, and why they are wrong, with the nearest training rows."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Literal

from finery import Dataset, Metrics
from finery.advanced import Graph
from finery.rows import Row, Turns, answer_text, split_turns
from finery.rows.parts import prompt_text, row_id_of
from finery.rows.similar import SimilarIndex, question_text
from finery.views import Context, Field, Record, Records
from finery_eval.calls import shown_call
from finery_eval.view.judgements import ORDER, Judgement


def reasons(facts: Mapping[str, Any]) -> Iterator[str]:
    """The reasons why an answer is wrong.

    These facts are read: `error` and `problem`, texts; `broken`, names of rules; `differs`,
    field → its `expected` and `answered` value, of which one may be missing; `changed`, the same of
    the parts of a state; `expected` and
    `prediction` where both have fields; `chosen_logprob` and `rejected_logprob` of a preference.
    """
    yield from (str(facts[name]) for name in ("error", "problem") if facts.get(name))
    if facts.get("broken"):
        yield f"breaks {', '.join(map(str, facts['broken']))}"
    # An answer that can't be read differs everywhere.
    parts = [] if facts.get("problem") else [*_differing(facts).items()]
    for part, values in (*parts, *(facts.get("changed") or {}).items()):
        answered, expected = (
            json.dumps(values[name], ensure_ascii=False) if name in values else "nothing"
            for name in ("answered", "expected")
        )
        yield f"{part or 'the whole'}: {answered}, expected {expected}"
    if "chosen_logprob" in facts:
        chosen, rejected = facts["chosen_logprob"], facts["rejected_logprob"]
        yield f"log-probability of the chosen answer {chosen:.2f}, of the rejected {rejected:.2f}"


def answer_of(facts: Mapping[str, Any]) -> str:
    """The answer: its text, JSON in one line, and its tool calls, one a line."""
    text = compact(facts.get("answer", ""))
    with suppress(ValueError):
        read = json.loads(text)
        text = compact(read) if isinstance(read, dict | list) else text
    return "\n".join([*([text] if text else []), *map(shown_call, facts.get("tool_calls") or [])])


PLACE = ("turn", "message", "context")
"""Facts that distinguish several answers to one row."""


def turn_of(facts: Mapping[str, Any]) -> str:
    """The turn of a conversation that an answer belongs to, and its position in the row."""
    message = f" (message {facts['message']})" if "message" in facts else ""
    return f"turn {facts['turn']}{message}"


def place_of(facts: Mapping[str, Any]) -> str:
    """Which answer this is: the id of its row, its turn and its context."""
    turn = turn_of(facts) if "turn" in facts else ""
    return ", ".join(filter(None, (str(facts.get("id", "")), turn, context_of(facts))))


def question_fields(facts: Mapping[str, Any], prompt: str = "") -> Iterator[Field]:
    """Which row an answer is to, its prompt or the beginning of it, and what is expected."""
    yield Field("row", place_of(facts), "soft")
    if prompt or facts.get("prompt"):
        yield Field("prompt", prompt or str(facts["prompt"]))
    if facts.get("expected") is not None:
        yield Field("expected", compact(facts["expected"]))


def context_of(facts: Mapping[str, Any]) -> str:
    """Which of several contexts a question had; empty if there is only one."""
    return f"context: {facts['context']}" if "context" in facts else ""


def compact(value: Any) -> str:
    """A text as it is, anything else as JSON in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _differing(facts: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    if "differs" in facts:
        return facts["differs"] or {}
    expected, read = facts.get("expected"), facts.get("prediction")
    if not (isinstance(expected, dict) and isinstance(read, dict)):
        return {}
    return {
        field: {"expected": value} | ({} if read.get(field) is None else {"answered": read[field]})
        for field, value in expected.items()
        if read.get(field) != value
    }


# -- all answers ----------------------------------------------------------------------------------


def browsers(judged: Sequence[Judgement], context: Context, model: str = "") -> Iterator[Records]:
    """The answers in groups: steps of one type with the same rows share one.

    model: the one to look at; by default the trained one.
    """
    groups: dict[Any, list[Judgement]] = {}
    for every in judged:
        each = every._replace(answers=[a for a in every.answers if "correct" in a or "answer" in a])
        if each.answers:
            places = ((a.get("id"), a.get("turn"), a.get("message")) for a in each.answers)
            groups.setdefault((each.use, *places), []).append(each)
    for group in groups.values():
        steps = list(dict.fromkeys(each.step for each in group))
        models = {each.model: each for each in group}.values()
        sides = sorted(models, key=lambda each: (ORDER[each.role], each.role != "base"))
        tuned = [each for each in sides if each.role == "tuned"]
        chosen = next((each for each in sides if each.model == model), (tuned or sides)[-1])
        wrong = sum(facts.get("correct") is False for facts in chosen.answers)
        is_page = context.medium == "page"
        yield Records(
            _records(sides, steps[0], context),
            wrong,
            f"Answers of {', '.join(steps)}" if is_page else f"wrong answers of {chosen.model}",
            context.detail.rows,
            chosen.model,
        )


def _records(sides: Sequence[Judgement], step: str, context: Context) -> Iterator[Record]:
    """The answers of all models to each row. A page has the complete prompts."""
    prompts = _prompts(step, context) if context.medium == "page" else {}
    for lines in zip(*(each.answers for each in sides), strict=True):
        fields = [*question_fields(lines[0], prompts.get(str(lines[0].get("id", "")), ""))]
        for side, facts in zip(sides, lines, strict=True):
            fields += answer_fields(facts, side.model)
        verdicts = {side.model: of.get("correct") for side, of in zip(sides, lines, strict=True)}
        yield Record(fields, verdicts)


def answer_fields(facts: Mapping[str, Any], model: str) -> Iterator[Field]:
    """An answer, why it is wrong, and what the model thought before."""
    correct = facts.get("correct")
    tone: Literal["", "good", "bad"] = "good" if correct else "" if correct is None else "bad"
    answer = answer_of(facts)
    if answer or "answer" in facts:  # a step of others may keep only whether it was right
        yield Field("answered", answer, tone, model)
    if correct is False and (why := "\n".join(reasons(facts))):
        yield Field("why", why, "soft", model)
    if thinking := str(facts.get("reasoning") or ""):
        yield Field("thought", thinking, "soft", model, is_folded=True)


def _prompts(step: str, context: Context) -> dict[str, str]:
    """Row id → its complete prompt, for rows in the store."""
    node = context.graph.nodes.get(step)
    refs = [source.ref for source in node.sources_of(Dataset)] if node else []
    return {row_id_of(row): text for row in _built(refs, context) if (text := prompt_text(row))}


# -- with their rows and the nearest training rows ------------------------------------------------


NEAREST = 3
"""Training rows that are shown for a wrong answer."""
MOST_READ = 20_000
"""Training rows that are searched."""


def wrong_answers(metrics: Metrics, step: str, model: str, context: Context) -> Iterator[Record]:
    """The wrong answers of a model, in the order of the rows.

    The data of each has the row's `id`, its complete `prompt` as messages, the `expected` and
    `answered` values, what is `wrong`, and the `nearest` training rows with their cosine. Unknown
    values, and those that aren't built, are omitted.
    """
    sources = context.graph.nodes[step].sources_of(Dataset)
    judged = _built([source.ref for source in sources if source.field == "rows"], context)
    rows = {row["id"]: row for row in judged}
    trained = list(islice(_training_rows(context.graph, model, context), MOST_READ))
    questions = [question_text(split_turns(row)[0]) for row in trained]
    index = SimilarIndex(questions) if trained else None
    for facts in metrics.predictions():
        if facts.get("model") != model or facts.get("correct") is not False:
            continue
        row = rows.get(facts["id"])
        messages = _prompt(facts, row)
        prompt, wrong = question_text(messages), list(reasons(facts)) or list(_as_read(facts))
        data: dict[str, Any] = {"id": facts["id"], "model": facts["model"]}
        data |= {name: facts[name] for name in PLACE if name in facts}
        data |= {"prompt": messages, "answered": answer_of(facts)}
        if "expected" in facts:
            data["expected"] = facts["expected"]
        if row is not None and answer_text(row) and "turn" not in facts:
            data["completion"] = answer_text(row)
        data["wrong"] = wrong
        fields = [*question_fields(facts, prompt), Field("answered", answer_of(facts), "bad")]
        fields += [Field("why", "\n".join(wrong), "soft")] if wrong else []
        if index is not None:
            data["nearest"] = []
        for number, cosine in index.nearest(prompt, NEAREST) if index is not None else ():
            near = trained[number]
            answer = answer_text(near) or compact(near.get("label") or "")
            facts_of_near = {"id": near["id"], "similarity": round(cosine, 3)}
            facts_of_near |= {"prompt": questions[number], "completion": answer}
            data["nearest"].append(facts_of_near)
            short = " · ".join(answer.split("\n"))
            text = f"{near['id']}  {cosine:.2f}  {questions[number]}\n→ {short}"
            fields.append(Field("trained", text))
        yield Record(fields, data=data)


def _as_read(facts: Mapping[str, Any]) -> Iterator[str]:
    """How an answer without parts was read, next to the expected one."""
    if "prediction" in facts and "expected" in facts:
        read, expected = (
            json.dumps(facts[name], ensure_ascii=False) for name in ("prediction", "expected")
        )
        reading = "nothing that could be expected" if facts["prediction"] is None else read
        yield f"read as {reading}, expected {expected}"


def _prompt(facts: Mapping[str, Any], row: Row | None) -> list[dict[str, Any]]:
    """The conversation before the answer; without its row, what the prediction has of it."""
    if row is None:
        return [{"role": "user", "content": str(facts.get("prompt", ""))}]
    if "message" not in facts:
        return split_turns(row)[0]
    return Turns.of(row).conversation[: facts["message"] - 1]


def _training_rows(graph: Graph, model: str, context: Context) -> Iterable[Row]:
    """What a model, or one that it derives from, learned from."""
    steps = [model.partition(".")[0]]
    for step in steps:  # grows
        if (node := graph.nodes.get(step)) is not None:
            refs = [source.ref for source in node.sources if source.role == "train"]
            if refs:
                return _built(refs, context)
            steps += [source.step for source in node.base_models if source.step not in steps]
    return ()


def _built(refs: Iterable[str], context: Context) -> Iterator[Row]:
    for ref in refs:
        rows = context.built(ref)
        if isinstance(rows, Dataset):
            yield from rows
