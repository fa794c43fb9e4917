"""Checks what the methods of other people's step types return and raise."""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from inspect import unwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from finery.artifact.kinds import Artifact
from finery.errors import FineryError, PluginError, raised_at
from finery.key import Key
from finery.step.forecast import Estimate, Forecast, Note
from finery.step.look import Promise
from finery.step.resources import Resources
from finery.util.installed import is_finery_module
from finery.util.paths import shown

if TYPE_CHECKING:
    from finery.step.step import Step


def check_methods(cls: "type[Step]") -> None:
    """Let the methods of a step type, where they aren't finery's, fail with errors in words.

    A `PluginError` then names the step type, the method and the line, for an exception as for a
    value of the wrong type. `run` isn't one of them, since the worker checks what it returns.
    """
    for name, problem_of in _PROBLEMS.items():
        method = getattr(cls, name)
        if not is_finery_module(unwrap(method).__module__):
            type.__setattr__(cls, name, _checked(method, name, problem_of))


def _checked(
    method: Callable[..., Any], name: str, problem_of: Callable[[Any], str]
) -> Callable[..., Any]:
    @wraps(method)
    def call(step: "Step", *arguments: Any) -> Any:
        try:
            returned = method(step, *arguments)
            if name == "advise":  # it may be a generator
                returned = [*returned]
        except FineryError:
            raise
        except Exception as error:  # a plugin's code can raise anything
            raise _failure(error, step, name) from error
        if problem := problem_of(returned):
            code = unwrap(method).__code__
            raise PluginError(
                f"`{name}` of {step.use} returns {problem}",
                where=f"{shown(Path(code.co_filename))}:{code.co_firstlineno}",
                fix=f"return what finery.Step.{name} is annotated with",
            )
        return returned

    return call


def _failure(error: Exception, step: "Step", method: str) -> PluginError:
    """The error for what a method raised."""
    failure = PluginError.in_method(error, step, method)
    frame = raised_at(error, None)
    if method == "check" and frame and Path(frame.filename).parent.name == "artifact":
        failure.what = f"`check` reads an input, which may not be built yet: {failure.what}"
        failure.fix = "read inputs in `examine(look)`, which is called as more is known of them"
    elif method not in ("check", "examine"):  # whose errors are placed at the step
        failure.what = failure.what.replace(f"`{method}`", f"`{method}` of {step.use}")
    return failure


def _problem_of(value: Any, expected: type[msgspec.Struct]) -> str:
    """What is wrong with a value that should be a struct of a type; empty if nothing is."""
    if not isinstance(value, expected):
        return f"{value!r:.60}, which isn't a {expected.__name__}"
    try:
        msgspec.convert(msgspec.structs.asdict(value), expected)
    except msgspec.ValidationError as error:
        return f"a {expected.__name__} with a wrong value: {error}"
    return ""


def _problem_of_outputs(outputs: Any) -> str:
    def is_kind(value: Any) -> bool:
        return isinstance(value, type) and issubclass(value, Artifact)

    kinds = [*outputs.values()] if isinstance(outputs, Mapping) else []
    if kinds and all(is_kind(k.kind if isinstance(k, Promise) else k) for k in kinds):
        return ""
    return f"{outputs!r:.60}, which isn't a mapping of names to promises or kinds of artifacts"


def _problem_of_notes(notes: Iterable[Any]) -> str:
    wrong = [note for note in notes if not isinstance(note, Note)]
    return f"{wrong[0]!r:.60}, which isn't a Note" if wrong else ""


def _problem_of_choices(choices: Any) -> str:
    is_right = isinstance(choices, Mapping) and not any(
        isinstance(v, str) for v in choices.values()
    )
    return (
        "" if is_right else f"{choices!r:.60}, which isn't a mapping of settings to lists of keys"
    )


_PROBLEMS: dict[str, Callable[[Any], str]] = {
    "cache_key": lambda key: _problem_of(key, Key),
    "resources": lambda resources: _problem_of(resources, Resources),
    "outputs": _problem_of_outputs,
    "forecast": lambda forecast: (
        "" if isinstance(forecast, Forecast) else _problem_of(forecast, Forecast)
    ),
    "estimate": lambda estimate: "" if estimate is None else _problem_of(estimate, Estimate),
    "advise": _problem_of_notes,
    "choices": _problem_of_choices,
    "check": lambda returned: "",
    "examine": lambda returned: "",
}
"""Method → what is wrong with a value that it returned, after "returns "; empty if nothing is."""
