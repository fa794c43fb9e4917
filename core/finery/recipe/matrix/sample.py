"""`sample:` variants drawn by a sampler instead of all combinations.

An axis is a range of numbers or a list of values. All variants are drawn when the recipe is read,
from its seed, so they are known before anything is built, and no result has a part in them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finery.errors import PluginError
from finery.recipe.document import Recipe, RecipePath
from finery.recipe.schema import StepTypes
from finery.util.text import did_you_mean

SIGNIFICANT_DIGITS = 3
"""Significant digits of a drawn fraction, so that its name is the number."""
SAMPLE_PLACE: RecipePath = ("matrix", "sample")
_RANGE_ENDS = {"from", "to"}
_RANGE_KEYS = _RANGE_ENDS | {"log", "step"}


@dataclass(frozen=True)
class SearchRange:
    """Numbers from `low` to `high`, both included; whole numbers where `whole`.

    log: evenly over the logarithm. step: only `low`, `low + step` and so on.
    """

    low: float
    high: float
    whole: bool
    log: bool = False
    step: float | None = None


SearchSpace = Mapping[str, SearchRange | int]
"""Axis → its range, or the number of its listed values."""
SearchPoint = Mapping[str, float]
"""Axis → a number of its range, or the index of a listed value."""
Sampler = Callable[[SearchSpace, int, int], Sequence[SearchPoint]]
"""(space, number of points, seed) → points. The same arguments always give the same points."""


def is_range(written: Any) -> bool:
    """Whether an axis is written as a range."""
    return (
        isinstance(written, dict)
        and bool(_RANGE_ENDS & written.keys())
        and written.keys() <= _RANGE_KEYS
    )


def read_range(recipe: Recipe, key: str, written: Mapping[str, Any]) -> SearchRange:
    """The range of an axis. Raises `RecipeError` if it can't be sampled."""
    place: RecipePath = ("matrix", key)
    if "sample" not in recipe.data["matrix"]:
        raise recipe.error(
            f"the axis '{key}' is a range, which needs `sample`",
            place,
            fix="add sample: {use: optuna.qmc, trials: 20}, or list the values: "
            f"{key}: [1e-4, 2e-4]",
        )
    problem = _range_problem(written)
    if problem:
        raise recipe.error(
            f"the range of '{key}' {problem}",
            place,
            fix=f"{key}: {{from: 1e-5, to: 1e-3, log: true}}",
        )
    low, high, step = written["from"], written["to"], written.get("step")
    is_whole = all(isinstance(number, int) for number in (low, high, *([step] if step else [])))
    return SearchRange(low, high, is_whole, written.get("log", False), step)


def _range_problem(written: Mapping[str, Any]) -> str:
    numbers = {name: written.get(name) for name in ("from", "to", "step")}
    low, high, step = numbers.values()
    if low is None or high is None:
        return f"has no `{'from' if low is None else 'to'}`"
    for name, number in numbers.items():
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            return f"has {number!r} as `{name}`, which isn't a number"
    log = written.get("log", False)
    if not isinstance(log, bool):
        return f"has {log!r} as `log`, which must be true or false"
    if not low < high:
        return "ends before it begins"
    if step is not None and not 0 < step <= high - low:
        return "has a `step` that isn't between 0 and its length"
    if log and (low <= 0 or step is not None):
        return "can't have a `step` with `log: true`" if low > 0 else "must be above 0 with `log`"
    return ""


def draw_points(recipe: Recipe, space: SearchSpace, plugins: StepTypes) -> list[dict[str, float]]:
    """Points drawn by the sampler that the recipe names, each once."""
    written = recipe.data["matrix"]["sample"]
    name = written["use"]
    if name not in plugins.sampler_names:
        raise recipe.error(
            f"unknown sampler '{name}'",
            (*SAMPLE_PLACE, "use"),
            fix=did_you_mean(name, plugins.sampler_names) or "name one of an installed plugin",
        )
    seed = written.get("seed", recipe.data.get("seed", 0))
    points = plugins.sampler(name)(space, written["trials"], seed)
    rounded = [
        {axis: _sampled_value(name, axis, axis_space, p) for axis, axis_space in space.items()}
        for p in points
    ]
    return list({tuple(point.items()): point for point in rounded}.values())


def _sampled_value(
    sampler: str, axis: str, axis_space: SearchRange | int, point: SearchPoint
) -> float:
    """The rounded value that a sampler drew for an axis. `PluginError` if it is out of range."""
    value = point.get(axis)
    low, high = (
        (axis_space.low, axis_space.high)
        if isinstance(axis_space, SearchRange)
        else (0, axis_space - 1)
    )
    if value is None or not low <= value <= high:
        raise PluginError(
            f"the sampler '{sampler}' drew {value} for {axis}, which goes from {low} to {high}",
            fix="report this to the authors of the sampler",
        )
    if isinstance(axis_space, int) or axis_space.whole:
        return int(value)
    if axis_space.step is not None:
        return float(f"{value:.12g}")
    return min(axis_space.high, max(axis_space.low, float(f"{value:.{SIGNIFICANT_DIGITS}g}")))
