"""Examples for trainings: a question, a passage that answers it, and others that don't.

Input: rows, and optionally the index to look up their passages in. Output: examples, all with the
same number of negatives.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from finery import DataError, Dataset, Index, Job
from finery.advanced import counted
from finery.rows import Turns, answer_text
from finery.rows.parts import read_numbered, row_label
from finery_retrieve.evaluate.contexts import read_questions, right_chunks_or_raise
from finery_retrieve.index.chunks import Chunks
from finery_retrieve.index.context import question_of
from finery_retrieve.index.retriever import Hit, Retriever
from finery_retrieve.questions import Question, distractors

FEW_ROWS = 100
"""Examples below which a training hardly changes what is retrieved."""


class Example(NamedTuple):
    """negatives: passages that don't answer the question."""

    question: str
    passage: str
    negatives: list[str]


def read_examples(
    job: Job, datasets: Sequence[Dataset], index: Index | None, negatives: int, setting: str
) -> list[Example]:
    """The examples of rows. setting: the name of the setting with the rows.

    With an index, rows are questions that name their chunk, as for `eval.retrieval`. Without one,
    they are pairs (question and answer), or triplets (preferences). Raises `DataError` for rows
    that are neither.
    """
    if index is None:
        examples = [*_pair_examples(job, datasets, setting)]
    else:
        questions = [q for dataset in datasets for q in read_questions(dataset)]
        answerable = [question for question in questions if question.is_answerable]
        if left_out := len(questions) - len(answerable):
            job.log(f"{setting}: left out {counted(left_out, 'row')} with answerable: false")
        examples = [*_mine_examples(job, answerable, index, negatives)]
    if not examples:
        raise DataError(
            f"`{setting}` has no question with an answer", fix="give it rows with questions"
        )
    passages = len({example.passage for example in examples})
    job.log(
        f"{setting}: {counted(len(examples), 'question')} about {counted(passages, 'passage')}, "
        f"each with {counted(len(examples[0].negatives), 'negative')}"
    )
    return examples


def _mine_examples(
    job: Job, questions: Sequence[Question], index: Index, count: int
) -> Iterator[Example]:
    """Each question with each of its right chunks, and the best chunks that don't answer it.

    Where the index retrieves too few, those of the other questions follow.
    """
    retriever, chunks = Retriever.open(index, job), Chunks(index.path)
    right = right_chunks_or_raise(questions, index, retriever)
    distractors_by_question = (
        [*distractors(questions, retriever, count)] if count else [[] for _ in questions]
    )
    pool = {hit.id: hit for hits in distractors_by_question for hit in hits}

    def text(hit: Hit) -> str:
        number = chunks.number(hit.id)
        assert number is not None  # the index returned it
        return chunks[number].searched

    for question, right_hits, hits in zip(questions, right, distractors_by_question, strict=True):
        ids = {hit.id for hit in hits}
        pool_negatives = (
            h for h in pool.values() if h.id not in ids and not question.may_be_answered_by(h)
        )
        negatives = [
            *hits,
            *(hit for hit, _ in zip(pool_negatives, range(count - len(hits)), strict=False)),
        ]
        if len(negatives) < count:
            raise DataError(
                f"the index has only {counted(len(negatives), 'chunk')} that can be negatives of "
                f"the question '{question.text}'",
                fix=f"set negatives: {len(negatives)}, or index more documents",
            )
        for hit in right_hits:
            yield Example(question.text, text(hit), [text(negative) for negative in negatives])


def _pair_examples(job: Job, datasets: Sequence[Dataset], setting: str) -> Iterator[Example]:
    """The last user turn of each row with its answer, and the rejected answer as a negative."""
    size: int | None = None
    for number, row in read_numbered(job, datasets):
        turns, where = Turns.of(row), f"{setting}, {row_label(number, row)}"
        if not any(turn["role"] == "user" for turn in turns.prompt):
            raise DataError(
                "the row has no question: without `index`, a row is a question whose answer is the "
                "passage to find",
                where=where,
                fix="set index: a step of retrieve.index; and rows with questions about its chunks"
                if row.get("text")
                else "drop such rows, e.g. with data.filter",
            )
        passage = answer_text(row).strip()
        if not passage:
            raise DataError(
                "the row has no passage: its answer is empty",
                where=where,
                fix="write the passage as the answer, or set index to look up passages",
            )
        rejected = turns.rejected
        negatives = [] if rejected is None else [str(rejected[-1].get("content") or "").strip()]
        if size is not None and len(negatives) != size:
            raise DataError(
                "some rows are preferences, and others aren't",
                where=where,
                fix="use two data sets in two steps, or add a rejected passage to each row",
            )
        size = len(negatives)
        yield Example(question_of(turns.prompt), passage, negatives)
