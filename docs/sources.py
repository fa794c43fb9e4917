"""A hook of MkDocs: publishes each page's Markdown next to its HTML, for the links of llms.txt."""

import shutil
from pathlib import Path
from typing import Any


def on_post_build(config: Any) -> None:
    """Copy the sources into the site."""
    source, site = Path(config["docs_dir"]), Path(config["site_dir"])
    for page in source.rglob("*.md"):
        shutil.copyfile(page, site / page.relative_to(source))
