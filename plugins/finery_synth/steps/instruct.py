"""`synth.instruct`: new examples that resemble the seeds."""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from blake3 import blake3

from finery import Completion, DataError, Dataset, Job, UsageError, setting
from finery.rows import Message, Row, Turns
from finery.rows.answers.jsonvalues import parse
from finery.rows.parts import (
    TURN_AND_TOOL_COLUMNS,
    answer_or_none,
    canonical_json,
    json_text,
    missing_text_error,
    row_id_of,
    row_label,
    row_texts,
    template_variables,
    text_by_name,
)
from finery_synth.asking import MOST_VARIANTS, Rejected, Task, bare, object_schema
from finery_synth.generator import Generator
from finery_synth.prompts import Prompt
from finery_synth.similarity import spread, spread_line

TEMPLATE = """\
{# system #}
You write realistic, varied examples for a data set that trains a language model. You answer with
JSON alone.
{# user #}
Here {{ "is an example" if examples | length == 1 else "are examples" }} from the data set
{%- if value %}, of the class "{{ value }}"{% endif %}.
{% for example in examples %}
Example {{ loop.index }}
user: {{ example.user }}
{%- if answered %}
assistant: {{ example.assistant }}
{%- endif %}
{% endfor %}
{%- if persona %}
Write as this person would: {{ persona }}
{% endif %}
Write {{ count }} new {{ "example" if count == 1 else "examples" }} of the same kind
{%- if value %}, all of the class "{{ value }}"{% endif %}. Each differs from those above, and from
the others, in what it is about, in its words, its length and its tone. Answer with a JSON object:
{"examples": [{"user": "…"{% if answered %}, "assistant": "…"{% endif %}}
{%- if count > 1 %}, …{% endif %}]}
"""
"""The default prompt."""
TEXT_TEMPLATE = """\
{# system #}
You write messages for a data set. You answer with one message alone, without a word about it.
{% for example in examples %}
{# user #}
Write a message{% if value %} about {{ value }}{% endif %}.
{# assistant #}
{{ example.user }}
{% endfor %}
{# user #}
Write a message{% if value %} about {{ value }}{% endif %}, another one
{%- if persona %}, as this person would: {{ persona }}{% endif %}.
"""
"""The default prompt with `format: text`."""
NOT_SHARED = TURN_AND_TOOL_COLUMNS | {"id", "parents", "source"}
"""Columns that new examples don't take from their seeds."""
_NUMBERED = re.compile(r"^\s*(?:(?:message|user|example)(?:\s+\d+)?:|\d+[.)])\s+", re.IGNORECASE)


