"""Refuses axes and `--set` options of which one takes away what the other sets.

A variant is named by the values of its axes. If two axes set the same setting, the later one wins,
and names and tables have values that no step was built with.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finery.errors import UsageError
from finery.recipe.document import Path_, Recipe
from finery.recipe.matrix.axes import Axis, Setting

_ABSENT = object()


def refuse_overlaps(recipe: Recipe, axes: Sequence[Axis]) -> None:
    """Raise the error of a setting that would have no effect, since an axis sets it, too.

    Raises `UsageError` for a `--set`, and `RecipeError` at the later one of two axes.
    """
    for axis in axes:
        for place, option in recipe.overrides.items():
            _refuse_set(recipe, axis, place, option)
    for index, later in enumerate(axes):
        for earlier in axes[:index]:
            _refuse_pair(recipe, earlier, later)


def _refuse_set(recipe: Recipe, axis: Axis, place: Path_, option: str) -> None:
    """Raise `UsageError` for a `--set` of what every value of an axis sets."""
    value = _value_at(recipe.data, place)
    lost = [
        next(filter(None, (_lost(place, value, given.path) for given in each.settings)), None)
        for each in axis.values
    ]
    if lost[0] is None or None in lost:
        return
    own = ".".join(map(str, place))
    if own == axis.key:
        fix = f"give the axis one value: --matrix {option.removeprefix('--set ')}"
    elif lost[0] == place:
        fix = f"change the values of '{axis.key}' instead"
    else:
        fix = f"leave it out of {own}"
    raise UsageError(
        f"{'.'.join(map(str, lost[0]))} is set by the axis '{axis.key}' of the matrix, so setting "
        "it has no effect",
        where=option,
        fix=f"{fix}, or use --matrix off",
    )


def _refuse_pair(recipe: Recipe, earlier: Axis, later: Axis) -> None:
    """Raise `RecipeError` where a value of one axis takes away what a value of the other sets."""
    after: dict[Path_, Setting] = {}
    for given in _settings(later):
        after.setdefault(given.path, given)
    for before in _settings(earlier):
        for path, given in after.items():
            lost = _lost(before.path, before.value, path)
            if lost is None:
                continue
            fix = "let only one of them set it"
            if any(("matrix", axis.key) in recipe.overrides for axis in (earlier, later)):
                fix += ", or give --matrix off first, which removes the axes of the recipe"
            raise recipe.error(
                f"two axes set {'.'.join(map(str, lost))}: '{earlier.key}' and '{later.key}'",
                given.place[:2] if "." in later.key else given.place,
                key=True,
                fix=fix,
            )


def _settings(axis: Axis) -> Iterator[Setting]:
    for value in axis.values:
        yield from value.settings


def _lost(path: Path_, value: Any, later: Path_) -> Path_ | None:
    """What is lost from a setting with this value if `later` is set after it."""
    if path[: len(later)] == later:
        return path
    if later[: len(path)] != path:
        return None
    return None if _value_at(value, later[len(path) :]) is _ABSENT else later


def _value_at(value: Any, keys: Path_) -> Any:
    """The part of a value that keys lead to, or `_ABSENT`."""
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return _ABSENT
        value = value[key]
    return value
