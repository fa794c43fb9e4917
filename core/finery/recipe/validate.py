"""The check of a recipe against the schemas of its step types."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from finery.artifact.kinds import Artifact
from finery.errors import FineryError, PluginError, UsageError
from finery.recipe.document import Recipe
from finery.recipe.environments import check_environments
from finery.recipe.hints import USE_SYNONYMS, key_fix, text_as_step, type_fix, types_for
from finery.recipe.messages import literal, schema_errors
from finery.recipe.schema import _STEP_KEYS, _TOP_LEVEL, NAME_PATTERN, StepTypes, step_schema
from finery.step.inspect import (
    RESERVED,
    SECTIONS,
    add_nested,
    inputs_of,
    nested_fields,
    nested_in,
    sections_of,
)
from finery.step.step import Step
from finery.util.text import did_you_mean, nearest

_NAME_FIX = "letters, digits, - and _, starting with a letter or digit, at most 100 characters"


def check_recipe(recipe: Recipe, plugins: StepTypes) -> list[FineryError]:
    """An error with its position for each violation of the schema; empty if there is none."""
    return [
        *_check_keys(recipe, plugins),
        *check_top(recipe),
        *_check_silence(recipe, plugins),
        *check_environments(recipe, plugins.step_types),
        *_check_steps(recipe, plugins),
    ]


def _check_keys(recipe: Recipe, plugins: StepTypes) -> Iterator[FineryError]:
    keys = [*_TOP_LEVEL, *SECTIONS]
    for key, value in recipe.data.items():
        if key not in keys and not key.startswith("x-"):
            kind = "section" if isinstance(value, dict | list) else "key"
            fix = key_fix(key, value, recipe.data, keys, plugins)
            yield recipe.error(f"unknown {kind} '{key}'", [key], key=True, fix=fix)


def check_top(recipe: Recipe) -> Iterator[FineryError]:
    """An error for each top-level key with a value that it can't have, sections aside."""
    if "finery" not in recipe.data:
        if "version" not in recipe.data:
            yield recipe.error(
                "the version of the recipe language is missing", fix="add `finery: 1` at the top"
            )
    elif recipe.data["finery"] != 1 or isinstance(recipe.data["finery"], bool):
        yield recipe.error(
            f"this finery doesn't read version {literal(recipe.data['finery'])} of the recipe "
            "language",
            ["finery"],
            fix="write `finery: 1`",
        )
    name = recipe.data.get("name")
    if isinstance(name, str) and not is_name(name):
        yield recipe.error(f"a recipe can't be named '{name}'", ["name"], fix=_name_fix(name))
    for key, schema in _TOP_LEVEL.items():
        if key in recipe.data and key != "finery" and not (key == "name" and isinstance(name, str)):
            yield from schema_errors(recipe, schema, recipe.data[key], (key,), key)


def _check_silence(recipe: Recipe, plugins: StepTypes) -> Iterator[FineryError]:
    """An error for each silenced note that no plugin has, or with a step that doesn't exist."""
    silenced = recipe.data.get("silence")
    if not isinstance(silenced, list):
        return
    note_names = plugins.note_names
    steps = [n for s in SECTIONS if isinstance(recipe.data.get(s), dict) for n in recipe.data[s]]
    steps += [str(name).partition("@")[0] for name in recipe.variant_names]
    for index, text in enumerate(silenced):
        if not isinstance(text, str):
            continue
        step, slash, name = text.rpartition("/")
        place = ("silence", index)
        if name not in note_names:
            yield recipe.error(
                f"there is no note '{name}'", place, fix=did_you_mean(name, note_names)
            )
        if slash and step not in steps:
            yield recipe.error(f"there is no step '{step}'", place, fix=did_you_mean(step, steps))


def _name_fix(name: str) -> str:
    """The nearest allowed name, and what is allowed."""
    near = "-".join(re.findall(r"[A-Za-z0-9_-]+", name)).lstrip("-_")[:100]
    return f"write {near} ({_NAME_FIX})" if near else f"use {_NAME_FIX}"


def is_name(text: str) -> bool:
    """Whether a step or a recipe can have this name."""
    return re.fullmatch(NAME_PATTERN.strip("^$"), text) is not None


