"""Models that call tools as a function of a test says, and the tools of a small shop."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from finery import Completion, Engine, Model, Request, Sampling
from finery.inference.engine import Identity
from finery.rows import Conversation
from finery.testing import TestJob

Reply = str | Completion
Answer = Callable[[Conversation, list[dict[str, Any]] | None], Reply]

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer", "default": 1},
                    "unit": {"enum": ["C", "F"]},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "book",
            "description": "Book a table.",
            "parameters": {
                "type": "object",
                "properties": {
                    "guests": {"type": "array", "items": {"type": "string"}},
                    "at": {"type": "object", "properties": {"hour": {"type": "number"}}},
                    "note": {"type": "string"},
                },
                "required": ["guests"],
            },
        },
    },
]


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    """A call in OpenAI's shape, its arguments as JSON text."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"call_{name}", "type": "function", "function": function}


def calls(*of: dict[str, Any], text: str = "", **more: Any) -> Completion:
    """An answer with calls."""
    answer = Completion(
        text=text, finish_reason="tool_calls", prompt_tokens=1, completion_tokens=5,
        tool_calls=list(of) or None,
    )  # fmt: skip
    return msgspec.structs.replace(answer, **more)


class Scripted(Engine):
    """Answers with what the function `meta["answer"]` returns."""

    takes_tools = True

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Ask the function."""
        answer: Answer = self.model.meta["answer"]
        return [_completion(answer(request.messages, request.tools)) for request in requests]


def _completion(reply: Reply) -> Completion:
    return calls(text=reply, finish_reason="stop") if isinstance(reply, str) else reply


def caller(name: str, answer: Answer) -> Model:
    """A model that the recipe calls `name`."""
    model = Model(Path(), meta={"format": "scripted", "answer": answer})
    model.ref = name
    return model


def by_prompt(**replies: Reply) -> Answer:
    """Answers by the content of the last message; nothing to any other."""
    return lambda messages, tools: replies.get(str(messages[-1]["content"]), "")


def job(folder: Path) -> TestJob:
    """A job in which every model answers as scripted."""

    class Job(TestJob):
        def _find(self, model: Model) -> tuple[type[Engine], Identity]:
            return Scripted, Identity(model.name, model.name)

    return Job(folder)


def row(prompt: str, *due: dict[str, Any], text: str = "") -> dict[str, Any]:
    """A row that expects these calls, or a text."""
    turn: dict[str, Any] = {"role": "assistant", "content": text}
    if due:
        turn["tool_calls"] = list(due)
    return {"messages": [{"role": "user", "content": prompt}, turn], "tools": TOOLS}
