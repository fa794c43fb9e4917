"""Answers of a cascade without finery: classifiers in the folder, the last model perhaps elsewhere.

`serve.bundle` ships this file, so it imports nothing of finery.
"""

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SECONDS = 300.0
"""For a server to answer."""
PASSED_ON = ("max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop")
"""Settings of a request that the last model gets."""


def role(number: int) -> str:
    """The name of a stage's model in the cascade's folder and in its `refs`. number: from 0."""
    return f"stage{number + 1}"


class _Local:
    """A classifier in the folder. threshold: None if it always answers."""

    def __init__(self, part: Mapping[str, Any], folder: Path, threshold: float | None) -> None:
        self._answers = part["answers"](folder, part["meta"])
        self._threshold = threshold
        self._lock = threading.Lock()

    def answer(self, text: str) -> tuple[str, float | None, bool]:
        """(answer, its probability, whether it is sure enough)."""
        with self._lock:
            if not hasattr(self._answers, "answered"):
                return self._answers([text])[0], None, True
            ((answer, probability),) = self._answers.answered([text])
        confidence = probability if answer.strip() else 0.0
        return answer, probability, self._threshold is None or confidence > self._threshold


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key must not go to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Upstream:
    """A model behind an OpenAI-compatible API. Raises `RuntimeError` for what it can't answer."""

    def __init__(self, part: Mapping[str, Any]) -> None:
        variable = part["api_key"]
        self._part, self._key = part, os.environ.get(variable or "", "").strip()
        if variable and not self._key:
            raise RuntimeError(f"set {variable} to the API key of {part['server']}")

    def answer(self, messages: Sequence[Mapping[str, Any]], request: Mapping[str, Any]) -> str:
        """Its answer to a conversation."""
        sent = {name: request[name] for name in PASSED_ON if request.get(name) is not None}
        body = {"temperature": 0, **sent, **self._part["extra"]}
        body = {name: value for name, value in body.items() if value is not None}
        body |= {"model": self._part["name"], "messages": messages}
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        url = f"{self._part['server']}/chat/completions"
        asked = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.build_opener(_NoRedirects).open(asked, timeout=SECONDS) as response:
                return str(json.load(response)["choices"][0]["message"].get("content") or "")
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{self._part['server']} refuses it: {error}") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise RuntimeError(f"{self._part['server']} doesn't answer: {error!r}") from None


class Answers:
    """Answers conversations with the models of a cascade.

    meta: of it, with its `parts`: of a classifier, its class `answers` and its `meta`; of a model
    behind an API, its `server`, `name`, `api_key` (the variable with its key) and `extra`.
    """

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self._stages: list[tuple[str, _Local | Upstream]] = []
        for number, stage in enumerate(meta["stages"]):
            part = meta["parts"][role(number)]
            if "answers" not in part:
                self._stages.append((stage["model"], Upstream(part)))
            elif "threshold" not in stage or stage["threshold"] is not None:
                local = _Local(part, folder / role(number), stage.get("threshold"))
                self._stages.append((stage["model"], local))

    def choice(
        self, messages: Sequence[Mapping[str, Any]], text: str, request: Mapping[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        """(answer, what else is said of it: `stage`, the model that gave it, and its probability).

        text: of the conversation, as classifiers read it. request: its other settings.
        """
        for name, stage in self._stages:
            if isinstance(stage, Upstream):
                return stage.answer(messages, request), {"stage": name}
            answer, probability, is_sure = stage.answer(text)
            if is_sure:
                known = {} if probability is None else {"probability": round(probability, 6)}
                return answer, {"stage": name, **known}
        raise RuntimeError("the last model of a cascade always answers")
