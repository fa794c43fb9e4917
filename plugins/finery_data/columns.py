"""`columns:`: Jinja templates over the columns of any table."""

from typing import TYPE_CHECKING, Any

from finery import Settings, setting
from finery.errors import UsageError, did_you_mean
from finery.rows import Row
from finery_data.badrow import BadRow

if TYPE_CHECKING:
    from jinja2 import Template

PARTS = ("system", "user", "assistant", "label")


class Columns(Settings):
    """Templates over the columns of a table, e.g. `user: "{{ text }}"`.

    A column whose name isn't a word is written `{{ row["Customer text"] }}`.
    """

    user: str = setting(help="Template of the user turn.", examples=["{{ text }}"])
    assistant: str | None = setting(None, help="Template of the answer.", examples=["{{ intent }}"])
    system: str | None = setting(None, help="Template of the system prompt; left out where empty.")
    label: str | None = setting(None, help="Template of the label that evaluators and splits use.")


class Templates:
    """The compiled templates of `columns:`; Jinja's sandbox, so that a recipe can't run code."""

    def __init__(self, columns: Columns) -> None:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=_filled)
        self._templates: dict[str, Template] = {}
        for part in PARTS:
            source = getattr(columns, part)
            if source is not None:
                self._templates[part] = _compiled(environment, part, source)

    def build(self, columns: dict[str, Any], prompts_only: bool) -> Row:
        """The row of a record: `messages`, and `label` if there is a template for it."""
        turns = []
        for role in PARTS[:3]:
            content = self._render(role, columns)
            if content.strip():
                turns.append({"role": role, "content": content})
            elif role in self._templates and role != "system":
                raise BadRow(f"columns.{role} gives an empty text", "fill it in or remove the row")
        row: Row = {"messages": turns}
        if "label" in self._templates:
            row["label"] = self._render("label", columns).strip()
            if not row["label"]:
                raise BadRow("columns.label gives an empty text", "fill it in or remove the row")
        return row

    def _render(self, part: str, columns: dict[str, Any]) -> str:
        if part not in self._templates:
            return ""
        try:
            return self._templates[part].render({"row": columns, **columns})
        except BadRow as error:
            raise BadRow(f"columns.{part}: {error.what}", error.fix) from error
        except Exception as error:  # a template can raise anything: 1 / 0, a filter's TypeError, …
            raise BadRow(f"columns.{part}: {error}", _fix(str(error), columns)) from error


def _compiled(environment: Any, part: str, source: str) -> "Template":
    from jinja2 import TemplateError

    try:
        compiled: Template = environment.from_string(source)
    except TemplateError as error:
        raise UsageError(
            f"the template isn't valid Jinja: {error}",
            where=f"columns.{part}",
            fix='write columns as {{ name }}, e.g. user: "{{ text }}"',
        ) from error
    return compiled


def _filled(value: Any) -> Any:
    """A template's value, unless it is missing: the text 'None' must not reach a model."""
    if value is None or (isinstance(value, float) and value != value):
        raise BadRow("a column is empty (null)", 'remove the row, or write {{ name or "" }}')
    return value


def _fix(message: str, columns: dict[str, Any]) -> str:
    name, undefined, _ = message.partition(" is undefined")
    guess = did_you_mean(name.strip("'"), columns) if undefined else None
    return guess or "repair the template, or the row"
