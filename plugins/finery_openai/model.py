"""`openai.model`: a model behind an OpenAI-compatible API, and the note on its key."""

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from finery import EngineJob, Forecast, Inputs, Job, Model, Note, Promise, Step, UsageError, setting
from finery.advanced import Price

OPENAI = "https://api.openai.com/v1"
FIXED = frozenset({"model", "messages", "stream", "n", "tools"})
"""Body parameters that `extra` can't set, because finery relies on them."""


class OpenaiModel(
    Step,
    sections=("models",),
    seeded=False,
    installs={"openai": "finery[openai]"},
    rehearsal={"retries": 0, "timeout": 60},
):
    """Use a model behind an OpenAI-compatible API: OpenAI, vLLM, Ollama, llama.cpp.

    It answers prompts wherever a local model does: evaluators compare it with the tuned model,
    `prompt.model` adds messages to it, and generators use it as teacher. This step sends no
    request. The model is identified by its name, the server and `extra`. Changing another setting
    reruns no step.
    """

    model: str = setting(min_length=1, help="The model's name on the server, e.g. `gpt-4.1-mini`.")
    base_url: str = setting(
        OPENAI,
        pattern=r"^https?://.+",
        help="Address of the API, e.g. `http://127.0.0.1:11434/v1` for Ollama.",
    )
    api_key: str | None = setting(
        "OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        help="The environment variable with the API key; null for a server that needs none.",
    )
    concurrency: int = setting(16, ge=1, le=1000, help="Maximum number of requests in flight.")
    requests_per_minute: float | None = setting(
        None, gt=0, help="Maximum requests a minute, for each step; default: no limit."
    )
    tokens_per_minute: float | None = setting(
        None,
        gt=0,
        help="Maximum tokens a minute, prompts and answers together, for each step.",
    )
    timeout: float = setting(300.0, gt=0, help="Seconds until an answer must be complete.")
    retries: int = setting(
        6,
        ge=0,
        help="How often a request is retried that failed for a temporary reason: an overloaded "
        "server, a broken connection, an invalid response.",
    )
    price: Price | None = setting(
        None, help="Price of the model, needed to show costs and to limit a budget in dollars."
    )
    extra: dict[str, Any] = setting(
        {},
        help="Additional parameters of each request's body, e.g. `{reasoning_effort: low}`. They "
        "override finery's own; null removes one.",
    )

    def check(self) -> None:
        """Raise `UsageError` for an address with secrets, or parameters that finery sets."""
        check_address(self.base_url)
        for name in self.extra:
            if name in FIXED:
                raise UsageError(
                    f"'{name}' can't be set in extra", where=f"extra.{name}", fix="remove it"
                )

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format for the checks of steps that take it."""
        return {"": Promise(Model, {"format": "api"})}

    def run(self, job: Job) -> Model:
        """Describe the model; no request is sent."""
        meta: dict[str, Any] = {
            "format": "api",
            "name": self.model,
            "server": server(self.base_url),
        }
        if self.extra:
            meta["extra"] = self.extra
        return Model(job.out, meta=meta, runtime=self.runtime())

    def runtime(self) -> dict[str, Any]:
        """Limits, price, and the name of the variable with the key."""
        names = (
            "api_key", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout",
            "retries", "price",
        )  # fmt: skip
        settings = {name: msgspec.to_builtins(getattr(self, name)) for name in names}
        return {**settings, "env": [self.api_key] if self.api_key else []}

    def forecast(self, inputs: Inputs) -> Forecast:
        """The price from the recipe."""
        return Forecast(runtime=self.runtime())

    def advise(self, inputs: Inputs) -> Iterator[Note]:
        """A note if the variable with the API key isn't set here or is empty."""
        key = self.api_key
        if key and not os.environ.get(key, "").strip():
            yield Note(
                name="unset-variable",
                text=f"{inputs.name} needs the key in the environment variable {key}, which "
                + ("is empty here" if key in os.environ else "isn't set here"),
                fix=f"export {key}=…, or set api_key: null if the server needs no key",
            )


def server(base_url: str) -> str:
    """A server's address as part of a model's identity: without a trailing slash."""
    return base_url.rstrip("/")


# -- key and address -------------------------------------------------------------------------------


def key_in(variable: str, job: EngineJob) -> str:
    """The key without whitespace around it: a file read into a variable ends in a line break.

    `UsageError` for a key that is empty or that can't be sent in an HTTP header.
    """
    key = job.secret(variable).strip()
    if not key:
        raise UsageError(
            f"the environment variable {variable} is empty, but must contain an API key",
            fix=f"export {variable}=…, or set api_key: null if the server needs no key",
        )
    if not (key.isascii() and key.isprintable()):
        raise UsageError(
            f"the environment variable {variable} doesn't contain a key: it has line breaks or "
            "non-ASCII characters, which can't be sent in an HTTP header",
            fix="copy the key again, without the text around it",
        )
    return key


def check_address(base_url: str) -> None:
    """Raise `UsageError` for the address of an API that has more than a server and a path.

    The rest could be a secret, and addresses are in keys and logs.
    """
    url = urlsplit(base_url)
    if "@" in url.netloc or url.query or url.fragment:
        raise UsageError(
            "the address must consist of a server and a path",
            where="base_url",
            fix="remove the rest; to pass a key, name its environment variable in api_key",
        )
