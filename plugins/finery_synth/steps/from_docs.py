"""`synth.from_docs`: questions and answers grounded in documents."""

import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from finery import Completion, DataError, Dataset, File, Job, Look, UsageError, setting, takes
from finery.rows import Message, Row
from finery.rows.badrow import BadRow
from finery.rows.chosen import row_draw
from finery.rows.parts import row_id_of
from finery_synth.asking import (
    MOST_VARIANTS,
    Rejected,
    Spool,
    Task,
    json_in,
    object_schema,
    with_parents,
)
from finery_synth.generator import Candidate, Generator
from finery_synth.prompts import Prompt

TEMPLATE = """\
{# system #}
You write questions and answers for a data set, from documents. You answer with JSON alone.
{# user #}
Here is a part of a document{% if heading %}, from "{{ heading }}"{% endif %}, between the lines.

-----
{{ text }}
-----

Write a question {{ kind }}, in the language of the document, that it answers, and the answer.
People ask the question who don't see the document: it names what it is about, and never speaks of
"the text" or "the document". The answer says what the document says, and nothing else. The quote is
the sentence, or the part of one, that proves the answer, copied from the document word for word.
Answer with a JSON object: {"question": "…", "answer": "…", "quote": "…"}
"""
"""The default prompt."""
CONTEXT_PROMPT = """\
Answer the question from the context. If the context doesn't hold the answer, say so.

Context:
{% for chunk in chunks %}
[{{ loop.index }}]{% if chunk.heading %} {{ chunk.heading }}{% endif %}

{{ chunk.text }}
{% endfor %}
Question: {{ question }}
"""
"""The prompt of a row of `synth.from_docs` with a context."""
KINDS = [
    "about a fact",
    "about how something is done",
    "about why something is so, or what follows from it",
    "as somebody asks who has a problem that the document solves",
    "about a detail that is easily missed",
    "that takes two things together which the document says",
]
PLACE = ("source", "heading", "page", "line")
"""Columns of a chunk that its questions keep."""
FIELDS = ("question", "answer", "quote")
ANSWER = object_schema(**{name: {"type": "string"} for name in FIELDS})
DRAWS = 2**64
HAS_CONTEXT, IS_MISSING, ORDER = 1, 2, 3
"""Numbers of a question's draws: for a context, for one without the answer, for its order."""
PLACES = 1_000_003
"""The seed of the draws that give chunks their places on the ring."""
LEAST = 8
"""Minimum letters and digits of a quote: fewer are found in any text."""
_AROUND = " \t\r\n\"'“”‘’„«»…"


def chance(row: Row, number: int) -> float:
    """A reproducible number in [0, 1) for a row and a `number`."""
    return row_draw(row, number) / DRAWS


class Shelf:
    """All chunks, on disk, with some 40 bytes of each in memory.

    The other chunks for a question come from a ring on which each chunk has a random place
    (consistent hashing, Karger et al. 1997), starting at the question's own place. So an added
    chunk changes few of them.
    """

    def __init__(self, chunks: Iterable[Row], folder: Path) -> None:
        self._rows = Spool(folder, dict[str, Any])
        ring = []
        for number, row in enumerate(chunks):
            self._rows.add(number, row)
            ring.append((row_draw(row, PLACES), number))
        self._ring = sorted(ring)

    def chunk(self, number: int) -> Row:
        """The chunk with this number, from 0."""
        return self._rows.of(number)[0]

    def others(self, question: Row, number: int, count: int) -> list[Row]:
        """Up to `count` chunks that lack the quote and differ from chunk `number`."""
        start = bisect_left(self._ring, (row_draw(question, PLACES), 0))
        others: list[Row] = []
        texts = {str(self.chunk(number)["text"])}
        for step in range(len(self._ring)):
            if len(others) == count:
                break
            other = self.chunk(self._ring[(start + step) % len(self._ring)][1])
            text = str(other["text"])
            if text not in texts and quoted(question["quote"], text) is None:
                texts.add(text)
                others.append(other)
        return others

    def close(self) -> None:
        """Free the disk space."""
        self._rows.close()


