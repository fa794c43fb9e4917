"""`columns:`: Jinja templates over the columns of any table."""

from typing import TYPE_CHECKING, Any

from finery import Settings, setting
from finery.rows import Row
from finery.rows.badrow import BadRow
from finery.rows.templates.sandbox import compiled, render

if TYPE_CHECKING:
    from jinja2 import Template

PARTS = ("system", "user", "assistant", "label")


class Columns(Settings):
    """Templates over the columns of a table, e.g. `user: "{{ text }}"`.

    A column whose name isn't a word is written `{{ row["Customer text"] }}`.
    """

    user: str = setting(help="Template of the user turn.", examples=["{{ text }}"])
    assistant: str | None = setting(None, help="Template of the answer.", examples=["{{ intent }}"])
    system: str | None = setting(
        None, help="Template of the system prompt. An empty result means no system prompt."
    )
    label: str | None = setting(None, help="Template of the label that evaluators and splits use.")


class Templates:
    """The compiled templates of `columns:`; Jinja's sandbox, so that a recipe can't run code."""

    def __init__(self, columns: Columns) -> None:
        self._templates: dict[str, Template] = {}
        for part in PARTS:
            source = getattr(columns, part)
            if source is not None:
                self._templates[part] = compiled(source, f"columns.{part}")

    def build(self, columns: dict[str, Any], prompts_only: bool) -> Row:
        """The row of a record: `messages`, and `label` if there is a template for it."""
        turns = []
        for role in PARTS[:3]:
            content = self._render(role, columns)
            if content.strip():
                turns.append({"role": role, "content": content})
            elif role in self._templates and role != "system":
                raise BadRow(f"columns.{role} gives an empty text", "fill it in, or remove the row")
        row: Row = {"messages": turns}
        if "label" in self._templates:
            row["label"] = self._render("label", columns).strip()
            if not row["label"]:
                raise BadRow("columns.label gives an empty text", "fill it in, or remove the row")
        return row

    def _render(self, part: str, columns: dict[str, Any]) -> str:
        if part not in self._templates:
            return ""
        return render(self._templates[part], f"columns.{part}", {"row": columns, **columns})
