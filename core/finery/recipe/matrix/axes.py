"""The variants that a `matrix:` block lists: its axes, without exclusions, and named ones."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from typing import Any

from finery.recipe.document import Recipe, RecipePath
from finery.recipe.matrix.labels import axis_labels, value_label
from finery.recipe.matrix.sample import SAMPLE_PLACE as SAMPLE
from finery.recipe.matrix.sample import SearchRange, draw_points, is_range, read_range
from finery.recipe.schema import StepTypes
from finery.step.inspect import SECTIONS
from finery.util.text import counted, did_you_mean, shortened

RESERVED_KEYS = ("exclude", "variants", "seeds", "select", "sample")
"""Keys of the block that aren't axes."""
MAX_VARIANTS = 1_000
"""Variants of a recipe, at most."""
MAX_SHOWN_VALUE = 40
"""Maximum characters of a value in an error."""
SEED_LABEL = "seed"
"""The label of the axis that repeats trainings."""


@dataclass(frozen=True)
class Setting:
    """A setting that a variant gives: its path, the value, and where the recipe says so."""

    path: tuple[str, ...]
    value: Any
    place: RecipePath


@dataclass(frozen=True)
class Value:
    """One value of an axis."""

    label: str
    settings: tuple[Setting, ...]
    place: RecipePath
    written: Any = None  # as in the recipe, for `exclude`


@dataclass(frozen=True)
class Axis:
    """Settings that take one of several values together. key: its name in the recipe.

    range: the range that its values are drawn from, if any. drawn_by: the sampler that drew them.
    """

    key: str
    label: str
    values: tuple[Value, ...]
    range: SearchRange | None = None
    drawn_by: str = ""