def quoted(quote: str, text: str) -> str | None:
    """The part of a text that a quote repeats word for word, except for whitespace.

    None if there is none, or if the quote is too short. Quotation marks and ellipses around the
    quote are ignored.
    """
    words = quote.strip(_AROUND).removeprefix("...").removesuffix("...").split()
    if sum(map(str.isalnum, "".join(words))) < min(LEAST, sum(map(str.isalnum, text))):
        return None
    match = re.search(r"\s+".join(map(re.escape, words)), text) if words else None
    return match[0] if match else None


class FromDocs(Generator):
    """Write questions about documents, with answers from the documents.

    Each request shows the teacher one chunk and asks for a question, its answer, and a quote that
    proves it, as JSON (constrained if the engine can do so). If the quote isn't in the chunk word
    for word, except for whitespace, the answer is rejected as `ungrounded`. A question that repeats
    another one about its chunk is rejected too.

    With the context in the prompt, a model learns to answer from retrieved text. `distractors`
    teach it to find the relevant chunk, and `unanswerable` to say when the answer isn't there: such
    rows have a real question, only other chunks as context, and `unknown` as answer. Contexts are
    added after the answers and need no further requests.

    Rows have the chunk as parent, its `source`, `heading` and `page` or `line`, the `quote`, and
    `context`: with, without or missing.
    """

    DEFAULT_PROMPT = TEMPLATE
    COPIES = "siblings"

    rows: list[Dataset] = takes(
        help="Chunks of documents, e.g. of docs.files: rows with a `text`, in this order."
    )
    n: int = setting(3, ge=1, le=MOST_VARIANTS, help="Number of questions about each chunk.")
    kinds: list[str] = setting(
        KINDS,
        min_length=1,
        help="Kinds of questions, used in turn for the questions about a chunk. The template sees "
        "them as `kind`.",
    )
    context: Literal["with", "without", "both"] = setting(
        "both",
        help="Whether the prompt of a row contains its chunk. both: only in some rows, see "
        "`share`.",
    )
    share: float = setting(
        0.5, gt=0, lt=1, help="For `context: both`: the share of rows with a context."
    )
    distractors: int = setting(
        0,
        ge=0,
        le=50,
        help="Number of other chunks in a context, without the quote, in random order.",
    )
    unanswerable: float = setting(
        0.0,
        ge=0,
        lt=1,
        help="Among rows with a context, the share without the answer in it.",
    )
    unknown: str = setting(
        "The context doesn't say.", min_length=1, help="The answer of `unanswerable` rows."
    )
    context_prompt: File | None = setting(
        None,
        help="A Jinja file with the prompt of rows with a context. It can use `chunks` and "
        "`question`. `finery synth prompt context` prints the default.",
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that don't fit together."""
        super().check()
        for name in ("distractors", "unanswerable"):
            if self.context == "without" and getattr(self, name):
                raise UsageError(
                    f"{name} needs contexts, but `context` is without",
                    where=name,
                    fix="set context: both, or with",
                )

    def examine(self, look: Look) -> None:
        """Also raise `UsageError` for an empty or invalid template of a context."""
        super().examine(look)
        Prompt.of(self.context_prompt, CONTEXT_PROMPT)

    def check_seed(self, row: Row) -> None:
        """Raise `BadRow` for a row without a text."""
        if not isinstance(row.get("text"), str) or not row["text"].strip():
            raise BadRow("the row has no `text`", "use chunks of documents, e.g. of docs.files")

    def variants(self) -> int:
        """One request for each question."""
        return self.n

    def names(self, row: Row, variant: int) -> dict[str, Any]:
        """The chunk, and the kind of question."""
        kind = self.kinds[variant % len(self.kinds)]
        names = {"heading": "", "source": "", **row, "row": row}
        return {**names, "kind": kind, "number": variant + 1}

    def answer_schema(self) -> dict[str, Any]:
        """Question, answer and quote."""
        return ANSWER

    def possible_answer(self, request: Any) -> str | None:
        """A question with a quote from its chunk."""
        asked = "".join(str(turn["content"]) for turn in request.messages)
        text = next((r["text"] for rows in self.rows for r in rows if r["text"] in asked), "")
        question = f"What is said in part {request.attempt}?"
        return json.dumps({"question": question, "answer": text[:80], "quote": text[:400]})

    def read(self, task: Task, answer: Completion) -> list[Row]:
        """The question and its answer, as a row without a context."""
        chunk, value = task.seeds[0], json_in(answer.text)
        if not isinstance(value, dict):
            raise Rejected("unreadable", "the answer doesn't contain a JSON object")
        fields = {n: v.strip() for n, v in value.items() if n in FIELDS and isinstance(v, str)}
        for name in FIELDS:
            if not fields.get(name):
                raise Rejected("unreadable", f"the answer has no {name}")
        quote = quoted(fields["quote"], chunk["text"])
        if quote is None:
            detail = f"the quote isn't in the chunk, or is too short: {fields['quote']!r:.200}"
            raise Rejected("ungrounded", detail)
        turns = [_turn("user", fields["question"]), _turn("assistant", fields["answer"])]
        place = {column: chunk[column] for column in PLACE if column in chunk}
        return [{"messages": turns, "quote": quote, **place, "context": "without"}]

    def run(self, job: Job) -> Dataset:
        """Run the step; `DataError` if contexts need more chunks."""
        least, chunks = max(self.distractors, int(self.unanswerable > 0)), self.seed_count()
        if self.context != "without" and chunks <= least:
            raise DataError(
                f"contexts need {least + 1} chunks, but there are only {chunks}",
                fix="add documents, make chunks smaller, or reduce distractors and unanswerable",
            )
        return super().run(job)

    def finished(self, job: Job, accepted: Iterable[tuple[int, Candidate]]) -> Iterator[Candidate]:
        """The rows, some of them with a context."""
        if self.context == "without":
            yield from (candidate for _, candidate in accepted)
            return
        shelf = Shelf(self.seeds(), job.scratch)
        prompt = Prompt.of(self.context_prompt, CONTEXT_PROMPT)
        for number, candidate in accepted:
            yield self._with_context(candidate, number // self.n, shelf, prompt)
        shelf.close()

    def facts(self, job: Job, rows: Dataset) -> dict[str, Any]:
        """How many rows have a context, and in how many the answer is missing from it."""
        counts = Counter(row["context"] for row in rows)
        return {"context": dict(sorted(counts.items()))}

    def _with_context(
        self, candidate: Candidate, place: int, shelf: Shelf, prompt: Prompt
    ) -> Candidate:
        row = candidate.row
        if chance(row, HAS_CONTEXT) >= (1.0 if self.context == "with" else self.share):
            return candidate
        is_missing = chance(row, IS_MISSING) < self.unanswerable
        chunks = shelf.others(row, place, self.distractors + is_missing)
        is_missing = is_missing and bool(chunks)  # all chunks contain the quote
        if not is_missing:
            at = int(chance(row, ORDER) * (len(chunks) + 1))
            chunks.insert(at, shelf.chunk(place))
        question, answer = row["messages"]
        names = {
            "chunks": [{"heading": "", "source": "", **chunk} for chunk in chunks],
            "question": question["content"],
            "row": row,
        }
        turn = _turn("assistant", self.unknown) if is_missing else answer
        content: Row = {**row, "messages": [*prompt.messages(names, row), turn]}
        content["context"] = "missing" if is_missing else "with"
        candidate.row = {**with_parents(content, []), "parents": row["parents"]}
        candidate.origin.id = candidate.row["id"]
        candidate.origin.more = {"chunks": [row_id_of(chunk) for chunk in chunks]}
        return candidate


def _turn(role: str, text: str) -> Message:
    return {"role": role, "content": text}
