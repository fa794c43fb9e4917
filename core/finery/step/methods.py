"""Checks what the methods of other people's step types, engines and views return and raise."""

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from inspect import unwrap
from pathlib import Path
from typing import Any

import msgspec

from finery.artifact.kinds import Artifact
from finery.errors import PluginError, raised_as, raised_at
from finery.key import Key
from finery.step.forecast import Estimate, Forecast, Note
from finery.step.inspect import inputs_of
from finery.step.look import Promise
from finery.step.resources import Resources
from finery.util.installed import is_finery_module
from finery.util.paths import shown


def check_methods(cls: type, problems: Mapping[str, Callable[[Any], str]], title: str = "") -> None:
    """Let the methods of a plugin's class that finery calls fail with errors in words.

    A `PluginError` then names the class, the method and the line, for an exception as for a value
    of the wrong type. So do methods that the class inherits from finery's plugins, since they may
    call its own. problems: see `OF_STEPS`. title: of the class in messages; by default its name.
    """
    if is_finery_module(cls.__module__) or "__finery_checked__" in vars(cls):
        return
    type.__setattr__(cls, "__finery_checked__", True)
    for name, problem_of in problems.items():
        method = inspect.getattr_static(cls, name)
        is_classmethod = isinstance(method, classmethod)
        function = method.__func__ if is_classmethod else method
        if function.__qualname__ not in (f"Step.{name}", f"Engine.{name}", f"View.{name}"):
            checked: Any = _checked(function, name, problem_of, title)
            type.__setattr__(cls, name, classmethod(checked) if is_classmethod else checked)


def _checked(
    method: Callable[..., Any], name: str, problem_of: Callable[[Any], str], title: str
) -> Callable[..., Any]:
    def check(returned: Any, subject: Any) -> None:
        if problem := problem_of(returned):
            code = unwrap(method).__code__
            raise PluginError(
                f"`{name}` of {title or _name_of(subject)} returns {problem}",
                where=f"{shown(Path(code.co_filename))}:{code.co_firstlineno}",
                fix=f"return what `{name}` is annotated with in finery's reference",
            )

    def stream(items: Iterable[Any], subject: Any) -> Iterator[Any]:
        with raised_as(lambda error: _failure(error, subject, name, title)):
            for item in items:
                check(item, subject)
                yield item

    @wraps(method)
    def call(subject: Any, *arguments: Any, **options: Any) -> Any:
        with raised_as(lambda error: _failure(error, subject, name, title)):
            returned = method(subject, *arguments, **options)
            if name == "advise":  # it may be a generator
                returned = [*returned]
        if name in STREAMS and returned is not None:
            return stream(returned, subject)
        check(returned, subject)
        return returned

    return call


def _name_of(subject: Any) -> str:
    """A step's type as in recipes; of others, the name of the class."""
    cls = subject if isinstance(subject, type) else type(subject)
    return str(getattr(subject, "use", cls.__name__))


def _failure(error: Exception, subject: Any, method: str, title: str) -> PluginError:
    """The error for what a method raised."""
    failure = PluginError.in_method(error, subject, method)
    frame = raised_at(error, None)
    if method == "check" and frame and Path(frame.filename).parent.name == "artifact":
        failure.what = f"`check` reads an input, which may not be built yet: {failure.what}"
        failure.fix = "read inputs in `examine(look)`, which is called as more is known of them"
    elif method not in ("check", "examine"):  # whose errors are placed at the step
        name = title or _name_of(subject)
        failure.what = failure.what.replace(f"`{method}`", f"`{method}` of {name}")
    elif method == "check" and inputs_of(subject.__class__):
        failure.fix = "correct it; if it reads an input, do that in `examine(look)`"
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


def _fine(returned: Any) -> str:
    return ""


def problem_of_type(noun: str, *types: type) -> Callable[[Any], str]:
    """What is wrong with a value that is of none of these types. noun: what it should be."""
    return lambda value: "" if isinstance(value, types) else f"{value!r:.60}, which isn't {noun}"


def _problem_of_facts(facts: Any) -> str:
    try:
        json.dumps(facts)
    except (TypeError, ValueError) as error:
        return f"{facts!r:.60}, which isn't JSON: {error}"
    return problem_of_type("a mapping", Mapping)(facts)


def problem_of_texts(texts: Any) -> str:
    is_right = isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)
    return "" if is_right else f"{texts!r:.60}, which isn't a list of texts"


def _problem_of_place(pair: Any) -> str:
    """Of one of the places of rows."""
    is_right = isinstance(pair, tuple) and [type(part) for part in pair] == [str, str]
    return "" if is_right else f"{pair!r:.60}, which isn't a pair of an id and a place"


STREAMS = frozenset({"trace_rows", "records", "remarks", "event", "poll"})
"""Methods that return an iterator, whose items are checked as they come."""
OF_STEPS: Mapping[str, Callable[[Any], str]] = {
    "cache_key": lambda key: _problem_of(key, Key),
    "resources": lambda resources: _problem_of(resources, Resources),
    "outputs": _problem_of_outputs,
    "forecast": lambda forecast: (
        "" if isinstance(forecast, Forecast) else _problem_of(forecast, Forecast)
    ),
    "estimate": lambda estimate: "" if estimate is None else _problem_of(estimate, Estimate),
    "advise": _problem_of_notes,
    "choices": _problem_of_choices,
    "check": _fine,
    "examine": _fine,
    "leave_out": problem_of_texts,
    "doubts": problem_of_texts,
    "sketch": problem_of_type("an artifact", Artifact, type(None)),
    "prove": problem_of_type("a list of proofs", list, type(None)),
    "floating_name": problem_of_type("a text", str, type(None)),
    "pin_name": problem_of_type("a text", str),
    "provenance": _problem_of_facts,
    "trace_rows": _problem_of_place,
}
"""Method → what is wrong with a value that it returned, after "returns "; empty if nothing is.

`run` and `verify` have their errors placed where they are called.
"""
OF_ENGINES: Mapping[str, Callable[[Any], str]] = {
    "cache_key": OF_STEPS["cache_key"],
    "uses_gpu": problem_of_type("True or False", bool),
}
"""The same for engines."""
OF_VIEWS: Mapping[str, Callable[[Any], str]] = {
    "brief": problem_of_type("a text", str),
    "data": _problem_of_facts,
    "facts": _problem_of_facts,
    "difference": _problem_of_facts,
    **dict.fromkeys(("records", "remarks", "event"), _fine),
}
"""The same for views. Errors of `describe` and `compare` are shown in the place of their part."""
