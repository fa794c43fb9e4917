"""What is printed of evaluations and of parts, without a recipe."""

import io
from collections.abc import Iterable
from typing import Any

from rich.console import Console

from finery.recipe.graph import Graph
from finery.views import Context, Detail, Output, Part
from finery.views.terminal import print_part, print_sections
from finery.views.view import comparison_of, sections_of
from finery_eval.view.metrics import MetricsView


def context(**facts: Any) -> Context:
    """The context of a recipe without steps."""
    recipe: Any = None
    facts = {"medium": "terminal", **facts}
    return Context(
        "t", Graph(recipe, recipe, {}), lambda _: None, None, lambda *_: None, print, **facts
    )


def printed(parts: Iterable[Part], width: int = 120) -> str:
    """What a terminal of that width shows of parts."""
    out = io.StringIO()
    for part in parts:
        print_part(Console(file=out, width=width), part)
    return out.getvalue()


def lines(parts: Iterable[Part], width: int = 120) -> list[str]:
    """The lines with anything on them."""
    return [line.rstrip() for line in printed(parts, width).splitlines() if line.strip()]


def shown(output: Output, width: int = 120, **detail: Any) -> str:
    """What `finery show` prints of an evaluation."""
    out, of = io.StringIO(), context(detail=Detail(**detail))
    print_sections(
        Console(file=out, width=width), sections_of(MetricsView(), [output], of, strict=True)
    )
    return out.getvalue()


def compared(before: Output, after: Output, most: int = 0) -> str:
    """What `finery diff` prints of two evaluations."""
    out, of = io.StringIO(), context(detail=Detail(most))
    sections = comparison_of(MetricsView(), before, after, of)
    print_sections(Console(file=out, width=120), sections)
    return out.getvalue()
