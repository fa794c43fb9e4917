"""`openai.model`: a model behind an OpenAI-compatible API."""

from typing import Any
from urllib.parse import urlsplit

import msgspec

from finery import Job, Model, Price, Step, UsageError, setting

OPENAI = "https://api.openai.com/v1"
FIXED = frozenset({"model", "messages", "stream", "n", "tools"})
"""Body parameters that `extra` can't set: finery itself needs them as they are."""


class OpenaiModel(
    Step,
    sections=("models",),
    seeded=False,
    preflight="finery_openai.preflight:ModelPreflight",
    forecast="finery_openai.forecast:ModelForecast",
):
    """Take a model behind an OpenAI-compatible API: OpenAI, vLLM, Ollama, llama.cpp.

    It answers prompts wherever a local model does: it can be judged beside the tuned one, stand
    under `prompt.model`, and teach. Nothing is asked yet. Only the model's name, the server and
    `extra` are its identity: a change of all else here redoes no step.
    """

    model: str = setting(min_length=1, help="The model's name on the server, e.g. `gpt-4.1-mini`.")
    base_url: str = setting(
        OPENAI,
        pattern=r"^https?://.+",
        help="Where the API is, e.g. `http://127.0.0.1:11434/v1` for Ollama.",
    )
    api_key: str | None = setting(
        "OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        help="The environment variable that holds the key; null for a server that needs none.",
    )
    concurrency: int = setting(16, ge=1, le=1000, help="Requests under way at a time.")
    requests_per_minute: float | None = setting(
        None, gt=0, help="Most requests a minute, by each step that asks; default: no limit."
    )
    tokens_per_minute: float | None = setting(
        None,
        gt=0,
        help="Most tokens a minute, of prompts and answers together, by each step that asks.",
    )
    timeout: float = setting(300.0, gt=0, help="Seconds to wait for an answer.")
    retries: int = setting(
        6,
        ge=0,
        help="How often a request is sent again that failed for a reason that may pass: an "
        "overloaded server, a cut connection, an answer that is no JSON.",
    )
    price: Price | None = setting(
        None, help="What it costs; without it neither costs nor a budget in dollars are known."
    )
    extra: dict[str, Any] = setting(
        {},
        help="More parameters of each request's body, e.g. `{reasoning_effort: low}`; they "
        "overrule finery's own, and null leaves one out.",
    )

    def check(self) -> None:
        """Raise `UsageError` for an address that holds secrets, or parameters that finery sets."""
        parts = urlsplit(self.base_url)
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise UsageError(
                "the address holds more than a server and a path",
                where="base_url",
                fix="name the variable that holds the key in api_key; keys don't belong in recipes",
            )
        for name in self.extra:
            if name in FIXED:
                raise UsageError(
                    f"'{name}' can't be set in extra", where=f"extra.{name}", fix="drop it"
                )

    def run(self, job: Job) -> Model:
        """Say what the model is; nothing is asked of it yet."""
        meta: dict[str, Any] = {
            "format": "api",
            "name": self.model,
            "server": server(self.base_url),
        }
        if self.extra:
            meta["extra"] = self.extra
        return Model(job.out, meta=meta, runtime=self.runtime())

    def runtime(self) -> dict[str, Any]:
        """How to ask, what it costs, and the name of the variable with the key."""
        names = (
            "api_key", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout",
            "retries", "price",
        )  # fmt: skip
        settings = {name: msgspec.to_builtins(getattr(self, name)) for name in names}
        return {**settings, "env": [self.api_key] if self.api_key else []}


def server(base_url: str) -> str:
    """A server's address as it is part of a model's identity: without a slash at its end."""
    return base_url.rstrip("/")
