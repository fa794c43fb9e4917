"""From a recipe with a `matrix:` to one with a step for each variant of a step.

What an axis doesn't reach keeps its name and is there once. Of what it reaches there is a step for
each different version, `sft@learning_rate=1e-4,r=8`, written as the recipe with these settings by
`--set`. References stay as they are written, since some keys hold them; `Expanded.aliases` says
which variant each of them means.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from finery.errors import PluginError, UsageError
from finery.recipe.document import Recipe, RecipePath
from finery.recipe.matrix.axes import Axis, Setting, Variant, read_matrix, repeats_axis
from finery.recipe.matrix.labels import MAX_STEP_NAME
from finery.recipe.schema import StepTypes, derived_seed
from finery.recipe.validate import check_recipe, check_top, raise_all
from finery.step.inspect import SECTIONS, inputs_of, nested_in
from finery.step.step import Step

Sections = dict[str, dict[str, Any]]
"""Section → name → a step as written."""


@dataclass
class Expanded:
    """A recipe with the variants of its steps, and what they are variants of.

    sections: name in the file → its section. origins: step → its name in the file. labels: step →
    its variant, e.g. `r=8`. aliases: step → name in the file → the step that a reference to it
    means. steps: variant → name in the file → step, of what the axes reach. places: place of an
    added step → where the file has it, for errors.
    """

    recipe: Recipe
    sections: Mapping[str, str]
    axes: Sequence[Axis]
    variants: Sequence[Variant]
    reached: Mapping[str, set[str]]  # name in the file → labels of the axes that reach it
    steps: dict[str, dict[str, str]]
    written: Mapping[str, Sections]  # variant → the recipe's steps with its settings
    signatures: Mapping[str, Mapping[str, str]]  # variant → name in the file → what it is
    places: dict[RecipePath, RecipePath] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)


def expand(recipe: Recipe, plugins: StepTypes) -> Expanded:
    """The variants of a recipe's steps. Raises `RecipeError` for a matrix that can't be built."""
    _refuse_broken(recipe, plugins)
    block = recipe.data["matrix"]
    repeats = repeats_axis(recipe, _trainings(recipe, plugins), block.get("seeds"))
    axes, variants = read_matrix(recipe, repeats, plugins)
    refuse_conflicts(recipe, axes)
    # Each variant's steps, as `--set` would give them its settings.
    written = {}
    for variant in variants:
        steps = {s: copy.deepcopy(recipe.data[s]) for s in SECTIONS if recipe.data.get(s)}
        for setting in variant.settings:
            _apply_setting(recipe, steps, setting)
        written[variant.name] = steps
    upstream = {name: _references_in(steps, plugins) for name, steps in written.items()}
    reached = _axes_by_step(variants, upstream)
    signatures = {name: _signatures(written[name], upstream[name]) for name in written}
    sections = {name: section for section in SECTIONS for name in recipe.data.get(section) or {}}
    expanded = Expanded(recipe, sections, axes, variants, reached, {}, written, signatures)
    _name_steps(expanded)
    return expanded


def add_step(
    expanded: Expanded, variant: Variant, name: str, step: str, aliases: dict[str, str]
) -> None:
    """Add the step `name` of the file with a variant's settings, as `step`, unless it is there."""
    if step in expanded.origins:
        return
    section = expanded.sections[name]
    expanded.recipe.data[section][step] = expanded.written[variant.name][section][name]
    expanded.places[section, step] = (section, name)
    for setting in variant.settings:
        if setting.path[:2] == (section, name):
            expanded.places[section, step, *setting.path[2:]] = setting.place
    expanded.origins[step] = name
    expanded.labels[step] = step.partition("@")[2]
    expanded.aliases[step] = aliases


def _refuse_broken(recipe: Recipe, plugins: StepTypes) -> None:
    """Raise the errors of a recipe that can't be expanded."""
    raise_all(check_top(recipe))
    for section in SECTIONS:
        steps = recipe.data.get(section)
        if steps is None:
            continue
        fine = isinstance(steps, dict) and all(
            isinstance(name, str) and isinstance(step, dict) for name, step in steps.items()
        )
        if not fine:
            raise_all(check_recipe(recipe, plugins))