def _check_steps(recipe: Recipe, plugins: StepTypes) -> Iterator[FineryError]:
    for section in SECTIONS:
        steps = recipe.data.get(section)
        if steps is None:
            continue
        if not isinstance(steps, dict):
            yield _not_mapping_error(recipe, section, steps)
            continue
        if isinstance(use := steps.get("use"), str):
            yield recipe.error(
                f"the step in section '{section}' has no name",
                (section, "use"),
                key=True,
                fix=f"write the step under a name: {section}: {{NAME: {{use: {use}, …}}}}",
            )
            continue
        for name, step in steps.items():
            yield from _check_step(recipe, plugins, section, name, step)


def _not_mapping_error(recipe: Recipe, section: str, steps: Any) -> FineryError:
    """The error for a section that isn't a mapping of names to steps."""
    first_item = steps[0] if isinstance(steps, list) and steps else {}
    item = first_item if isinstance(first_item, dict) else {}
    name, use = item.get("name", "NAME"), item.get("use", "STEP TYPE")
    for key, value in item.items():
        if isinstance(value, dict) and "use" in value:  # - sft: {use: trl.sft, …}
            name, use = key, value["use"]
    return recipe.error(
        f"section '{section}' must map names to steps",
        [section],
        fix=f"write {section}: {{{name}: {{use: {use}, …}}}}",
    )


def _check_step(
    recipe: Recipe, plugins: StepTypes, section: str, name: str, step: Any
) -> Iterator[FineryError]:
    place = (section, name)
    if not is_name(name) and name not in recipe.variant_names:
        fix = _name_fix(name)
        yield recipe.error(f"a step can't be named '{name}'", place, key=True, fix=fix)
        return
    if not isinstance(step, dict):
        yield _not_step_error(recipe, plugins, place, step)
        return
    use = step.get("use")
    if not isinstance(use, str):
        yield _missing_use_error(recipe, plugins, place, step)
        return
    if use not in plugins.step_types:
        fix = type_fix(use, section, plugins)
        yield recipe.error(f"unknown step type '{use}'", (*place, "use"), fix=fix)
        return
    try:
        cls = plugins.step_type(use)
        schema, sections = step_schema(cls), sections_of(cls)
    except PluginError as error:
        yield recipe.error(error.what, (*place, "use"), fix=error.fix)
        return
    if section not in sections:
        yield recipe.error(
            f"step type '{use}' doesn't belong in section '{section}'",
            (*place, "use"),
            fix=f"move step '{name}' to section {' or '.join(sections)}",
        )
        return
    yield from schema_errors(recipe, schema, step, place, use, cls)
    yield from _check_nested(recipe, plugins, place, step, cls)


def _check_nested(
    recipe: Recipe, plugins: StepTypes, outer: tuple[str, ...], written: Any, cls: type[Step]
) -> Iterator[FineryError]:
    """The errors in the steps inside a step. outer: its place."""
    for path, step, info in nested_in(cls, written):
        use = step.get("use") if isinstance(step, dict) else None
        if not isinstance(use, str):
            continue  # reported by the outer step's schema
        place, fitting = (*outer, *path.split(".")), types_for(info.section, plugins)
        if use not in fitting:
            problem = f"'{use}' is not a step type for section {info.section}"
            yield recipe.error(problem, (*place, "use"), fix=did_you_mean(use, fitting))
            continue
        schema = step_schema(plugins.step_type(use))
        for key in (*_STEP_KEYS, *info.given):
            schema["properties"].pop(key, None)
        schema["required"] = [key for key in schema["required"] if key not in info.given]
        yield from schema_errors(recipe, schema, step, place, use, fitting[use])
        yield from _check_nested(recipe, plugins, place, step, fitting[use])


def _not_step_error(
    recipe: Recipe, plugins: StepTypes, place: tuple[str, str], written: Any
) -> FineryError:
    """The error for a step that isn't a mapping of settings."""
    section, name = place
    suggestion = text_as_step(written, [section], plugins) if isinstance(written, str) else None
    return recipe.error(
        f"step '{name}' must be a mapping of settings",
        place,
        fix=f"write {name}: {suggestion or '{use: STEP TYPE, …}'}",
    )


