"""`retrieve.rows`: rows with retrieved context in their prompts."""

from collections.abc import Iterator
from typing import Any

from finery import DataError, Dataset, Index, Job, OneFile, Step, setting, takes
from finery.rows import Row, split_turns
from finery.rows.parts import changed, named, read
from finery_retrieve.index.context import UNKNOWN, ContextPrompt, question_of
from finery_retrieve.index.retriever import Hit, Retriever

K_HELP = "How many chunks to retrieve for each question."
PROMPT_HELP = (
    "Jinja template for the last user turn; it knows `question`, `chunks` (each with `label`, "
    "`text`, `source`, `heading`, `id` and `line` or `page`) and `unknown`."
)
LIMIT_HELP = (
    "Maximum characters of all chunks in a prompt. Chunks that don't fit are left out as a whole, "
    "the last ones first. 2,000 characters are about 500 tokens of English."
)
UNKNOWN_HELP = "What the model is to answer if the documents don't contain the answer."


class RetrieveRows(
    Step, sections=("data", "generate"), seeded=False, engines=True, packages=("bm25s", "PyStemmer")
):
    """Retrieve documents for the last user turn of each row, and put them into the prompt.

    The column `retrieved` lists the chunks in the prompt, in its order. A training on these rows
    sees the prompts that `retrieve.model` with the same settings makes.
    """

    rows: Dataset = takes(help="Rows with questions.")
    index: Index = takes(help="The documents, indexed by `retrieve.index`.")
    k: int = setting(4, ge=1, help=K_HELP)
    prompt: OneFile | None = setting(None, help=PROMPT_HELP)
    limit: int | None = setting(None, ge=1, help=LIMIT_HELP)
    unknown: str = setting(UNKNOWN, min_length=1, help=UNKNOWN_HELP)

    def run(self, job: Job) -> Dataset:
        """Write the rows, in their order."""
        prompt = ContextPrompt.of(self.prompt, unknown=self.unknown, limit=self.limit)
        retriever = Retriever.open(self.index, job)
        counts = {"without": 0, "limited": 0}

        def rows() -> Iterator[Row]:
            for number, row in read(job, [self.rows]):
                hits = retriever.search([_question(number, row)], self.k)[0]
                fitting = prompt.fitting(hits)
                counts["without"] += not hits
                counts["limited"] += len(fitting) < len(hits)
                yield _with_context(row, prompt, fitting)

        dataset = Dataset.write(job.out, rows())
        for name, what in (
            ("without", "nothing was found, so their prompts contain no documents"),
            ("limited", f"chunks were left out: limit is {self.limit or 0:,} characters"),
        ):
            if counts[name]:
                job.log(f"{counts[name]:,} of {len(dataset):,} rows: {what}")
        dataset.meta |= {"k": self.k, **counts}
        return dataset


def _question(number: int, row: Row) -> str:
    try:
        return question_of(split_turns(row)[0])
    except DataError as error:
        raise DataError(error.what, where=named(number, row), fix=error.fix) from error


def _with_context(row: Row, prompt: ContextPrompt, hits: list[Hit]) -> Row:
    conversation, answer = split_turns(row)
    around = prompt.around(conversation, hits)
    turns: dict[str, Any]
    turns = {"messages": [*around, *answer]} if "messages" in row else {"prompt": around}
    return changed(row, {**row, **turns, "retrieved": [_listed(hit) for hit in hits]})


def _listed(hit: Hit) -> dict[str, Any]:
    return {"id": hit.id, "source": hit.source, "heading": hit.heading, "score": hit.score}
