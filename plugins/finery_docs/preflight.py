"""What is checked of documents before they are read."""

from collections.abc import Mapping

from finery import Preflight
from finery.rows.tables.records import suffix_of
from finery_docs.files import HTML, MARKDOWN, DocsFiles

READERS = {
    **dict.fromkeys(HTML, "beautifulsoup4"),
    **dict.fromkeys(MARKDOWN, "markdown-it-py"),
    ".pdf": "pypdf",
}
"""How a file's name ends → what reads it."""


class FilesPreflight(Preflight[DocsFiles]):
    """Looks at the names of the files."""

    def packages(self) -> Mapping[str, str]:
        """What reads files of these kinds."""
        suffixes = {suffix_of(path.name) for path in self.step.path.paths}
        needed = sorted({READERS[suffix] for suffix in suffixes & READERS.keys()})
        return dict.fromkeys(needed, "finery[docs]")
