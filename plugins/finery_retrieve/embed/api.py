"""`retrieve.api`: an embedding model behind an OpenAI-compatible API."""

from typing import Any

import msgspec

from finery import Job, Model, Price, Step, setting
from finery_openai.key import check_address
from finery_retrieve.formats import EMBEDDER_API

OPENAI = "https://api.openai.com/v1"


class RetrieveApi(
    Step,
    sections=("models",),
    seeded=False,
    preflight="finery_retrieve.embed.preflight:ApiPreflight",
):
    """Use an embedding model behind an OpenAI-compatible API, `/v1/embeddings`.

    This step sends no request. The model is identified by its name, the server, its dimensions, the
    revision and the prefixes. Changing another setting reruns no step.
    """

    model: str = setting(
        min_length=1, help="The model's name on the server, e.g. `text-embedding-3-small`."
    )
    base_url: str = setting(
        OPENAI, pattern=r"^https?://.+", help="Address of the API, e.g. `http://127.0.0.1:8080/v1`."
    )
    api_key: str | None = setting(
        "OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        help="The environment variable with the API key; null for a server that needs none.",
    )
    dimensions: int | None = setting(
        None, ge=1, help="Length of the embeddings, for models that can shorten them."
    )
    revision: str | None = setting(
        None,
        help="Any text. Change it when the server runs another model under the same name, to embed "
        "everything again.",
    )
    question_prefix: str = setting("", help="Text before each question, e.g. `query: `.")
    document_prefix: str = setting("", help="Text before each chunk, e.g. `passage: `.")
    batch: int = setting(64, ge=1, le=2048, help="Texts in a request.")
    concurrency: int = setting(4, ge=1, le=100, help="Maximum number of requests in flight.")
    timeout: float = setting(60.0, gt=0, help="Seconds until a request must be answered.")
    retries: int = setting(
        6, ge=0, help="How often a request is retried that failed for a temporary reason."
    )
    price: Price | None = setting(None, help="Price of the model, needed to show costs.")

    def check(self) -> None:
        """Raise `UsageError` for an address with secrets."""
        check_address(self.base_url)

    def static_meta(self) -> dict[str, Any]:
        """The format, for the checks of steps that take the model."""
        return {"format": EMBEDDER_API}

    def run(self, job: Job) -> Model:
        """Describe the model; no request is sent."""
        meta: dict[str, Any] = {
            "format": EMBEDDER_API,
            "name": self.model,
            "server": self.base_url.rstrip("/"),
            "question_prefix": self.question_prefix,
            "document_prefix": self.document_prefix,
        }
        if self.dimensions is not None:
            meta["dimensions"] = self.dimensions
        if self.revision is not None:
            meta["revision"] = self.revision
        names = ("api_key", "batch", "concurrency", "timeout", "retries", "price")
        runtime = {name: msgspec.to_builtins(getattr(self, name)) for name in names}
        runtime["env"] = [self.api_key] if self.api_key else []
        return Model(job.out, meta=meta, runtime=runtime)
