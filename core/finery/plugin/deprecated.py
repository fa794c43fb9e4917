"""Deprecated hooks and names. They still work, with a warning that names the replacement.

No other file knows them. A year after the warning was introduced, its entry is deleted here, and
nothing else has to change.
"""

import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType, FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from finery.plugin.hookspecs import hookspec

if TYPE_CHECKING:
    from finery.plugin.views.view import View


class FineryDeprecationWarning(FutureWarning):
    """A plugin uses something that finery will remove. Shown by default, unlike Python's own."""


class Deprecated(NamedTuple):
    """The replacement, and the version of finery that removes the old name."""

    instead: str
    gone_in: str


HOOKS = {"finery_pages": Deprecated("finery_views", "0.3")}
NAMES = {"inner": Deprecated("nested_step", "0.3")}
ARGUMENTS = {"setting": ("keyed", "affects_output"), "takes": ("named", "uses_name")}
"""Function → (deprecated argument, its new name). finery 0.3 removes the old one."""


_given: dict[Any, Any] = {}
"""Python's registry of warnings, so that each line is warned about once."""


class Hooks:
    """Specifications of the deprecated hooks."""

    @staticmethod
    @hookspec
    def finery_pages() -> Mapping[str, Any]:  # type: ignore[empty-body]
        """Return the pages you provide: kind of artifact → `"module:function"`."""


def with_page(view: "View", make: Callable[..., str]) -> "View":
    """The view, with the page that a function of `finery_pages` makes.

    The function accepts the title, the outputs by name, (name, model) of the tokenizer or None, and
    a function that reports progress. It returns HTML.
    """
    from finery.artifact.kinds import Model
    from finery.plugin.views.view import Output, Page, PageContext

    base: Any = type(view)

    class WithPage(base):  # type: ignore[misc]
        side_by_side = True

        def page(self, outputs: Sequence[Output], context: PageContext) -> Page:
            artifacts = {output.title: output.artifact for output in outputs}
            name = context.tokenizer or ""
            model = context.built(name) if name in context.graph.nodes else None
            named = (name, model) if isinstance(model, Model) else None
            return Page(make(context.title, artifacts, named, context.progress), "-report")

    page_view: View = WithPage()
    return page_view


def warn_of_hooks(plugin: str, origin: str, hooks: Iterable[tuple[str, FunctionType]]) -> None:
    """Warn about each deprecated hook that a plugin implements."""
    for hook, function in hooks:
        if hook in HOOKS:
            code = function.__code__
            what = f"plugin '{plugin}' ({origin}) implements {hook}"
            _warn(what, HOOKS[hook], code.co_filename, code.co_firstlineno)


def __getattr__(name: str) -> Any:
    """A deprecated name of `finery`, which looks it up here.

    `setting` and `takes` are also looked up here, because they accept deprecated arguments.
    """
    if name in ("setting", "takes"):
        return _with_old_argument(name)
    if name not in NAMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    _warn_caller(f"finery.{name}", NAMES[name])
    return getattr(sys.modules["finery"], NAMES[name].instead)


@functools.cache
def _with_old_argument(name: str) -> Callable[..., Any]:
    """The function of `finery.fields`, which also accepts the deprecated argument."""
    from finery import fields

    function = getattr(fields, name)
    old, new = ARGUMENTS[name]

    @functools.wraps(function)
    def renamed(*arguments: Any, **options: Any) -> Any:
        if old in options:
            _warn_caller(f"{name}({old}=…)", Deprecated(f"{name}({new}=…)", "0.3"))
            options[new] = options.pop(old)
        return function(*arguments, **options)

    return renamed


def _warn_caller(what: str, deprecated: Deprecated) -> None:
    """Warn about the line of a plugin that uses something deprecated."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    if frame is not None:
        file = frame.f_code.co_filename
        _warn(f"{_plugin_at(frame)} uses {what}", deprecated, file, frame.f_lineno)


def _plugin_at(frame: FrameType) -> str:
    """The package of the code in a frame, or its file if it is beside a recipe."""
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    is_package = hasattr(sys.modules.get(package), "__path__")
    return package if is_package else Path(frame.f_code.co_filename).name


def _is_ours(frame: FrameType) -> bool:
    """Whether a frame is of finery or of Python's import system."""
    module = str(frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in ("finery", "importlib")


def _warn(what: str, deprecated: Deprecated, file: str, line: int) -> None:
    text = f"{what}, which finery {deprecated.gone_in} removes: use {deprecated.instead}"
    warnings.warn_explicit(text, FineryDeprecationWarning, file, line, registry=_given)
