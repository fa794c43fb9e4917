"""Makes the links of the README work where the package index shows it.

A release sets FINERY_REPOSITORY to the address of the repository, which is written nowhere else.
Without it, links stay relative, and the metadata has no addresses.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class CustomMetadataHook(MetadataHookInterface):
    """Adds `readme` and `urls`, which are dynamic in pyproject.toml."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add them."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["urls"] = {}
        if repository := os.environ.get("FINERY_REPOSITORY"):
            at = f"v{metadata['version']}"

            def absolute(link: re.Match[str]) -> str:
                kind = "raw" if link["image"] else "blob"
                return f"{link['image']}[{link['text']}]({repository}/{kind}/{at}/{link['path']})"

            relative = r"(?P<image>!?)\[(?P<text>[^]]*)\]\((?P<path>(?![a-z]+:|#)[^)]+)\)"
            text = re.sub(relative, absolute, text)
            metadata["urls"] = {
                "Source": repository,
                "Documentation": f"{repository}/blob/{at}/docs/index.md",
                "Changelog": f"{repository}/blob/{at}/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
