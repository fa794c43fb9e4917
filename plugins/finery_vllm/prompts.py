"""Prompts and answers as token ids, with the tokenizer and chat template of the training."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec
from blake3 import blake3

from finery import Completion, DataError, Model, Request, Sampling
from finery_transformers.answering.answers import TokenReader
from finery_transformers.chat import END_THINK, THINK, decoded, prompt_tokens
from finery_transformers.loading import load_tokenizer, template_arguments
from finery_vllm.folder import ends_of, root_of
from finery_vllm.server.command import read_json

PROMPT_TOKENS = 64
"""Tokens at the end of a prompt that show how its answer begins."""


class Prompts:
    """The tokenizer of a model: what is sent for a request, and what an answer says.

    most: tokens of prompt and answer together; default: the model's context.
    """

    def __init__(self, model: Model, most: int | None) -> None:
        self._tokenizer = load_tokenizer(model)
        self._arguments = template_arguments(model)
        self.ends = ends_of(model, self._tokenizer)
        self._answers = TokenReader(self._tokenizer, self._arguments)
        self._model = model
        self._most = most

    def tokens(self, request: Request, max_tokens: int) -> list[int]:
        """The prompt. `DataError` if the template refuses it, or it leaves no room to answer."""
        self._answers.reader.check(request.tools)
        tokens = prompt_tokens(
            self._tokenizer, request.messages, tools=request.tools, arguments=self._arguments
        )
        if self._context is not None and len(tokens) + max_tokens > self._context:
            raise DataError(
                f"a prompt of {len(tokens)} tokens and an answer of up to {max_tokens} don't fit "
                f"the model's context of {self._context}",
                details=[str(turn.get("content"))[:100] for turn in request.messages[-1:]],
                fix="shorten the prompt or lower max_tokens",
            )
        return tokens

    def body(self, prompt: list[int], sampling: Sampling) -> dict[str, Any]:
        """The request to /v1/completions, without the model's name.

        Greedy at temperature 0. It sets everything that vLLM would otherwise take from the model's
        files: the tokens that end an answer, and the sampling.
        """
        body: dict[str, Any] = {
            "prompt": prompt, "max_tokens": sampling.max_tokens, "top_p": sampling.top_p,
            "temperature": sampling.temperature, "seed": _seed(sampling.seed, prompt),
            "stop_token_ids": self.ends, "ignore_eos": True, "return_token_ids": True,
            "add_special_tokens": False,
            "skip_special_tokens": not self._answers.reader.needs_special_tokens,
            "spaces_between_special_tokens": False,
        }  # fmt: skip
        if sampling.stop:
            body |= {"stop": list(sampling.stop), "include_stop_str_in_output": True}
        if sampling.schema is not None and not self._is_thinking(prompt):
            body["structured_outputs"] = {"json": sampling.schema}
        return body

    def completion(
        self, prompt: list[int], request: Request, answer: Sequence[int], stop: Sequence[str]
    ) -> Completion:
        """Parse an answer in the same way as the other engines of these models.

        answer: token ids, up to one that ends it, a stop text, or the limit.
        """
        length = next((i for i, token in enumerate(answer) if token in self.ends), len(answer))
        text = self._answers.text(answer[:length])
        cut = min((at for s in stop if (at := text.find(s)) >= 0), default=None)
        stopped = cut is not None or length < len(answer)
        parsed = self._answers.parts(
            text[:cut], answer[:length], prompt=self._end(prompt), tools=request.tools
        )
        return Completion(
            **parsed._asdict(),
            finish_reason=parsed.finish_reason(stopped),
            prompt_tokens=len(prompt),
            completion_tokens=length + (cut is None and length < len(answer)),
        )

    @cached_property
    def _context(self) -> int | None:
        file = root_of(self._model).file("config.json")
        config = read_json(file) if file.is_file() else {}
        text = config.get("text_config") or config
        known = [n for n in (self._most, text.get("max_position_embeddings")) if isinstance(n, int)]
        return min(known, default=None)

    def _is_thinking(self, prompt: Sequence[int]) -> bool:
        """Whether the prompt has begun a thought, which a schema would cut off."""
        end = self._end(prompt).rpartition(THINK)
        return bool(end[1]) and END_THINK not in end[2]

    def _end(self, prompt: Sequence[int]) -> str:
        return decoded(self._tokenizer, prompt[-PROMPT_TOKENS:], special=True)


def _seed(seed: int, prompt: list[int]) -> int:
    """A seed for this row, so that rows with the same `seed` draw different numbers."""
    digest = blake3(msgspec.json.encode([seed, prompt])).digest(8)
    return int.from_bytes(digest, "little") >> 1
