"""The display of a push: its view, and the note on a missing token."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finery import About, Bundle, Graph, Manifest, Note, Results
from finery.views import Output, Part, Quantity, Section, Table, Text, View
from finery_hub.push.files import README
from finery_hub.push.step import TOKEN, HubPush


class HubView(View):
    """Shows what was pushed, or would be."""

    def brief(self, manifest: Manifest) -> str:
        """The repository and the commit."""
        meta = manifest.meta
        commit = str(meta.get("commit", ""))[:12]
        return f"{meta['repo']} {f'at {commit}' if commit else '(dry run)'}"

    def facts(self, output: Output) -> Mapping[str, Any]:
        """All but the files, which have a table."""
        return {n: fact for n, fact in output.manifest.meta.items() if n not in ("files", "format")}

    def overview(self, output: Output) -> Iterator[Part]:
        """Facts, the files in the repository, and the card."""
        yield from super().overview(output)
        meta = output.manifest.meta
        title = "files that would be pushed" if meta["dry_run"] else "files in the repository"
        files = [[Quantity(count, "bytes"), name] for name, count in meta["files"].items()]
        yield Section(title, [Table(["", ""], files)])
        card = output.artifact.file(README).read_text(encoding="utf-8")
        yield Section("the card", [Text(card, is_code=True)])


ABOUT = {
    "no-hub-token": About(
        when="a `hub.push` isn't built yet, HF_TOKEN isn't set, and nobody is logged in to the hub",
        why="The push is usually the last step. Without a token it fails after all others.",
    ),
    "row-published": About(
        when="a `hub.push` pushes a bundle with an example request whose `prompt` isn't set",
        why="The example is then the first short question of the training rows, which may be "
        "private.",
    ),
}


def notes_on(graph: Graph, results: Results) -> Iterator[Note]:
    """Notes on each push: it needs a token, or publishes a row."""
    yield from _published_rows(graph)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(os.environ.get("HF_HOME") or Path(cache) / "huggingface").expanduser()
    path = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    if os.environ.get(TOKEN) or path.is_file():
        return
    for node in graph.nodes.values():
        step = node.step
        if isinstance(step, HubPush) and not step.dry_run and results.meta(node.name) is None:
            yield Note(
                name="no-hub-token",
                text=f"{node.name} pushes to {step.repo}, but there is no token for the hub",
                fix="log in (`hf auth login`), or set HF_TOKEN to a token with write access",
                step=node.name,
            )


def _published_rows(graph: Graph) -> Iterator[Note]:
    """A note for each push of a bundle whose example is a training row's."""
    for node in graph.nodes.values():
        pushed = node.sources_of(Bundle) if isinstance(node.step, HubPush) else []
        with_row = [s.ref for s in pushed if getattr(graph.nodes[s.step].step, "prompt", 0) == ""]
        if with_row:
            yield Note(
                name="row-published",
                text=f"{node.name} publishes a question of the training rows, as the example in "
                f"{', '.join(with_row)}",
                fix="set `prompt` there, or list `row-published` in `silence` if it may be public",
                step=node.name,
            )