def _missing_use_error(
    recipe: Recipe, plugins: StepTypes, place: tuple[str, str], step: dict[str, Any]
) -> FineryError:
    fix = f"add `use:` with one of {', '.join(types_for(place[0], plugins))}"
    if "use" in step:
        return recipe.error("'use' must name one step type", (*place, "use"), fix=fix)
    synonym = next((key for key in USE_SYNONYMS if key in step), None) or nearest("use", step)
    problem = f"step '{place[1]}' is missing `use:`"
    if synonym:
        return recipe.error(
            problem, (*place, synonym), key=True, fix=f"write 'use', not '{synonym}'"
        )
    return recipe.error(problem, place, key=True, fix=fix)


def convert_step(
    recipe: Recipe, place: tuple[str, ...], written: Any, cls: type[Step], plugins: StepTypes
) -> Step:
    """The step as an instance of its type, with defaults, and placeholders for artifacts."""
    nested = nested_fields(cls)
    settings = {k: v for k, v in written.items() if k not in RESERVED and k not in nested}
    for field, accepts in inputs_of(cls).items():
        if accepts.many and isinstance(settings.get(field), str):
            settings[field] = [settings[field]]
    try:
        step = msgspec.convert(settings, cls, dec_hook=decode_field)
    except msgspec.ValidationError as error:
        raise _post_init_error(recipe, place, written, error) from error
    except Exception as error:  # a plugin's code can raise anything
        name = type(error).__name__
        raise recipe.error(
            f"`__post_init__` of {written['use']} failed: {name}: {error}", place
        ) from error
    for path, inner, info in nested_in(cls, written):
        kind, where = plugins.step_type(inner["use"]), (*place, *path.split("."))
        inner_step = convert_step(recipe, where, {**inner, **info.given}, kind, plugins)
        add_nested(step, path, inner_step)
    return step


def _post_init_error(
    recipe: Recipe, place: tuple[str, ...], written: dict[str, Any], error: msgspec.ValidationError
) -> FineryError:
    """The error for settings that a step's or a group's `__post_init__` refuses.

    In its text, the fix comes after the first colon, and the first setting in backquotes is where
    the mistake is.
    """
    text, _, inner_path = str(error).partition(" - at `$.")
    where = (*place, *inner_path.rstrip("`").split(".")) if inner_path else place
    setting = next((name for name in re.findall(r"`(\w+)`", text) if name in written), None)
    problem, colon, fix = text.partition(": ")
    return recipe.error(
        f"step '{place[1]}': {problem}",
        where if inner_path or setting is None else (*place, setting),
        key=not inner_path,
        fix=fix if colon else f"run `finery plugins {written['use']}` for a list of its settings",
    )


def decode_field(kind: Any, value: Any) -> Any:
    """What msgspec can't convert itself: a placeholder for an input, `Files` for their patterns."""
    if issubclass(kind, Artifact):
        return kind.placeholder(value)
    return kind([value] if isinstance(value, str) else value)


class RecipeErrors(UsageError):
    """Several mistakes in one recipe, printed one after another."""

    def __init__(self, errors: list[FineryError]) -> None:
        super().__init__(f"{len(errors)} mistakes")
        self.errors = errors

    def to_dict(self) -> dict[str, Any]:
        """The first error, with the others as its details."""
        first, *others = self.errors
        return first.to_dict() | {"details": [*first.details, *map(str, others)]}

    def __str__(self) -> str:
        return "\n\n".join(str(e) for e in self.errors)


def _sort_position(error: FineryError) -> tuple[str, int, int]:
    file, line, column = ["", "", *(error.where or "").rsplit(":", 2)][-3:]
    has_position = line.isdecimal() and column.isdecimal()
    return (file, int(line), int(column)) if has_position else (error.where or "", 0, 0)


def raise_all(errors: Iterable[FineryError]) -> None:
    """Raise the errors, several of them as one, in the order of the file; return if none."""
    # Several steps may share an anchor: report its mistakes once.
    unique = sorted({(e.where, e.what): e for e in errors}.values(), key=_sort_position)
    if len(unique) == 1:
        raise unique[0]
    if unique:
        raise RecipeErrors(unique)
