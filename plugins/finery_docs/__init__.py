"""Documents: a folder of Markdown, text, HTML and PDF, in chunks with their source."""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types of this plugin."""
    return {"docs.files": "finery_docs.files:DocsFiles"}
