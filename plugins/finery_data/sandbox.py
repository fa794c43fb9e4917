"""Jinja in its sandbox: templates and expressions of recipes, which can't run code."""

from typing import TYPE_CHECKING, Any

from finery.errors import UsageError, did_you_mean
from finery_data.badrow import BadRow
from finery_data.values import holds_bytes, written

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.environment import TemplateExpression


def environment() -> Any:
    """Jinja's immutable sandbox: an undefined name is an error, and so is an empty column."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, finalize=_filled, keep_trailing_newline=False
    )


def compiled(source: str, where: str) -> "Template":
    """A template; `UsageError` at the setting `where` if it isn't Jinja."""
    from jinja2 import TemplateError

    try:
        made: Template = environment().from_string(source)
    except TemplateError as error:
        raise UsageError(
            f"the template isn't valid Jinja: {error}",
            where=where,
            fix='write columns as {{ name }}, e.g. user: "{{ text }}"',
        ) from error
    return made


def expression(source: str, where: str) -> "TemplateExpression":
    """An expression, e.g. `label != "spam"`; `UsageError` if it isn't one."""
    from jinja2 import TemplateError

    try:
        made: TemplateExpression = environment().compile_expression(source, undefined_to_none=False)
    except TemplateError as error:
        raise UsageError(
            f"not an expression: {error}",
            where=where,
            fix='write it without braces, e.g. label != "spam" and user | length > 20',
        ) from error
    return made


def render(template: "Template", what: str, names: dict[str, Any]) -> str:
    """The template's text; `BadRow` naming the setting `what` where it fails for these names."""
    try:
        return template.render(names)
    except BadRow as error:
        raise BadRow(f"{what}: {error.what}", error.fix) from error
    except Exception as error:  # a template can raise anything: 1 / 0, a filter's TypeError, …
        raise BadRow(f"{what}: {error}", fix_of(str(error), names)) from error


def evaluate(made: "TemplateExpression", what: str, names: dict[str, Any]) -> bool:
    """Whether the expression is true of these names; `BadRow` where it fails."""
    try:
        return bool(made(names))
    except Exception as error:  # as above
        raise BadRow(f"{what}: {error}", fix_of(str(error), names)) from error


def fix_of(message: str, names: dict[str, Any]) -> str:
    """What to do about an error of a template: for a name, the nearest one there is."""
    name, undefined, _ = message.partition(" is undefined")
    known = names.keys() - {"row"}
    guess = did_you_mean(name.strip("'"), known) if undefined else None
    return guess or "repair the template, or the row"


def _filled(value: Any) -> Any:
    """A template's value, unless it is missing: the text 'None' must not reach a model.

    Nor must Python's way to write objects, lists and bytes: they are written as JSON, or refused.
    """
    if value is None or (isinstance(value, float) and value != value):
        raise BadRow("a column is empty (null)", 'remove the row, or write {{ name or "" }}')
    if holds_bytes(value):
        raise BadRow("a column holds bytes, not text", "decode it, or leave it out")
    return written(value) if isinstance(value, (dict, list)) else value
