"""The note `no-hub-token`: a push that will fail after everything else is built."""

import os
from collections.abc import Iterator
from pathlib import Path

from finery import About, Graph, Note, Results
from finery_hub.push.step import TOKEN, HubPush

NAME = "no-hub-token"
ABOUT = {
    NAME: About(
        when="a `hub.push` isn't built yet, HF_TOKEN isn't set, and nobody is logged in to the hub",
        why="The push is usually the last step. Without a token it fails after all others.",
    )
}


def notes_on(graph: Graph, results: Results) -> list[Note]:
    """A note for each push that needs a token."""
    return [] if _has_token() else [*_notes(graph, results)]


def _notes(graph: Graph, results: Results) -> Iterator[Note]:
    for node in graph.nodes.values():
        step = node.step
        if isinstance(step, HubPush) and not step.dry_run and results.meta(node.name) is None:
            yield Note(
                name=NAME,
                text=f"{node.name} pushes to {step.repo}, but there is no token for the hub",
                fix="log in (`hf auth login`), or set HF_TOKEN to a token with write access",
                step=node.name,
            )


def _has_token() -> bool:
    """Whether the hub's library would find one, without its import, which takes a while."""
    home = Path(os.environ.get("HF_HOME") or _cache() / "huggingface").expanduser()
    path = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    return bool(os.environ.get(TOKEN)) or path.is_file()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