class Instruct(Generator):
    """Write new examples that resemble seed rows, in total or for each class.

    Each request shows the teacher a different selection of seeds and asks for several new examples
    as JSON (constrained if the engine can do so; complete examples of a truncated answer count), or
    for one as plain text. With `by`, the seeds and new examples of a request have the same class,
    and `n` applies to each class. If all seeds of a class have the same answer, new examples get
    that answer, and the teacher writes only user turns. New examples have the system prompt of the
    first seed shown, and the columns that all seeds of the class share. Their parents are the seeds
    shown. An example that repeats a seed or another new example is rejected.

    `meta["spread"]` compares their variety with that of the seeds: distinct words and pairs of
    words (Li et al. 2016), the mean similarity of two examples, and the shares of near copies.
    """

    DEFAULT_PROMPT = TEMPLATE
    COPIES = "all"

    n: int = setting(
        ge=1, help="Number of new examples: for each class with `by`, otherwise in total."
    )
    by: str | None = setting(
        None,
        column_of="rows",
        help="Column with the classes, e.g. `label`; `output` takes the answer as class.",
    )
    personas: list[str] = setting(
        [],
        help="People to imitate, used in turn, one for each request.",
        examples=[["a retired teacher who writes long sentences", "a student in a hurry"]],
    )
    shown: int = setting(4, ge=1, le=100, help="Number of seeds that a request shows.")
    per_request: int = setting(
        5,
        ge=1,
        le=100,
        help="Number of examples in a request. 1 gives the most variety and costs the most.",
    )
    format: Literal["json", "text"] = setting(
        "json",
        help="text: an answer is the user turn of one example, for teachers that can't write JSON. "
        "Needs per_request: 1, and seeds with one answer per class or none.",
    )
    max_tokens: int = setting(
        2048, ge=1, help="Maximum tokens of an answer, with all its examples."
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that don't fit together."""
        super().check()
        if self.format == "text" and self.per_request != 1:
            raise UsageError(
                "with format: text, a request gives one example",
                where="per_request",
                fix="set per_request: 1, or format: json",
            )
        if self.variants() > MOST_VARIANTS:
            raise UsageError(
                f"a class would need more than {MOST_VARIANTS:,} requests",
                where="n",
                fix="raise per_request",
            )
        if self.variants() > 1 and self.temperature == 0:
            raise UsageError(
                "at temperature 0, requests with the same seeds get the same answer",
                where="temperature",
                fix="set a temperature above 0",
            )

    def variants(self) -> int:
        """The number of requests for a class."""
        return -(-self.n // self.per_request)

    def requests(self, rows: int) -> int:
        """The same number for each class."""
        return self.variants() * (1 if self.by is None else len(self.classes()))

    def needs_rows(self) -> bool:
        """Whether the classes have to be counted."""
        return self.by is not None

    def tasks(self, prompt: Prompt) -> Iterator[Task]:
        """The requests of each class."""
        classes = self.classes()
        asking = [seeds for seeds in classes if seeds.asks]
        if asking and self.format == "text":
            of = f" of the class '{asking[0].value}'" if asking[0].value else ""
            raise UsageError(
                f"format: text gives user turns only, but the seeds{of} have different answers",
                where="format",
                fix="set format: json, or set `by` to the column that determines the answer",
            )
        for group in classes:
            for turn in range(self.variants()):
                seeds = group.shown(self.shown, turn, self.series)
                persona = self.personas[turn % len(self.personas)] if self.personas else ""
                names = {
                    "examples": [template_variables(seed) for seed in seeds],
                    "count": self.per_request,
                    "value": group.value,
                    "persona": persona,
                    "answered": bool(asking),
                }
                yield Task(
                    messages=prompt.messages(names, seeds[0]),
                    seeds=seeds,
                    wanted=min(self.per_request, self.n - turn * self.per_request),
                    variant=turn,
                    more={"asks": group.asks, "answer": group.answer, "columns": group.columns},
                    facts={"persona": persona} if persona else {},
                )

    def read(self, task: Task, answer: Completion) -> list[Row]:
        """The complete examples; `Rejected` if there is none."""
        if self.format == "text":
            return [self._row(task, {"user": bare(_NUMBERED.sub("", answer.text, count=1))})]
        wanted = ["user", "assistant"] if task.more["asks"] else ["user"]
        rows = [
            self._row(task, example)
            for example in examples_in(answer.text)
            if all(_as_text(example.get(name)) for name in wanted)
        ]
        if not rows and answer.finish_reason == "length":
            raise Rejected(
                "cut-off", "the answer was truncated before the end of the first example"
            )
        if not rows:
            detail = f"the answer has no JSON examples with {' and '.join(wanted)}"
            raise Rejected("no-json", detail)
        return rows

    def _row(self, task: Task, example: dict[str, Any]) -> Row:
        system = row_texts(task.seeds[0]).get("system", "")
        turns: list[Message] = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": _as_text(example["user"])})
        answer = _as_text(example["assistant"]) if task.more["asks"] else task.more["answer"]
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
        return {"messages": turns, **task.more["columns"]}

    def default_prompt(self) -> str:
        """The default template for the answer's format."""
        return TEMPLATE if self.format == "json" else TEXT_TEMPLATE

    def reads_cut(self) -> bool:
        """A truncated list starts with complete examples."""
        return self.format == "json"

    def answer_schema(self) -> dict[str, Any] | None:
        """A list of examples."""
        if self.format == "text":
            return None
        are_built = all("rows" in rows.meta for rows in self.rows)  # else this is for an estimate
        asks = are_built and any(each.asks for each in self.classes())
        fields = ["user", "assistant"] if asks else ["user"]
        example = object_schema(**{name: {"type": "string"} for name in fields})
        return object_schema(examples={"type": "array", "items": example})

    def facts(self, job: Job, rows: Dataset) -> dict[str, Any]:
        """The variety of the new examples."""
        measured = spread(rows, self.seeds())
        job.log(spread_line(measured))
        return {"spread": measured}

    def classes(self) -> "list[_Class]":
        """The classes of the seeds, in order of their first seed."""
        seeds: dict[str, list[Row]] = {}
        for number, row in enumerate(self.seeds(), 1):
            value = "" if self.by is None else text_by_name(row, self.by)
            if self.by is not None and not (value or "").strip():
                raise missing_text_error("by", self.by, number, row)
            seeds.setdefault(value or "", []).append(row)
        return [_class(value, rows) for value, rows in seeds.items()]


class _Class(NamedTuple):
    """Seeds of a class. asks: whether the teacher writes answers; answer: the answer otherwise."""

    value: str
    seeds: list[Row]
    asks: bool
    answer: str | None
    columns: dict[str, Any]

    def shown(self, count: int, turn: int, series: int) -> list[Row]:
        """The seeds that a request shows.

        The seeds with the lowest hashes for this request, so that a seed that is added later
        changes few requests.
        """

        def rank(seed: Row) -> bytes:
            return blake3(f"{series}/{self.value}/{turn}/{row_id_of(seed)}".encode()).digest(8)

        return sorted(self.seeds, key=rank)[:count]


def _class(value: str, seeds: list[Row]) -> _Class:
    answers = [answer_or_none(seed) for seed in seeds]
    for number, (seed, text) in enumerate(zip(seeds, answers, strict=True), 1):
        calls = any(turn.get("tool_calls") for turn in Turns.of(seed).answer[-1:])
        if (text is None) != (answers[0] is None) or calls:
            raise DataError(
                "either all seeds need an answer as text, or none may have one",
                where=row_label(number, seed),
                fix="remove the row with data.filter",
            )
    same = value != "" and len(set(answers)) == 1
    asks = answers[0] is not None and not same
    shared = {
        k: v for k, v in seeds[0].items()
        if k not in NOT_SHARED
        and all(k in seed and canonical_json(seed[k]) == canonical_json(v) for seed in seeds[1:])
    }  # fmt: skip
    return _Class(value, seeds, asks, answers[0] if same else None, shared)


def examples_in(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects with a user turn in a text, which may be wrapped or truncated."""
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        end = start + 1
        with contextlib.suppress(ValueError, RecursionError):
            _, stop = decoder.raw_decode(text, start)
            value = parse(text[start:stop])  # stricter, e.g. no duplicate keys
            if "user" in value:
                yield value
                end = stop
        start = text.find("{", end)


def _as_text(value: Any) -> str:
    """A field as text; a JSON answer may be an object."""
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json_text(value)
