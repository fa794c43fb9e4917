"""Documents: Markdown, text, HTML and PDF in chunks.

In go files, out come rows with a `text`, its `source`, and the heading, line or page where it is.
"""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types of this plugin."""
    return {"docs.files": "finery_docs.files:DocsFiles"}
