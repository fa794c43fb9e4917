"""A model that answers from a table, for tests of steps that ask one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finery.artifact.kinds import Model
from finery.inference.engine import Engine
from finery.inference.types import Completion, Request, Sampling
from finery.rows import Conversation

FORMAT = "table"
"""The format of these models. `TestJob` and the contracts' projects have an engine for it."""


class TableEngine(Engine):
    """Answers with what the model's table has for the last message. It never calls a tool."""

    version = "1"
    takes_tools = True

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Look each answer up."""
        return [self._answer(request.messages, sampling) for request in requests]

    def _answer(self, conversation: Conversation, sampling: Sampling) -> Completion:
        table, default = self.model.meta["answers"], self.model.meta["default"]
        answers = table.get(str(conversation[-1]["content"]), default)
        words = str(answers[sampling.seed % len(answers)]).split(" ")
        prompt = sum(1 + str(message["content"]).count(" ") for message in conversation)
        return Completion(
            text=" ".join(words[: sampling.max_tokens]),
            finish_reason="length" if len(words) > sampling.max_tokens else "stop",
            prompt_tokens=prompt,
            completion_tokens=min(len(words), sampling.max_tokens),
        )


def table_model(
    folder: Path,
    answers: Mapping[str, str | Sequence[str]] | None = None,
    default: str | Sequence[str] = "",
) -> Model:
    """A model that answers from a table. A token is a word.

    answers: the last message of a conversation → the answer, or several: the seed picks one.
    default: the answer to everything else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = {prompt: _several(answer) for prompt, answer in (answers or {}).items()}
    meta: dict[str, Any] = {"format": FORMAT, "answers": table, "default": _several(default)}
    return Model(folder, meta=meta)


def _several(answers: str | Sequence[str]) -> list[str]:
    return [answers] if isinstance(answers, str) else list(answers)
