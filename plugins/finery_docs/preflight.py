"""Checks of documents before they are read."""

from collections.abc import Mapping

from finery import Preflight
from finery.rows.tables.records import suffix_of
from finery_docs.files import HTML, MARKDOWN, DocsFiles

READERS = {
    **dict.fromkeys(HTML, "beautifulsoup4"),
    **dict.fromkeys(MARKDOWN, "markdown-it-py"),
    ".pdf": "pypdf",
}
"""Suffix of a file's name → the package that reads it."""


class FilesPreflight(Preflight[DocsFiles]):
    """Looks at the names of the files."""

    def packages(self) -> Mapping[str, str]:
        """The packages that read files of these kinds."""
        suffixes = {suffix_of(path.name) for path in self.step.path.paths}
        needed = sorted({READERS[suffix] for suffix in suffixes & READERS.keys()})
        return dict.fromkeys(needed, "finery[docs]")
