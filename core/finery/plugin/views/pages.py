"""The deprecated hook `finery_pages` as a view; to be deleted with the hook."""

from collections.abc import Callable, Sequence
from typing import Any

from finery.artifact.kinds import Model
from finery.plugin.views.view import Output, Page, PageContext, View


def view_with_page(view: type[View], make: Callable[..., Any]) -> type[View]:
    """The view with a page that a function makes, as `finery_pages` names it.

    make: takes the title, the outputs by name, (name, model) or None, and `progress`.
    """

    class PageView(view):  # type: ignore[misc, valid-type]
        side_by_side = True

        def page(self, outputs: Sequence[Output], context: PageContext) -> Page:
            name = context.tokenizer or ""
            model = context.built(name) if name in context.graph.nodes else None
            artifacts = {output.title: output.artifact for output in outputs}
            named = (name, model) if isinstance(model, Model) else None
            return Page(str(make(context.title, artifacts, named, context.progress)), "-report")

    return PageView