def type_of(written: Any, plugins: StepTypes) -> type[Step] | None:
    """The type of a step as written; None if it has none that works, which is reported later."""
    use = written.get("use") if isinstance(written, dict) else None
    if not isinstance(use, str) or use not in plugins.step_types:
        return None
    try:
        return plugins.step_type(use)
    except PluginError:
        return None


def _trainings(recipe: Recipe, plugins: StepTypes) -> dict[tuple[str, str], int]:
    """(section, name) → seed of each step that learns and uses a seed."""
    recipe_seed = recipe.data.get("seed", 0)
    seeds = {}
    for section in SECTIONS:
        for name, written in (recipe.data.get(section) or {}).items():
            cls = type_of(written, plugins)
            if cls is not None and cls.__spec__.learns and cls.__spec__.seeded:
                seed = written.get("seed", derived_seed(recipe_seed, written["use"]))
                seeds[section, name] = seed if isinstance(seed, int) else 0
    return seeds


# -- settings ------------------------------------------------------------------------------------


def _apply_setting(recipe: Recipe, sections: Sections, setting: Setting) -> None:
    parent: dict[str, Any] = sections
    for depth, key in enumerate(setting.path[:-1]):
        child = parent.setdefault(key, {}) if depth >= 2 else parent[key]
        if not isinstance(child, dict):
            parent_path = ".".join(setting.path[: depth + 1])
            raise recipe.error(
                f"'{parent_path}' is {child!r} in the recipe, which has no settings",
                setting.place,
                fix=f"make {parent_path} the axis, with complete values: "
                f"{parent_path}: [{{…}}, {{…}}]",
            )
        parent = child
    parent[setting.path[-1]] = copy.deepcopy(setting.value)


# -- what an axis reaches ------------------------------------------------------------------------


def _references_in(sections: Sections, plugins: StepTypes) -> dict[str, list[str]]:
    """Step → the steps that it waits for, among those in the recipe."""
    names = {name for steps in sections.values() for name in steps}
    return {
        name: [n for n in dict.fromkeys(referenced_steps(written, plugins)) if n in names]
        for steps in sections.values()
        for name, written in steps.items()
    }


def referenced_steps(written: Any, plugins: StepTypes, given: Sequence[str] = ()) -> Iterator[str]:
    """The steps that a step as written names. given: inputs that an outer step provides."""
    cls = type_of(written, plugins)
    if cls is None:
        return
    for name in [*inputs_of(cls), "needs"]:
        value = written.get(name) if name not in given else None
        for ref in value if isinstance(value, list) else [value]:
            if isinstance(ref, str):
                yield ref.partition(".")[0]
    for _, inner, info in nested_in(cls, written):
        yield from referenced_steps(inner, plugins, list(info.given))


def _axes_by_step(
    variants: Sequence[Variant], upstream: Mapping[str, Mapping[str, Sequence[str]]]
) -> dict[str, set[str]]:
    """Step → the axes that change it or a step before it, in any variant. Only those with any."""
    reached: dict[str, set[str]] = {}
    for variant in variants:
        for label, value in variant.values.items():
            for setting in value.settings:
                reached.setdefault(setting.path[1], set()).add(label)
    grew = True
    while grew:
        grew = False
        for references_of in upstream.values():
            for name, names in references_of.items():
                axes = set().union(*(reached.get(n, set()) for n in names))
                if not axes <= reached.get(name, set()):
                    reached.setdefault(name, set()).update(axes)
                    grew = True
    return reached


