"""HTML pages of views: Jinja templates of any package, over the layout that all pages share.

A page is one file that loads nothing, and runs no script but those of `views.section`. A template
is named by its package and file, `my_plugin/page.html.jinja`, and extends
`finery.views/templates/page.html.jinja`. It needs no care for what rows hold: all that it
prints is escaped, with control characters as pictures.
"""

from typing import TYPE_CHECKING, Any

from finery.util.text import visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

LAYOUT = "finery.views/templates/page.html.jinja"
PARTS = "finery.views/templates/parts.html.jinja"


def render_page(template: str, **context: Any) -> str:
    """The page as HTML. template: `package/file`, the file's path in the package."""
    return _environment().get_template(template).render(context)


def templates_digest(*templates: str) -> str:
    """A digest of these templates and the layout, 16 digits.

    For the `version` of a step that leaves a page: its key can't see what a template says.
    """
    from blake3 import blake3

    texts = [_source(name) for name in (LAYOUT, PARTS, *templates)]
    return blake3("\0".join(texts).encode()).hexdigest()[:16]


def _environment() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _source(template: str) -> str:
    from importlib.resources import files

    package, _, path = template.partition("/")
    return files(package).joinpath(path).read_text(encoding="utf-8")


def _printable(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _breakable(text: str) -> "Markup":
    """The text as HTML, which may break after an underscore or a slash."""
    from markupsafe import Markup, escape

    escaped = escape(visible(text))
    return escaped.replace("_", Markup("_<wbr>")).replace("/", Markup("/<wbr>"))
