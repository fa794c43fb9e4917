"""The check of a recipe against the schemas of its step types."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from finery.artifact.kinds import Artifact
from finery.errors import FineryError, PluginError, UsageError
from finery.fields import FieldInfo
from finery.recipe.document import Recipe
from finery.recipe.messages import complaints, literal
from finery.recipe.schema import _STEP_KEYS, _TOP, NAME, step_schema
from finery.recipe.steptypes import StepTypes
from finery.step.inspect import RESERVED, SECTIONS, inputs_of, nested_fields, sections_of
from finery.step.step import Step
from finery.util.text import did_you_mean, nearest

_NAME_FIX = "use letters, digits, - and _, starting with a letter or digit (at most 100)"


def check_recipe(recipe: Recipe, plugins: StepTypes) -> list[FineryError]:
    """Every way in which the recipe breaks its schema, with positions; empty when it is fine."""
    return [
        *_check_top(recipe),
        *_check_silence(recipe, plugins),
        *_check_steps(recipe, plugins),
    ]


def _check_top(recipe: Recipe) -> Iterator[FineryError]:
    known = [*_TOP, *SECTIONS]
    for key in recipe.data:
        if key not in known and not key.startswith("x-"):
            yield recipe.error(
                f"unknown section '{key}'", [key], key=True, fix=did_you_mean(key, known)
            )
    if "finery" not in recipe.data:
        yield recipe.error(
            "the recipe doesn't say which recipe language it is in",
            fix="put `finery: 1` at its top",
        )
    elif recipe.data["finery"] != 1 or isinstance(recipe.data["finery"], bool):
        yield recipe.error(
            f"recipe language {literal(recipe.data['finery'])} isn't one that this finery reads",
            ["finery"],
            fix="write `finery: 1`",
        )
    name = recipe.data.get("name")
    if isinstance(name, str) and not is_name(name):
        yield recipe.error(f"a recipe can't be named '{name}'", ["name"], fix=_NAME_FIX)
    for key, schema in _TOP.items():
        if key in recipe.data and key != "finery" and not (key == "name" and isinstance(name, str)):
            yield from complaints(recipe, schema, recipe.data[key], (key,), key)


def _check_silence(recipe: Recipe, plugins: StepTypes) -> Iterator[FineryError]:
    """An error for each silenced note that no plugin gives, or whose step isn't there."""
    silenced = recipe.data.get("silence")
    if not isinstance(silenced, list):
        return
    known = plugins.note_names
    steps = [n for s in SECTIONS if isinstance(recipe.data.get(s), dict) for n in recipe.data[s]]
    for index, text in enumerate(silenced):
        if not isinstance(text, str):
            continue
        step, slash, name = text.rpartition("/")
        place = ("silence", index)
        if name not in known:
            yield recipe.error(f"there is no note '{name}'", place, fix=did_you_mean(name, known))
        if slash and step not in steps:
            yield recipe.error(f"there is no step '{step}'", place, fix=did_you_mean(step, steps))


def is_name(text: str) -> bool:
    """Whether a step or a recipe can be named so."""
    return re.fullmatch(NAME.strip("^$"), text) is not None


def _check_steps(recipe: Recipe, plugins: StepTypes) -> Iterator[FineryError]:
    for section in SECTIONS:
        steps = recipe.data.get(section)
        if steps is None:
            continue
        if not isinstance(steps, dict):
            yield recipe.error(
                f"section '{section}' maps names to steps",
                [section],
                fix=f"{section}: {{NAME: {{use: …}}}}",
            )
            continue
        for name, step in steps.items():
            yield from _check_step(recipe, plugins, section, name, step)


def _check_step(
    recipe: Recipe, plugins: StepTypes, section: str, name: str, step: Any
) -> Iterator[FineryError]:
    place = (section, name)
    if not is_name(name):
        yield recipe.error(f"a step can't be named '{name}'", place, key=True, fix=_NAME_FIX)
        return
    if not isinstance(step, dict):
        yield recipe.error(f"step '{name}' is a mapping", place, fix=f"{name}: {{use: …}}")
        return
    use = step.get("use")
    if not isinstance(use, str):
        yield _without_use(recipe, plugins, place, step)
        return
    if use not in plugins.step_types:
        yield recipe.error(f"unknown step type '{use}'", (*place, "use"), fix=plugins.suggest(use))
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
    yield from complaints(recipe, schema, step, place, use)
    for field, info in nested_fields(cls).items():
        if isinstance(step.get(field), dict):
            yield from _check_inner(recipe, plugins, (*place, field), step[field], info)


