"""Reads a bundle: its settings, and what makes a prompt of a conversation."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finery_retrieve.serve.app.embed import Secret, embedder
from finery_retrieve.serve.app.prompt import ContextPrompt, question_of
from finery_retrieve.serve.app.search import Searcher
from finery_retrieve.serve.app.server import Message

SETTINGS, TEMPLATE, INDEX, EMBEDDER = "settings.json", "prompt.jinja", "index", "embedder"


class Opened(NamedTuple):
    """A bundle. settings: of its `settings.json`."""

    settings: dict[str, Any]
    searcher: Searcher
    prompt: ContextPrompt

    def prompted(self, messages: Sequence[Message]) -> tuple[list[Message], list[dict[str, Any]]]:
        """(The messages for the model, their sources). `ValueError` without a question."""
        hits = self.searcher.search(question_of(messages), self.settings["k"])
        sources = self.prompt.fitting(hits)
        return self.prompt.around(messages, sources), sources


def opened(folder: Path, secret: Secret = os.environ.get) -> Opened:
    """The bundle in a folder. Raises `ImportError` if a package that it needs isn't installed."""
    settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    template = (folder / TEMPLATE).read_text(encoding="utf-8")
    return opened_from(folder / INDEX, folder / EMBEDDER, settings, template, secret)


def opened_from(
    index: Path,
    embedding: Path,
    settings: dict[str, Any],
    template: str,
    secret: Secret = os.environ.get,
) -> Opened:
    """A bundle with these settings and prompt template.

    index: the folder of the index. embedding: that of the embedding model, if the bundle has one.
    """
    facts = settings["index"]
    model = embedder(facts["embedder"], embedding, secret) if "embedder" in facts else None
    prompt = ContextPrompt({**settings["prompt"], "template": template})
    return Opened(settings, Searcher(index, facts, model), prompt)
