"""`retrieve.model`: a model that looks up each question before it answers."""

from typing import Any

from finery import Index, Job, Model, OneFile, Step, setting, takes
from finery_retrieve.formats import RETRIEVING, require_answering, require_counts
from finery_retrieve.index.context import UNKNOWN, ContextPrompt, check_unknown
from finery_retrieve.steps.settings import K_HELP, LIMIT_HELP, PROMPT_HELP, UNKNOWN_HELP


class RetrieveModel(Step, sections=("models",), seeded=False):
    """Retrieve documents for the last user turn of each prompt, and answer from them.

    The result is a model like any other: evaluators judge it, and compare it with the model without
    documents. Its prompts are those of `retrieve.rows` with the same settings.
    """

    model: Model = takes(help="The model that answers.")
    index: Index = takes(help="The documents, indexed by `retrieve.index`.")
    k: int = setting(4, ge=1, help=K_HELP)
    prompt: OneFile | None = setting(None, help=PROMPT_HELP)
    limit: int | None = setting(None, ge=1, help=LIMIT_HELP)
    unknown: str = setting(UNKNOWN, min_length=1, help=UNKNOWN_HELP)

    def static_meta(self) -> dict[str, Any]:
        """The format, for the checks of steps that take the model."""
        return {"format": RETRIEVING}

    def check(self) -> None:
        """Raise `UsageError` for settings and models that can't work. Light: reads no input."""
        check_unknown(self.unknown)
        require_counts(self.index, self.limit)
        require_answering(self.model, "model")

    def check_files(self) -> None:
        """Raise `UsageError` for a template that can't be used."""
        self._template()

    def run(self, job: Job) -> Model:
        """Describe the model. Nothing is retrieved yet."""
        self.check()
        meta = {"format": RETRIEVING, "k": self.k, "prompt": self._template().facts()}
        return Model(job.out, meta=meta, refs={"model": self.model, "index": self.index})

    def _template(self) -> ContextPrompt:
        return ContextPrompt.of(self.prompt, unknown=self.unknown, limit=self.limit)
