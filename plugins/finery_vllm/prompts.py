"""Prompts and answers as token ids, with the tokenizer and chat template of the training."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from finery import Completion, Model, Request, Sampling
from finery_transformers.answering.answers import TokenReader, seed_of
from finery_transformers.loading import load_tokenizer, template_arguments
from finery_vllm.folder import ends_of, root_of
from finery_vllm.server.command import read_json


class Prompts:
    """The tokenizer of a model: what is sent for a request, and what an answer says.

    max_context: tokens of prompt and answer together; default: the model's context.
    """

    def __init__(self, model: Model, max_context: int | None) -> None:
        self._tokenizer = load_tokenizer(model)
        self.ends = ends_of(model, self._tokenizer)
        self._answers = TokenReader(self._tokenizer, template_arguments(model))
        self._model = model
        self._most = max_context

    def tokens(self, request: Request, max_tokens: int) -> list[int]:
        """The prompt. `DataError` if the template refuses it, or it leaves no room to answer."""
        self._answers.reader.check(request.tools)
        return self._answers.prompt(request, max_tokens, self._context)

    def body(self, prompt: list[int], sampling: Sampling) -> dict[str, Any]:
        """The request to /v1/completions, without the model's name.

        Greedy at temperature 0. It sets everything that vLLM would otherwise take from the model's
        files: the tokens that end an answer, and the sampling.
        """
        body: dict[str, Any] = {
            "prompt": prompt, "max_tokens": sampling.max_tokens, "top_p": sampling.top_p,
            "temperature": sampling.temperature, "seed": seed_of(sampling.seed, prompt),
            "stop_token_ids": self.ends, "ignore_eos": True, "return_token_ids": True,
            "add_special_tokens": False,
            "skip_special_tokens": not self._answers.reader.needs_special_tokens,
            "spaces_between_special_tokens": False,
        }  # fmt: skip
        if sampling.stop:
            body |= {"stop": list(sampling.stop), "include_stop_str_in_output": True}
        schema = self._answers.reader.schema_after(self._answers.end_of(prompt), sampling)
        if schema is not None:
            body["structured_outputs"] = {"json": schema}
        return body

    def completion(
        self, prompt: list[int], request: Request, answer: Sequence[int], stop: Sequence[str]
    ) -> Completion:
        """Parse an answer in the same way as the other engines of these models.

        answer: token ids, up to one that ends it, a stop text, or the limit.
        """
        return self._answers.completion(
            answer, self.ends, prompt=prompt, request=request, stop=stop
        )

    @cached_property
    def _context(self) -> int | None:
        file = root_of(self._model).file("config.json")
        config = read_json(file) if file.is_file() else {}
        text = config.get("text_config") or config
        limits = [
            n for n in (self._most, text.get("max_position_embeddings")) if isinstance(n, int)
        ]
        return min(limits, default=None)
