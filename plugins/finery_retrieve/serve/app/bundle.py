"""Reads a bundle: its settings, and what makes a prompt of a conversation."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finery_retrieve.index.control import plain
from finery_retrieve.serve.app.embed import Secret, embedder
from finery_retrieve.serve.app.prompt import ContextPrompt, question_of
from finery_retrieve.serve.app.search import Searcher
from finery_retrieve.serve.app.server import Message, Unusable

SETTINGS, TEMPLATE, INDEX, EMBEDDER = "settings.json", "prompt.jinja", "index", "embedder"

FORMAT = 1
"""The version of `settings.json`."""
NEEDED = {
    "": ("name", "k", "index", "prompt", "model"),
    "index": ("method",),
    "prompt": ("unknown", "limit"),
    "model": ("name", "parameters"),
}
"""What `settings.json` must have: part of it → names there."""


class Opened(NamedTuple):
    """A bundle. settings: of its `settings.json`."""

    settings: dict[str, Any]
    searcher: Searcher
    prompt: ContextPrompt

    def prompted(self, messages: Sequence[Message]) -> tuple[list[Message], list[dict[str, Any]]]:
        """(The messages for the model, their sources). `NoQuestion` without a question."""
        hits = self.searcher.search(question_of(messages), self.settings["k"])
        sources = self.prompt.fitting(hits)
        return self.prompt.around(messages, sources), [_with_prompted(s) for s in sources]


def _with_prompted(source: dict[str, Any]) -> dict[str, Any]:
    """A source, with `prompted` if the prompt has its text in another form."""
    text = plain(source["text"])
    return source if text == source["text"] else {**source, "prompted": text}


def opened(folder: Path, secret: Secret = os.environ.get) -> Opened:
    """The bundle in a folder.

    Raises `ImportError` if a package that it needs isn't installed, and `Unusable` for settings
    that can't be used.
    """
    settings = _settings(folder / SETTINGS)
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
    searcher = Searcher(index, facts, model)
    if settings["prompt"]["limit"] is not None and "tokens" not in searcher.chunk(0):
        what = "limit counts tokens, but the index of the bundle doesn't have their numbers"
        raise Unusable(what, fix="build the bundle again")
    return Opened(settings, searcher, prompt)


def _settings(path: Path) -> dict[str, Any]:
    fix = "copy the bundle again"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unusable(f"{path} can't be read: {error}", fix=fix) from error
    version = settings.get("format") if isinstance(settings, dict) else None
    if version != FORMAT:
        raise Unusable(f"{path} has the format {version!r}, not {FORMAT}", fix=fix)
    for place, names in NEEDED.items():
        part = settings.get(place) if place else settings
        missing = [name for name in names if not isinstance(part, dict) or name not in part]
        if missing:
            what = f"'{place}.{missing[0]}'" if place else f"'{missing[0]}'"
            raise Unusable(f"{path} lacks {what}", fix=fix)
    return dict(settings)
