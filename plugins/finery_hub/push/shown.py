"""The display of a push: its view, and the note on a missing token."""

from collections.abc import Iterator, Mapping
from typing import Any

from finery.advanced import About, Manifest
from finery.views import Output, Part, Quantity, Section, Table, Text, View
from finery_hub.push.files import README


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
