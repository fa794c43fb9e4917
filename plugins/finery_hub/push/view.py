"""The view of a push: where it went, its files, and the beginning of its card."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finery import Detail, Manifest, Output, View, size, visible
from finery_hub.push.files import README

if TYPE_CHECKING:
    from rich.console import Console


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

    def print(self, console: "Console", output: Output, detail: Detail) -> None:
        """Print facts, the files in the repository, and the card."""
        from rich.text import Text

        meta = output.manifest.meta
        verb = "would be pushed" if meta["dry_run"] else "in the repository"
        super().print(console, output, detail)
        console.print(f"\nfiles that {verb}:" if meta["dry_run"] else f"\nfiles {verb}:")
        for name, count in meta["files"].items():
            console.print(Text(f"  {size(count):>9}  {visible(name)}"))
        console.print()
        console.print(Text(visible(output.artifact.file(README).read_text(encoding="utf-8"))))