def _signatures(sections: Sections, upstream: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Step → a digest of it as written, and of all that it waits for."""
    written = {name: step for steps in sections.values() for name, step in steps.items()}
    digests: dict[str, str] = {}

    def signature(name: str, trail: tuple[str, ...]) -> str:
        if name in trail:
            return "circle"  # an error that the graph reports
        if name not in digests:
            texts = [repr(written[name]), *(signature(n, (*trail, name)) for n in upstream[name])]
            digests[name] = blake3("\n".join(texts).encode()).hexdigest()
        return digests[name]

    return {name: signature(name, ()) for name in written}


def _name_steps(expanded: Expanded) -> None:
    """Name the versions of each step that the axes reach. Equal versions have the same name."""
    names: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for variant in expanded.variants:
        mine = expanded.steps.setdefault(variant.name, {})
        for step, axes in expanded.reached.items():
            signature = expanded.signatures[variant.name][step]
            if (step, signature) not in names:
                # A named variant always says so, an axis only what it reaches.
                label = variant.label({*axes, ""}) or variant.name
                name = f"{step}@{label}"
                if name in taken:  # two named variants may reach a step with the same axes
                    name = f"{step}@{variant.name}"
                if len(name) > MAX_STEP_NAME:
                    raise expanded.recipe.error(
                        f"the name of a variant is too long: {name[:60]}…",
                        ("matrix",),
                        key=True,
                        fix="name the values: train.sft.rows: {few: …, all: …}",
                    )
                names[step, signature] = name
                taken.add(name)
            mine[step] = names[step, signature]


_ABSENT = object()


def refuse_conflicts(recipe: Recipe, axes: Sequence[Axis]) -> None:
    """Raise the error of a setting that would have no effect, since an axis sets it, too.

    A variant is named by the values of its axes. If two axes set the same setting, the later one
    wins, and names and tables have values that no step was built with.

    Raises `UsageError` for a `--set`, and `RecipeError` at the later one of two axes.
    """
    for axis in axes:
        for place, option in recipe.overrides.items():
            _refuse_override(recipe, axis, place, option)
    for index, later in enumerate(axes):
        for earlier in axes[:index]:
            _refuse_pair(recipe, earlier, later)


def _refuse_override(recipe: Recipe, axis: Axis, place: RecipePath, option: str) -> None:
    """Raise `UsageError` for a `--set` of what every value of an axis sets."""
    value = _value_at(recipe.data, place)
    lost_paths = [
        next(
            filter(
                None, (_lost_setting(place, value, setting.path) for setting in axis_value.settings)
            ),
            None,
        )
        for axis_value in axis.values
    ]
    if lost_paths[0] is None or None in lost_paths:
        return
    set_path = ".".join(map(str, place))
    if set_path == axis.key:
        fix = f"give the axis one value: --matrix {option.removeprefix('--set ')}"
    elif lost_paths[0] == place:
        fix = f"change the values of '{axis.key}' instead"
    else:
        fix = f"leave it out of {set_path}"
    raise UsageError(
        f"{'.'.join(map(str, lost_paths[0]))} is set by the axis '{axis.key}' of the matrix, so "
        "setting it has no effect",
        where=option,
        fix=f"{fix}, or use --matrix off",
    )


def _refuse_pair(recipe: Recipe, earlier: Axis, later: Axis) -> None:
    """Raise `RecipeError` where a value of one axis takes away what a value of the other sets."""
    later_settings: dict[RecipePath, Setting] = {}
    for later_setting in _settings(later):
        later_settings.setdefault(later_setting.path, later_setting)
    for earlier_setting in _settings(earlier):
        for path, later_setting in later_settings.items():
            lost_path = _lost_setting(earlier_setting.path, earlier_setting.value, path)
            if lost_path is None:
                continue
            fix = "let only one of them set it"
            if any(("matrix", axis.key) in recipe.overrides for axis in (earlier, later)):
                fix += ", or give --matrix off first, which removes the axes of the recipe"
            raise recipe.error(
                f"two axes set {'.'.join(map(str, lost_path))}: '{earlier.key}' and '{later.key}'",
                later_setting.place[:2] if "." in later.key else later_setting.place,
                key=True,
                fix=fix,
            )


def _settings(axis: Axis) -> Iterator[Setting]:
    for value in axis.values:
        yield from value.settings


def _lost_setting(path: RecipePath, value: Any, later: RecipePath) -> RecipePath | None:
    """What is lost from a setting with this value if `later` is set after it."""
    if path[: len(later)] == later:
        return path
    if later[: len(path)] != path:
        return None
    return None if _value_at(value, later[len(path) :]) is _ABSENT else later


def _value_at(value: Any, keys: RecipePath) -> Any:
    """The part of a value that keys lead to, or `_ABSENT`."""
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return _ABSENT
        value = value[key]
    return value