@dataclass(frozen=True)
class Variant:
    """One variant. values: axis label → value; a named variant has one value under ''."""

    values: Mapping[str, Value] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`learning_rate=1e-4,r=8`, or its own name."""
        return self.label(self.values)

    @property
    def combination(self) -> str:
        """Its name without the repeat, which all repeats of a variant share."""
        return self.label([axis for axis in self.values if axis != SEED_LABEL])

    def label(self, axes: Collection[str]) -> str:
        """Its name by some of its axes."""
        return ",".join(
            f"{axis}={value.label}" if axis else value.label
            for axis, value in self.values.items()
            if axis in axes
        )

    @property
    def settings(self) -> Iterator[Setting]:
        """All settings that it gives."""
        for value in self.values.values():
            yield from value.settings


def read_matrix(
    recipe: Recipe, repeats: Axis | None, plugins: StepTypes
) -> tuple[list[Axis], list[Variant]]:
    """(axes, variants) of a recipe's `matrix:`, in order. repeats: the axis of `seeds:`.

    Raises `RecipeError` for a block that can't be read.
    """
    axes = _read_axes(recipe)
    named_variants = _named_variants(recipe)
    drawn_axes = (
        _draw_variants(recipe, axes, plugins) if "sample" in recipe.data["matrix"] else None
    )
    axes, sampled = drawn_axes or (axes, [])
    count = len(sampled) if drawn_axes else prod(len(axis.values) for axis in axes)
    count += len(named_variants)
    count *= len(repeats.values) if repeats else 1
    if count > MAX_VARIANTS:
        raise recipe.error(
            f"the matrix has {count:,} variants; at most {MAX_VARIANTS:,} are built",
            ("matrix",),
            key=True,
            fix="list fewer values, exclude some, or name the variants you want under `variants:`",
        )
    # Without axes and names, `seeds:` repeats the recipe as it is.
    variants = sampled
    if not drawn_axes and (axes or (repeats and not named_variants)):
        labels = [axis.label for axis in axes]
        combinations = product(*(axis.values for axis in axes))
        variants = [Variant(dict(zip(labels, values, strict=True))) for values in combinations]
    variants = [*_remove_excluded(recipe, axes, variants), *named_variants]
    if not variants:
        raise recipe.error(
            "the matrix has no variants",
            ("matrix",),
            key=True,
            fix="add an axis: train.sft.learning_rate: [1e-4, 2e-4]",
        )
    _refuse_duplicates(recipe, variants)
    if repeats is None:
        return axes, variants
    repeated = [
        Variant({**v.values, SEED_LABEL: seed}) for v in variants for seed in repeats.values
    ]
    return [*axes, repeats], repeated


def _draw_variants(
    recipe: Recipe, axes: list[Axis], plugins: StepTypes
) -> tuple[list[Axis], list[Variant]]:
    """(axes with the values that were drawn, variants) of a block with `sample`."""
    if not axes or "exclude" in recipe.data["matrix"]:
        problem = "can't be combined with `exclude`" if axes else "has no axis to draw values of"
        fix = "remove `exclude`" if axes else "train.sft.learning_rate: {from: 1e-5, to: 1e-3}"
        raise recipe.error(f"`sample` {problem}", SAMPLE, key=True, fix=fix)
    space = {axis.label: axis.range or len(axis.values) for axis in axes}
    points = draw_points(recipe, space, plugins)
    drawn_values = [
        {a.label: _drawn_value(recipe, a, point[a.label]) for a in axes} for point in points
    ]
    name = recipe.data["matrix"]["sample"]["use"]
    drawn_axes = [
        replace(axis, drawn_by=name,
                values=tuple({v[axis.label].label: v[axis.label] for v in drawn_values}.values()))
        for axis in axes
    ]  # fmt: skip
    return drawn_axes, [Variant(values) for values in drawn_values]


def _drawn_value(recipe: Recipe, axis: Axis, drawn: float) -> Value:
    """The value of an axis that a sampler drew: a number of its range, or a listed one."""
    if axis.range is None:
        return axis.values[int(drawn)]
    place: RecipePath = ("matrix", axis.key)
    label = value_label(drawn)
    assert label is not None
    return Value(
        label, (Setting(_setting_path(recipe, axis.key, place), drawn, place),), place, drawn
    )


def _read_axes(recipe: Recipe) -> list[Axis]:
    block = recipe.data["matrix"]
    keys = [key for key in block if key not in RESERVED_KEYS]
    paths = [key for key in keys if "." in key]
    named = [key for key in keys if "." not in key]
    labels = dict(zip(paths, axis_labels(paths, [SEED_LABEL, *named]), strict=True))
    labels |= {key: key for key in named}
    axes = []
    for key in keys:
        written = block[key]
        if "." in key and is_range(written):
            axes.append(Axis(key, labels[key], (), read_range(recipe, key, written)))
        else:
            axes.append(Axis(key, labels[key], tuple(_read_values(recipe, key, written))))
    if SEED_LABEL in named:
        raise recipe.error(
            f"an axis can't be named '{SEED_LABEL}', like the repeats of `seeds:`",
            ("matrix", SEED_LABEL),
            key=True,
            fix="give it another name",
        )
    return axes


def _read_values(recipe: Recipe, key: str, written: Any) -> Iterator[Value]:
    """The values of an axis: a list, or a mapping from their names."""
    place = ("matrix", key)
    if not isinstance(written, list | dict) or not written:
        raise recipe.error(
            f"the axis '{key}' has no values",
            place,
            fix=f"list them: {key}: [1, 2]" if "." in key else _named_axis(key),
        )
    if isinstance(written, list):
        if "." not in key:
            raise recipe.error(
                f"the axis '{key}' names no setting", place, key=True, fix=_named_axis(key)
            )
        yield from _listed_values(recipe, key, written)
        return
    for name, value in written.items():
        at = (*place, name)
        _check_name(recipe, name, at)
        if "." in key:
            path = _setting_path(recipe, key, place)
            yield Value(name, (Setting(path, value, at),), at, value)
        else:
            yield Value(name, _settings(recipe, value, at), at, value)


def _listed_values(recipe: Recipe, key: str, values: Sequence[Any]) -> Iterator[Value]:
    path = _setting_path(recipe, key, ("matrix", key))
    value_by_label: dict[str, Any] = {}
    for index, value in enumerate(values):
        place: RecipePath = ("matrix", key, index)
        label = value_label(value)
        if label is None:
            raise recipe.error(
                f"this value of the axis '{key}' needs a name",
                place,
                fix=f"name them: {key}: {{NAME: VALUE, …}}",
            )
        if label in value_by_label:
            is_same = value_by_label[label] == value and type(value_by_label[label]) is type(value)
            problem = f"the axis '{key}' lists {label} twice"
            if not is_same:
                problem = f"two values of the axis '{key}' would both be named {label}"
            fix = "remove one" if is_same else f"name them: {key}: {{NAME: VALUE, …}}"
            raise recipe.error(problem, place, fix=fix)
        value_by_label[label] = value
        yield Value(label, (Setting(path, value, place),), place, value)


def _named_variants(recipe: Recipe) -> list[Variant]:
    """The variants under `variants:`, each from the recipe as it is without axes."""
    named_settings = recipe.data["matrix"].get("variants") or {}
    variants = []
    for name, settings in named_settings.items():
        place = ("matrix", "variants", name)
        _check_name(recipe, name, place)
        variant_settings = _settings(recipe, settings, place) if settings else ()
        variants.append(Variant({"": Value(name, variant_settings, place, settings)}))
    return variants


def _settings(recipe: Recipe, written: Any, place: RecipePath) -> tuple[Setting, ...]:
    if not isinstance(written, dict):
        raise recipe.error(
            f"'{place[-1]}' must map paths of settings to values",
            place,
            fix=f"write {place[-1]}: {{train.sft.epochs: 2, …}}",
        )
    return tuple(
        Setting(_setting_path(recipe, path, (*place, path)), value, (*place, path))
        for path, value in written.items()
    )


def _setting_path(recipe: Recipe, path: str, place: RecipePath) -> tuple[str, ...]:
    """The keys of a dotted path. Raises `RecipeError` if there is no step of that name."""
    section, *keys_in_section = keys = tuple(path.split("."))
    fix = None
    if section not in SECTIONS:
        holder = next((s for s in SECTIONS if section in (recipe.data.get(s) or {})), None)
        fix = f"write {holder}.{path}" if holder else did_you_mean(section, SECTIONS)
        problem = f"'{section}' is not a section"
    elif not keys_in_section:
        problem = f"'{path}' names no step"
    elif keys_in_section[0] not in (steps := recipe.data.get(section) or {}):
        fix = did_you_mean(keys_in_section[0], steps)
        problem = f"there is no step '{keys_in_section[0]}' in section '{section}'"
    else:
        return keys
    fix = fix or "name a section, a step and a setting: train.sft.learning_rate"
    raise recipe.error(problem, place, key=True, fix=fix)


def _remove_excluded(
    recipe: Recipe, axes: Sequence[Axis], variants: Sequence[Variant]
) -> list[Variant]:
    excluded: set[int] = set()
    for index, written in enumerate(recipe.data["matrix"].get("exclude") or []):
        excluded_values = dict(_exclusions(recipe, axes, written, index))
        fitting = {
            number
            for number, variant in enumerate(variants)
            if all(variant.values[label] == value for label, value in excluded_values.items())
        }
        if not fitting or not excluded_values:
            raise recipe.error(
                "this exclusion matches no variant",
                ("matrix", "exclude", index),
                fix="name axes with one of their values each, or remove it",
            )
        excluded |= fitting
    return [variant for number, variant in enumerate(variants) if number not in excluded]


def _exclusions(
    recipe: Recipe, axes: Sequence[Axis], written: Mapping[str, Any], index: int
) -> Iterator[tuple[str, Value]]:
    axis_by_name = {name: axis for axis in axes for name in (axis.label, axis.key)}
    for key, value in written.items():
        place = ("matrix", "exclude", index, key)
        axis = axis_by_name.get(key)
        if axis is None:
            names = [a.key for a in axes]
            fix = did_you_mean(key, names) or f"one of: {', '.join(names)}"
            raise recipe.error(f"there is no axis '{key}'", place, key=True, fix=fix)
        chosen = next(
            (
                v for v in axis.values
                if v.label == value
                or (v.written == value and isinstance(value, bool) == isinstance(v.written, bool))
            ), None,
        )  # fmt: skip
        if chosen is None:
            labels = ", ".join(v.label for v in axis.values)
            raise recipe.error(
                f"the axis '{key}' has no value {shortened(str(value), MAX_SHOWN_VALUE)}, so this "
                "exclusion matches no variant",
                place,
                fix=f"one of: {labels}",
            )
        yield axis.label, chosen


def _refuse_duplicates(recipe: Recipe, variants: Sequence[Variant]) -> None:
    """Raise `RecipeError` where two variants have one name."""
    names: set[str] = set()
    for variant in variants:
        if variant.name in names:
            raise recipe.error(
                f"two variants are named '{variant.name}'", ("matrix",), key=True, fix="rename one"
            )
        names.add(variant.name)


def _check_name(recipe: Recipe, name: Any, place: RecipePath) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", name):
        raise recipe.error(
            f"a value or variant can't be named '{name}'",
            place,
            key=True,
            fix="use letters, digits, - and _, at most 40 characters",
        )


def _named_axis(key: str) -> str:
    return (
        f"an axis is a path, section.step.setting, or a name with settings for each value: "
        f"{key}: {{small: {{train.sft.lora.r: 8, train.sft.lora.alpha: 16}}, large: {{…}}}}"
    )


def repeats_axis(
    recipe: Recipe, trainings: Mapping[tuple[str, str], int], written: Any
) -> Axis | None:
    """The axis of `seeds:`. trainings: (section, name) → the training's seed in the recipe.

    A number repeats each training under its own seed and the next ones; a list gives the seeds.
    """
    if written is None:
        return None
    place: RecipePath = ("matrix", "seeds")
    if not trainings:
        raise recipe.error(
            "`seeds` repeats trainings, but the recipe has none",
            place,
            key=True,
            fix="remove it, or make `seed` of a step an axis: data.split.seed: [1, 2, 3]",
        )
    is_list = isinstance(written, list)
    numbers = list(written) if is_list else list(range(written))
    if len(set(numbers)) < len(numbers):
        raise recipe.error("`seeds` lists a seed twice", place, fix="list each seed once")
    values = []
    for number, seed in enumerate(numbers):
        settings = tuple(
            Setting((*step, "seed"), seed if is_list else (recipe_seed + number) % 2**31, place)
            for step, recipe_seed in trainings.items()
            if is_list or number  # the first repeat is the training as it is
        )
        values.append(Value(str(seed if is_list else number + 1), settings, place, seed))
    return Axis("seeds", SEED_LABEL, tuple(values))


def axes_summary(axes: Sequence[Axis]) -> str:
    """The axes in words: `3 learning_rate × 2 r`, or `learning_rate × r drawn by optuna.qmc`."""
    drawn = [axis for axis in axes if axis.drawn_by]
    counts = [
        counted(len(axis.values), SEED_LABEL)
        if axis.label == SEED_LABEL
        else f"{len(axis.values)} {axis.label}"
        for axis in axes
        if not axis.drawn_by
    ]
    if not drawn:
        return " × ".join(counts)
    names = " × ".join(axis.label for axis in drawn)
    return ", ".join([f"{names} drawn by {drawn[0].drawn_by}", *counts])
