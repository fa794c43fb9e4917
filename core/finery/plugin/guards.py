"""Keeps the hooks of a plugin from harming builds that don't use it.

`finery_build_event` and `finery_checks` only observe builds. Where one of them fails, the build
goes on, and the command ends with a warning, or with an error if the recipe uses the plugin.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from pathlib import Path
from typing import Any

import pluggy

from finery.errors import FineryError, PluginError, is_in_plugin, raised_at
from finery.plugin.discovery import Plugin, in_words
from finery.util.paths import shown


def guard_hooks(
    manager: pluggy.PluginManager,
    plugin: Plugin,
    declared_notes: Callable[[], Mapping[str, Any]],
    report: Callable[[Plugin, str, FineryError], None],
) -> None:
    """Let the hooks of a registered plugin fail without ending what calls them.

    declared_notes: the notes that plugins may give. report: called with the plugin, the hook and
    the error; it may raise that. Raises `PluginError` if another hook than `finery_run_step` is a
    wrapper.
    """

    problem_of = {
        "finery_checks": lambda notes: _note_problem(notes, declared_notes()),
        "finery_worker_environment": _variables_problem,
        "finery_build_event": lambda returned: "",
    }
    for caller in manager.get_hookcallers(plugin.module) or ():
        for implementation in caller.get_hookimpls():
            if implementation.plugin is not plugin.module or caller.name not in problem_of:
                continue
            if implementation.wrapper or implementation.hookwrapper:
                raise PluginError(
                    f"{caller.name} of {plugin.title} is a wrapper",
                    where=plugin.origin,
                    fix="only finery_run_step can be wrapped: return a value instead",
                )
            implementation.function = _guarded(  # type: ignore[misc]
                implementation.function, caller.name, plugin, problem_of[caller.name], report
            )


def _guarded(
    function: Callable[..., Any],
    hook: str,
    plugin: Plugin,
    problem_of: Callable[[Any], str],
    report: Callable[[Plugin, str, FineryError], None],
) -> Callable[..., Any]:
    """The function of a hook; its failures are reported, and then it returns nothing."""

    @wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            with redirect_stdout(sys.stderr):  # since finery may print JSON
                returned = function(*arguments)
                if hook == "finery_checks":  # it may be a generator
                    returned = [*(returned or ())]
            if not (problem := problem_of(returned)):
                return returned
            failure = hook_failure(hook, plugin, problem)
        except (Exception, SystemExit) as error:
            failure = hook_failure(hook, plugin, error)
        if hook == "finery_worker_environment":  # steps may need its variables
            raise failure
        report(plugin, hook, failure)
        return [] if hook == "finery_checks" else None

    return call


def hook_failure(hook: str, plugin: Plugin, problem: BaseException | str) -> FineryError:
    """The error for what a hook of a plugin raised, or for what is wrong with what it returned."""
    where, text = plugin.origin, problem
    if isinstance(problem, FineryError):
        return problem
    if isinstance(problem, BaseException):
        text = f"fails: {in_words(problem)}"
        file = plugin.module.__file__
        frame = raised_at(problem.__cause__ or problem, file)
        if file and frame and is_in_plugin(frame.filename, file):
            where = f"{shown(Path(frame.filename))}:{frame.lineno}"
    title = f"plugin '{plugin.name}'" if plugin.path else plugin.title
    fix = "repair it" if plugin.path else f"repair or uninstall {plugin.origin}"
    return PluginError(f"{hook} of {title} {text}", where=where, fix=fix)


@contextmanager
def failing_in_words(subject: str, plugin: Plugin) -> Iterator[None]:
    """Let a plugin's code fail with an error that names the plugin; finery's keeps its traceback.

    subject: what finery calls, in messages.
    """
    try:
        yield
    except FineryError:
        raise
    except Exception as error:
        if plugin.is_own:
            raise
        raise hook_failure(subject, plugin, error) from error


class GuardedContext:
    """The context manager that a plugin's function makes, which fails in words."""

    def __init__(self, make: Callable[[], Any], subject: str, plugin: Plugin) -> None:
        self._make, self._subject, self._plugin = make, subject, plugin

    def __enter__(self) -> Any:
        with failing_in_words(self._subject, self._plugin):
            context = self._make()
            if not hasattr(context, "__exit__"):
                problem = f"returns {context!r:.60}, which isn't a context manager"
                raise hook_failure(self._subject, self._plugin, problem)
            self._context = context
            return context.__enter__()

    def __exit__(self, *raised: Any) -> Any:
        with failing_in_words(self._subject, self._plugin):
            return self._context.__exit__(*raised)


def _variables_problem(variables: Any) -> str:
    if isinstance(variables, Mapping) and all(isinstance(v, str) for v in variables.values()):
        return ""
    return f"returns {variables!r:.60}, which isn't a mapping of names to texts"


def _note_problem(notes: Iterable[Any], declared: Mapping[str, Any]) -> str:
    from finery.step.forecast import Note

    for note in notes:
        if not isinstance(note, Note):
            return f"returns {note!r:.60}, which isn't a note: return finery.Note objects"
        if note.name not in declared:
            return (
                f"returns the note '{note.name}', which no plugin declares: declare it in "
                "finery_notes, so that recipes can silence it by name"
            )
    return ""
