"""Compares a bundle with the model of the recipe: the same sources, and the same messages."""

from collections.abc import Iterator

from finery import EngineJob, Model, StepError
from finery.rows import Conversation
from finery_retrieve.index.lookup import Lookup
from finery_retrieve.serve.app.bundle import Opened

PROBES = 32
"""Chunks, spread over the index, that the questions are made of."""
WORDS = 12
"""Words of such a question."""


def verify(bundle: Opened, model: Model, job: EngineJob) -> int:
    """Compare what the bundle and the model send for questions; how many were compared.

    `StepError` with the question for the first difference.
    """
    lookup, compared = Lookup.of(model, job), 0
    for question in questions(bundle, int(model.refs["index"].meta["chunks"])):
        conversation: Conversation = [{"role": "user", "content": question}]
        (expected,) = lookup.prompts([conversation])
        sent, sources = bundle.prompted(conversation)
        if [source["id"] for source in sources] != [hit.id for hit in expected.hits]:
            raise _differs("retrieves other sources", question)
        if sent != expected.messages:
            raise _differs("sends another prompt", question)
        compared += 1
    return compared


def questions(bundle: Opened, chunks: int) -> Iterator[str]:
    """The first words of chunks all over the index, and a question that finds nothing."""
    for number in range(0, chunks, max(1, chunks // PROBES)):
        yield " ".join(bundle.searcher.chunk(number)["text"].split()[:WORDS])
    yield "?"


def _differs(what: str, question: str) -> StepError:
    return StepError(
        f"the bundle {what} than the model in the recipe for the question {question!r}",
        fix="simplify the prompt template if it has one of its own; otherwise report this as a bug",
    )
