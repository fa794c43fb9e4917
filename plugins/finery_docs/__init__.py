"""Documents: Markdown, text, HTML and PDF in chunks.

Input: files. Output: rows with a `text`, its `source`, and its heading, line or page.
"""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types of this plugin."""
    return {"docs.files": "finery_docs.files:DocsFiles"}
