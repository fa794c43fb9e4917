"""Reads a bundle: its settings, and what makes a prompt of a conversation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
        found = self.searcher.search(question_of(messages), self.settings["k"])
        sources = self.prompt.fitting(found)
        return self.prompt.around(messages, sources), sources


def opened(folder: Path) -> Opened:
    """The bundle in a folder."""
    settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    template = (folder / TEMPLATE).read_text(encoding="utf-8")
    return opened_from(folder / INDEX, folder / EMBEDDER, settings, template)


def opened_from(index: Path, embedder: Path, settings: dict[str, Any], template: str) -> Opened:
    """A bundle with these settings and prompt template, whose models and index are elsewhere."""
    searcher = Searcher(index, settings["index"], embedder)
    return Opened(settings, searcher, ContextPrompt({**settings["prompt"], "template": template}))
