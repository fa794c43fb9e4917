"""Shows the fields that a docstring describes as a list, on the page of the Python API.

Our docstrings have a paragraph such as `rows: how many there are. share: from 0 to 1.`
"""

import re
from typing import Any

import griffe

NAME = r"(?!default:)[a-z]\w*(?:, [a-z]\w*)*(?: \([^)]*\))?: "
START = re.compile(rf"(?:^|(?<=[.;]\s))(?={NAME})")


class FieldLists(griffe.Extension):
    """An extension of griffe, which reads the source for mkdocstrings."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a class or a function when it has been read."""
        if obj.docstring:
            parts = re.split(r"\n\s*\n", obj.docstring.value)
            obj.docstring.value = "\n\n".join(_listed(part) for part in parts)


def _listed(paragraph: str) -> str:
    if not re.match(NAME, paragraph):
        return paragraph
    fields = [field.strip() for field in START.split(" ".join(paragraph.split())) if field.strip()]
    return "\n".join(f"- **{name}**: {text}" for name, text in (f.split(": ", 1) for f in fields))