def _check_inner(
    recipe: Recipe, plugins: StepTypes, place: tuple[str, ...], step: Any, info: FieldInfo
) -> Iterator[FineryError]:
    use = step.get("use")
    if not isinstance(use, str):
        return  # the outer step's schema says so
    fitting = _types_for(info.section, plugins)
    if use not in fitting:
        what = f"'{use}' is no step type for section {info.section}"
        yield recipe.error(what, (*place, "use"), fix=did_you_mean(use, fitting))
        return
    schema = step_schema(plugins.step_type(use))
    for key in (*_STEP_KEYS, *info.given):
        schema["properties"].pop(key, None)
    schema["required"] = [key for key in schema["required"] if key not in info.given]
    yield from complaints(recipe, schema, step, place, use)


def _without_use(
    recipe: Recipe, plugins: StepTypes, place: tuple[str, str], step: dict[str, Any]
) -> FineryError:
    near = nearest("use", step)
    fix = f"use: one of {', '.join(_types_for(place[0], plugins))}"
    if near == "use":
        return recipe.error("'use' names one step type", (*place, "use"), fix=fix)
    if near:
        what = f"step '{place[1]}' has no 'use'"
        return recipe.error(what, (*place, near), key=True, fix=f"write 'use', not '{near}'")
    return recipe.error(f"step '{place[1]}' doesn't say its step type", place, key=True, fix=fix)


def _types_for(section: str, plugins: StepTypes) -> list[str]:
    """Step types that a section takes, for a hint; broken ones are left to where they are used."""
    names = []
    for name in sorted(plugins.step_types):
        with contextlib.suppress(PluginError):
            if section in sections_of(plugins.step_type(name)):
                names.append(name)
    return names


def convert_step(
    recipe: Recipe, section: str, name: str, cls: type[Step], plugins: StepTypes
) -> Step:
    """The step as an instance of its type, with placeholders for artifacts; defaults filled in."""
    return _converted(recipe, (section, name), recipe.data[section][name], cls, plugins)


def _converted(
    recipe: Recipe, place: tuple[str, ...], written: Any, cls: type[Step], plugins: StepTypes
) -> Step:
    inner = {f: written[f] for f in nested_fields(cls) if written.get(f) is not None}
    settings = {k: v for k, v in written.items() if k not in RESERVED and k not in inner}
    for field, accepts in inputs_of(cls).items():
        if accepts.many and isinstance(settings.get(field), str):
            settings[field] = [settings[field]]
    try:
        step = msgspec.convert(settings, cls, dec_hook=_decode)
    except msgspec.ValidationError as error:
        what, _, inside = str(error).partition(" - at `$.")
        where = (*place, *inside.rstrip("`").split(".")) if inside else place
        raise recipe.error(
            f"step '{place[1]}': {what}",
            where,
            fix=f"`finery plugins {written['use']}` tells its settings",
        ) from error
    for field, within in inner.items():
        filled = {**within, **nested_fields(cls)[field].given}
        kind = plugins.step_type(within["use"])
        setattr(step, field, _converted(recipe, (*place, field), filled, kind, plugins))
    return step


def _decode(kind: Any, value: Any) -> Any:
    if issubclass(kind, Artifact):
        return kind.placeholder(value)
    return kind([value] if isinstance(value, str) else value)


class RecipeErrors(UsageError):
    """Several mistakes of one recipe, printed one after the other."""

    def __init__(self, errors: list[FineryError]) -> None:
        super().__init__(f"{len(errors)} mistakes")
        self.errors = errors

    def __str__(self) -> str:
        return "\n\n".join(str(e) for e in self.errors)


def _position(error: FineryError) -> tuple[str, int, int]:
    file, line, column = ["", "", *(error.where or "").rsplit(":", 2)][-3:]
    whole = line.isdecimal() and column.isdecimal()
    return (file, int(line), int(column)) if whole else (error.where or "", 0, 0)


def raise_all(errors: Iterable[FineryError]) -> None:
    """Raise one error, or several as one, in the order of the file; return when there is none."""
    # An anchor that several steps share has its mistakes once.
    unique = sorted({(e.where, e.what): e for e in errors}.values(), key=_position)
    if len(unique) == 1:
        raise unique[0]
    if unique:
        raise RecipeErrors(unique)
