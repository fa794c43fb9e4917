"""Functions of a user's file that reward answers."""

import math
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from copy import deepcopy
from typing import TYPE_CHECKING, Any, SupportsFloat

from finery import Completion, StepError, UsageError
from finery.advanced import did_you_mean
from finery.rows import Row
from finery.rows.templates.limits import TimeExceeded, time_limit

if TYPE_CHECKING:
    from finery_trl.grpo import Functions

SECONDS = 30.0
"""CPU time for loading the file, and for rewarding an answer."""
Function = Callable[[Row, Completion], Any]


def load_functions(settings: "Functions") -> dict[str, Function]:
    """The functions that have a weight. `UsageError` for a file that fails or lacks one of them."""
    name, path = settings.file.names[0], str(settings.file.path)
    try:
        with _contained():
            names = runpy.run_path(path)
    except (Exception, SystemExit) as error:  # a user's code can raise anything
        is_syntax = isinstance(error, SyntaxError) and error.filename == path
        reason = f"isn't Python: {error}" if is_syntax else f"fails on import: {_in_words(error)}"
        raise UsageError(
            f"{name} {reason}", where="functions.file", fix="correct the file"
        ) from error
    usable = {key: value for key, value in names.items() if callable(value)}
    for function in settings.weights:
        if function not in usable:
            raise UsageError(
                f"{name} has no function named '{function}'",
                where="functions.weights",
                fix=did_you_mean(function, usable) or f"write one: def {function}(row, answer): …",
            )
    return {function: usable[function] for function in settings.weights}


def reward_of(name: str, function: Function, row: Row, answer: Completion) -> float | None:
    """A function's value for an answer. `StepError` if it fails, or if that is no number.

    It gets copies, so that it can't change what another one sees.
    """
    try:
        with _contained():
            value = function(deepcopy(row), deepcopy(answer))
    except (Exception, SystemExit) as error:
        raise StepError(
            f"the reward '{name}' failed for row {row['id']}: {_in_words(error)}",
            where="functions",
            details=[f"answer: {answer.text[:200]!r}"],
            fix="correct the function",
        ) from error
    if value is None:
        return None
    number = math.nan
    if isinstance(value, SupportsFloat):  # also numbers of numpy and torch
        with suppress(TypeError, ValueError, OverflowError, RuntimeError):
            number = float(value)
    if not math.isfinite(number):
        raise StepError(
            f"the reward '{name}' is {value!r:.80} for row {row['id']}, not a finite number",
            where="functions",
            fix="return a number, True, False, or None if the reward doesn't apply",
        )
    return number


@contextmanager
def _contained() -> Iterator[None]:
    """Limit the CPU time, and keep what is printed out of results on stdout."""
    with redirect_stdout(sys.stderr), time_limit(SECONDS):
        yield


def _in_words(error: BaseException) -> str:
    return f"it {error}" if isinstance(error, TimeExceeded) else f"{type(error).__name__}: {error}"
