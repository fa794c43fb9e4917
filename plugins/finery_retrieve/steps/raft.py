"""`synth.raft`: training rows that teach a model to answer from retrieved chunks."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from finery import Count, Dataset, Forecast, Inputs, Job, setting, takes
from finery.advanced import counted, percent
from finery.rows import TURN_COLUMNS, Row
from finery.rows.badrow import BadRow
from finery.rows.chosen import row_draw
from finery.rows.dropped import Drops
from finery.rows.parts import read_numbered, replace_content, row_id_of
from finery_retrieve.citations import (
    Citation,
    check_citations,
    citations,
    is_verbatim,
    quotable_part,
    strip_citations,
)
from finery_retrieve.index.chunks import escape_control_tokens
from finery_retrieve.index.context import ContextPrompt, ContextStep
from finery_retrieve.index.retriever import Hit, Retriever, retrieved_column
from finery_retrieve.questions import (
    MARGIN,
    Question,
    missing_chunk_errors,
    question_in,
    right_chunks,
)
from finery_synth.asking import Rejected

Cite = Literal["quotes", "numbers", "none"]


def cited_answer(question: Question, hits: Sequence[Hit], right: Sequence[Hit], cite: Cite) -> str:
    """The question's answer with the numbers of its right chunks, and with its quote if asked.

    hits: the chunks of the prompt, in its order. right: those with the answer. Citations that the
    answer already has are replaced, since they number other chunks. Raises `Rejected` where the
    quote isn't in a right chunk word for word.
    """
    answer = strip_citations(question.answer) if citations(question.answer) else question.answer
    if cite == "none":
        return answer
    texts = [escape_control_tokens(hit.text) for hit in hits]
    ids = {hit.id for hit in right}
    numbers = [number for number, hit in enumerate(hits, 1) if hit.id in ids]
    quote = quotable_in(question) if cite == "quotes" else None
    if quote is not None:
        first = next((n for n in numbers if is_verbatim(quote, texts[n - 1])), None)
        if first is None:
            problem = f'no right chunk has the quote word for word: "{quote}"'
            raise Rejected("altered-quote", problem)
        numbers = [first, *(number for number in numbers if number != first)]
    written = [f'"{quote}"'] if quote is not None else []
    cited = " ".join([answer, *written, *(f"[{number}]" for number in numbers)])
    read = citations(cited)
    if quote is None:  # the answer may end with words of the chunk in quotation marks
        read = [Citation(citation.number) for citation in read]
    if (
        read != [Citation(number, quote) for number in numbers]
        or check_citations(cited, texts).faults
    ):
        raise Rejected("citation", "the answer's own quotation marks or code hide the citation")
    return cited


def quotable_in(question: Question) -> str | None:
    """The question's quote as an answer can have it; None if it has none that is usable."""
    return quotable_part(escape_control_tokens(question.quote)) if question.quote else None


DRAWS = 2**64
HAS_ORACLE, ORDER = 0, 1
"""Numbers of a row's draws: whether it has its right chunk, and the order of its chunks."""


class Drawn(NamedTuple):
    """A question with the chunks to choose its context from.

    right: the chunks with the answer. retrieved: what is retrieved for it, best first.
    """

    question: Question
    right: Sequence[Hit]
    retrieved: Sequence[Hit]

    @property
    def others(self) -> list[Hit]:
        """The retrieved chunks that can't contain the answer."""
        return [hit for hit in self.retrieved if not self.question.may_be_answered_by(hit)]

    def rank(self, hit: Hit) -> int:
        """The index of a chunk among the retrieved ones; their number if it isn't among them."""
        ids = [each.id for each in self.retrieved]
        return ids.index(hit.id) if hit.id in ids else len(ids)


