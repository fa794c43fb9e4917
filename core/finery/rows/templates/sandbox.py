"""Jinja in its sandbox: templates and expressions of recipes.

They run no code, read no files and give the same text for the same row, so that a step's key
identifies its output. One that takes too much time or memory for a row stops with an error that
names it. Every template of a recipe that is rendered over rows is compiled here.
"""

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from finery.errors import UsageError
from finery.rows.badrow import BadRow
from finery.rows.tables.values import has_bytes, to_json_text
from finery.rows.templates.limits import LimitExceeded, apply_limits
from finery.util.text import did_you_mean

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.environment import TemplateExpression
    from jinja2.nodes import Template as Tree

MAX_OUTPUT_CHARACTERS = 2**26
"""Maximum characters that a template may write for one row."""
MAX_INTEGER_BITS = 2**20
"""Bits of an integer that a template may calculate."""
COLUMNS_FIX = 'write columns as {{ name }}, e.g. user: "{{ text }}"'
_RANDOM_NAMES = ("random", "lipsum")
"""Filters and functions of Jinja that return something else each time."""


@cache
def make_environment() -> Any:
    """A Jinja environment in which undefined names and empty columns are errors.

    `optimized=False`: Jinja computes no constants when it compiles, where nothing limits it.
    """
    from jinja2 import StrictUndefined, pass_context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            # Python calculates with huge integers for hours, and can't be interrupted.
            if isinstance(left, int) and isinstance(right, int):
                bits = left.bit_length()
                bits = bits * right if operator == "**" else bits + right.bit_length()
                if bits > MAX_INTEGER_BITS:
                    raise LimitExceeded(
                        f"calculates an integer of more than {MAX_INTEGER_BITS:,} bits"
                    )
            return super().call_binop(context, operator, left, right)

    # Jinja computes constants when it compiles, unless what finishes them needs a row's context.
    finalize = pass_context(lambda context, value: _check_value(value))
    sandbox = Sandbox(undefined=StrictUndefined, finalize=finalize, optimized=False)
    for name in _RANDOM_NAMES:
        sandbox.filters.pop(name, None)
        sandbox.globals.pop(name, None)
    sandbox.concat = _concatenate  # type: ignore[method-assign]
    return sandbox


def _concatenate(pieces: Iterable[str]) -> str:
    """The output of a template, macro or block. Stops one that never ends."""
    kept, length = list[str](), 0
    for piece in pieces:
        length += len(piece)
        if length > MAX_OUTPUT_CHARACTERS:
            raise LimitExceeded(f"writes more than {MAX_OUTPUT_CHARACTERS:,} characters")
        kept.append(piece)
    return "".join(kept)


def compile_template(source: str, where: str, fix: str = COLUMNS_FIX) -> "Template":
    """A template; `UsageError` at the setting `where` if it isn't Jinja, or loads another file.

    fix: what the error advises for invalid Jinja.
    """
    from jinja2 import TemplateError

    try:
        tree = make_environment().parse(source)
        _refuse_imports(tree, where)
        template: Template = make_environment().from_string(tree)
    except (TemplateError, SyntaxError, RecursionError) as error:
        raise UsageError(
            f"the template isn't valid Jinja: {error}",
            where=where,
            fix=_random_fix(error) or fix,
        ) from error
    return template


def compile_expression(source: str, where: str) -> "TemplateExpression":
    """An expression, e.g. `label != "spam"`; `UsageError` if it isn't one."""
    from jinja2 import TemplateError

    try:
        result: TemplateExpression = make_environment().compile_expression(
            source, undefined_to_none=False
        )
    except (TemplateError, SyntaxError, RecursionError) as error:
        raise UsageError(
            f"not an expression: {error}",
            where=where,
            fix=_random_fix(error)
            or 'write it without braces, e.g. label != "spam" and user | length > 20',
        ) from error
    return result


def template_names(source: str) -> set[str]:
    """The names that a template takes from its row, as `name`, `row.name` or `row["name"]`."""
    from jinja2 import nodes
    from jinja2.meta import TrackingCodeGenerator

    tree = make_environment().parse(source)
    # As `jinja2.meta.find_undeclared_variables`, which also computes constants: a 'a' * 10 ** 10.
    generator = TrackingCodeGenerator(make_environment())
    generator.optimizer = None
    generator.visit(tree)
    names: set[str] = generator.undeclared_identifiers - make_environment().globals.keys()
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        if isinstance(node.node, nodes.Name) and node.node.name == "row":
            is_attribute = isinstance(node, nodes.Getattr)
            name = node.attr if is_attribute else getattr(node.arg, "value", None)
            names |= {name} if isinstance(name, str) and not hasattr(dict, name) else set()
    return names - {"row"}


def render(template: "Template", setting: str, names: dict[str, Any]) -> str:
    """The template's text. `BadRow` at `setting` if it fails with these names."""
    try:
        with apply_limits():
            return template.render(names)
    except BadRow as error:
        raise BadRow(f"{setting}: {error.what}", error.fix) from error
    except Exception as error:  # a template can raise anything: 1 / 0, a filter's TypeError, …
        raise _template_error(error, setting, names) from error


def evaluate(condition: "TemplateExpression", setting: str, names: dict[str, Any]) -> bool:
    """Whether the expression is true for these names. `BadRow` if it fails."""
    try:
        with apply_limits():
            return bool(condition(names))
    except Exception as error:  # as above
        raise _template_error(error, setting, names) from error


def _template_error(error: Exception, setting: str, names: dict[str, Any]) -> BadRow:
    if isinstance(error, LimitExceeded):
        return BadRow(f"{setting}: {error} for this row", "shorten its loops and texts")
    reason = str(error) or type(error).__name__
    name, undefined, _ = reason.partition(" is undefined")
    guess = did_you_mean(name.strip("'"), names.keys() - {"row"}) if undefined else None
    return BadRow(f"{setting}: {reason}", guess or "correct the template or the row")


def _refuse_imports(tree: "Tree", where: str) -> None:
    from jinja2 import nodes

    import_nodes = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
    for node in tree.find_all(import_nodes):
        raise UsageError(
            f"line {node.lineno} of the template loads another template, which isn't allowed",
            where=where,
            fix="write everything in one template",
        )


def _random_fix(error: BaseException) -> str | None:
    if "'random'" in str(error):
        return "remove it: the same row must always give the same text"
    return None


def _check_value(value: Any) -> Any:
    """A template's value, unless it is missing: the text 'None' must not reach a model.

    Nor must Python's way to write objects, lists and bytes: they are written as JSON, or refused.
    """
    from jinja2 import Undefined

    if value is None or (isinstance(value, float) and value != value):
        raise BadRow("a column is empty (null)", 'remove the row, or write {{ name or "" }}')
    if has_bytes(value):
        raise BadRow("a column holds bytes, not text", "decode it, or remove it")
    if isinstance(value, (dict, list, tuple)):
        return to_json_text(value)
    if not isinstance(value, (str, int, float, Undefined)):
        # Python would print the object's address.
        raise BadRow(
            f"a value is a {type(value).__name__}, not text",
            "add () after a method, and | list or | join after map, select and similar filters",
        )
    return value