class Raft(ContextStep, sections=("generate",), engines=True, version="1"):
    """Put questions into prompts with retrieved chunks, with answers that quote and cite.

    A model trained on the rows learns to pick the relevant chunk, to ignore others that look alike,
    to prove its answer, and to say that the documents don't contain one (RAFT: Zhang et al. 2024,
    arXiv:2403.10131). No model is prompted: questions, answers and quotes come from the rows, e.g.
    from synth.from_docs with `context: without`.

    - A share `oracle` of the answerable rows has the right chunk in the prompt. The other chunks
      are distractors: the first ones that the index retrieves, without those that contain the row's
      `quote` (ignoring case) or its `expected` texts.
    - The other rows have only distractors, and `unknown` as answer. So do all rows with
      `answerable: false`.
    - Answers have the form `The limit is 50 MB. "Files up to 50 MB are read" [2]`.

    Prompts are those that `retrieve.model` with the same settings makes of the same chunks. Rows
    without an answer or a right chunk, rows whose quote isn't in the chunk word for word except for
    whitespace, and rows whose answer doesn't contain their own `expected` texts are dropped and
    listed in `dropped.jsonl`. The column `retrieved` lists the chunks of a prompt, `context` says
    whether it has the answer (with, missing).
    """

    rows: list[Dataset] = takes(
        help="Questions with answers, without contexts, that name their chunk."
    )
    oracle: float = setting(
        0.8,
        ge=0.0,
        le=1.0,
        help="Share of the answerable rows with the right chunk in the prompt.",
    )
    missing: Literal["unknown", "answer"] = setting(
        "unknown",
        help="The answer of rows without the right chunk. unknown: the text of `unknown`. answer: "
        "the row's answer without a citation, so that the model learns it by heart, as in Zhang "
        "et al.",
    )
    order: Literal["shuffled", "ranked"] = setting(
        "shuffled",
        help="Order of the chunks. ranked: as retrieved, with a right chunk that isn't retrieved "
        "as the last. In random order, a model can't learn that the first chunk is the right one.",
    )
    cite: Cite = setting(
        "quotes",
        help="quotes: the answer, the quote if the row has one, and the number of the chunk. "
        "numbers: the answer and the number. none: only the answer.",
    )

    def run(self, job: Job) -> Dataset:
        """Write the rows, in their order."""
        drops, counts = Drops(job.out), Counter[str]()
        with drops:
            drawn = list(self._drawn(job, drops))
            dataset = Dataset.write(job.out, self._rows(job, drawn, drops, counts))
        drops.refuse_nothing_left(
            len(dataset),
            "give `rows` questions with answers that name their chunk; for rows of data.file: "
            "keep: [quote, source, expected, answerable], as far as the file has these columns",
        )
        contexts = {name: counts[name] for name in ("with", "missing")}
        dataset.meta |= {"format": "retrieved", "context": contexts, "k": self.k, **drops.meta()}
        summary = drops.summary(len(dataset))
        total = counts["with"] + counts["missing"]
        job.log(f"{total:,} rows, {counts['with']:,} with the right chunk; {summary}")
        answerable = [each for each in drawn if each.right]
        if answerable:
            hits = sum(any(each.rank(hit) < self.k for hit in each.right) for each in answerable)
            share = percent(hits / len(answerable))
            job.log(f"the index retrieves the right chunk among the first {self.k} for {share}")
        if counts["few"]:
            job.log(f"{counted(counts['few'], 'prompt')} with fewer than {self.k} chunks")
        if counts["unquoted"] and self.cite == "quotes":
            job.log(f"{counted(counts['unquoted'], 'answer')} without a quote: the row has none")
        if counts["unquotable"] and self.cite == "quotes":
            what = counted(counts["unquotable"], "answer")
            job.log(f"{what} without a quote: quotation marks in it leave no part to quote")
        return dataset

    def _drawn(self, job: Job, drops: Drops) -> Iterator[Drawn]:
        """The usable questions with their chunks."""
        questions = list(self._questions(job, drops))
        retriever = Retriever.open(self.index, job)
        right = right_chunks(questions, self.index, retriever)
        reasons = missing_chunk_errors(questions, right, self.index)
        depth = self.k + MARGIN
        retrieved = retriever.search([question.text for question in questions], depth)
        triples = zip(questions, right, retrieved, strict=True)
        for number, (question, of, hits) in enumerate(triples):
            if number in reasons:
                error = reasons[number]
                drops.add(question.row, "no-chunk", f"{error.what}; {error.fix}")
            else:
                scored = {hit.id: hit for hit in hits}
                yield Drawn(question, [scored.get(hit.id, hit) for hit in of], hits)

    def _questions(self, job: Job, drops: Drops) -> Iterator[Question]:
        for _, row in read_numbered(job, self.rows):
            try:
                question = question_in(row)
            except BadRow as error:
                drops.add(row, "unusable", error.what)
                continue
            if question.is_answerable and not question.answer:
                drops.add(row, "no-answer", "the row has no assistant turn")
            elif question.lacks_expected():
                drops.add(row, "expected", "the row's answer doesn't contain its `expected` texts")
            else:
                yield question

    def _rows(
        self, job: Job, drawn: Sequence[Drawn], drops: Drops, counts: Counter[str]
    ) -> Iterator[Row]:
        template = self.template()
        for each in drawn:
            has_oracle = _chance(each.question.row, job.seed, HAS_ORACLE) < self.oracle
            try:
                row = self._row(each, template, job.seed, is_missing=not has_oracle)
            except Rejected as error:
                drops.add(each.question.row, error.reason, error.detail)
                continue
            counts[row["context"]] += 1
            counts["few"] += len(row["retrieved"]) < self.k
            has_quote, is_with = bool(each.question.quote), row["context"] == "with"
            counts["unquoted"] += is_with and not has_quote
            counts["unquotable"] += is_with and has_quote and quotable_in(each.question) is None
            yield row

    def _row(self, drawn: Drawn, template: ContextPrompt, seed: int, *, is_missing: bool) -> Row:
        question = drawn.question
        right = [] if is_missing or not question.is_answerable else list(drawn.right)
        hits = self._context(drawn, right, template, seed)
        if right:
            answer = cited_answer(question, hits, right, self.cite)
        elif question.is_answerable and self.missing == "answer":
            answer = cited_answer(question, hits, right, "none")
        else:
            answer = self.unknown
        turns = template.around(question.prompt, hits)
        new: dict[str, Any] = {
            "retrieved": retrieved_column(hits),
            "context": "with" if right else "missing",
        }
        if drawn.right:
            new["chunk"] = drawn.right[0].id
        own = {name: of for name, of in question.row.items() if name not in TURN_COLUMNS}
        messages = [*turns, {"role": "assistant", "content": answer}]
        return replace_content(question.row, {**own, "messages": messages, **new})

    def _context(
        self, drawn: Drawn, right: list[Hit], template: ContextPrompt, seed: int
    ) -> list[Hit]:
        """The chunks of a prompt, in its order. Raises `Rejected` if the right ones don't fit."""
        count = max(self.k, len(right))
        hits = template.fitting([*right, *drawn.others][:count])
        if len(hits) < len(right):
            what = counted(len(right), "right chunk")
            raise Rejected("too-long", f"{what} with more than limit: {self.limit} tokens")
        if self.order == "ranked":
            return sorted(hits, key=drawn.rank)
        name = row_id_of(drawn.question.row)
        return sorted(hits, key=lambda hit: _chance({"id": f"{name} {hit.id}"}, seed, ORDER))

    def forecast(self, inputs: Inputs) -> Forecast:
        """Each question makes one row, unless it is dropped."""

        def rows() -> Count | None:
            count = inputs.count("rows")
            return count and count._replace(exact=False)

        return Forecast(rows=rows)


def _chance(row: Row, seed: int, number: int) -> float:
    """A reproducible number in [0, 1) for a row, a seed and the number of the draw."""
    return row_draw(row, 2 * seed + number) / DRAWS
