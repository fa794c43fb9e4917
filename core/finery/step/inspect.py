"""Declarations of a step type's class: inputs, outputs, files, nested steps."""

import os
import sys
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin

import msgspec

from finery.artifact.kinds import Artifact, Bundle, Dataset, Index, Metrics, Model
from finery.errors import DataError, PluginError
from finery.fields import FieldInfo, Files, Settings
from finery.key import Key
from finery.rows.parts import STANDARD_COLUMNS, TEXT_NAMES
from finery.util.text import did_you_mean

if TYPE_CHECKING:
    from finery.step.step import Step

SECTIONS = ("models", "data", "generate", "train", "evaluate", "export")
SECTIONS_OF: dict[type[Artifact], tuple[str, ...]] = {
    Dataset: ("data", "generate"),
    Index: ("data",),
    Model: ("models", "train"),
    Metrics: ("evaluate",),
    Bundle: ("export",),
}
FILE_MODULE = "finery_file_"
"""Prefix of the module names of plugin files next to a recipe."""
RESERVED = frozenset({"use", "needs", "seed", "env", "gpus", "environment", "resources"})
"""Keys that all steps accept, or all that can use a GPU. Fields can't have these names."""

OUTSIDE_KEYS = frozenset({
    "advise", "cache_key", "check", "choices", "doubts", "estimate", "examine", "floating_name",
    "forecast", "leave_out", "pin_name", "prove", "provenance", "rehearsal", "resources", "sketch",
    "trace_rows", "verify", "(metrics)",
})  # fmt: skip
"""Methods and (class keywords) of a step type whose code isn't in keys.

A method counts nevertheless if code in the key names it. Most only refuse: they raise an error or
return nothing that a step reads. What `cache_key`, `pin_name` and `provenance` return is in the key
itself. The interfaces that class keywords name can't change an output.
"""
REPLACED_METHODS = {
    **dict.fromkeys(("key_code", "key_facts", "key_files", "key_packages"), "cache_key"),
    **dict.fromkeys(("depends_on_gpus", "sends_schemas", "uses_seed"), "cache_key"),
    **dict.fromkeys(("gpu_count", "node_count"), "resources"),
}
"""Methods that finery called in early versions → the one that replaces them."""


@lru_cache(maxsize=1024)
def inputs_of(cls: "type[Step]") -> "Mapping[str, Input]":
    """The input fields of a step type, in order."""
    hints = field_hints(cls)
    return {f: accepts for f in cls.__struct_fields__ if (accepts := _as_input(hints[f]))}


def field_hints(cls: type[Settings]) -> dict[str, Any]:
    """Field → type, without the annotations for limits."""
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        raise PluginError(
            f"{full_name(cls)}: a field's type can't be resolved: {error}",
            fix="import the type at module level, not under TYPE_CHECKING",
        ) from error


def files_of(step: Settings) -> dict[str, Files]:
    """The settings of a step that name outside files; nested ones as `launch.config`."""
    settings: dict[str, Files] = {}
    for field in _fields_with_parts(type(step)):
        for path, value in entries(field, getattr(step, field)):
            if isinstance(value, Files):
                value.may_be = type(step).__finery_fields__[field].may_be
                settings[path] = value
            elif isinstance(value, Settings):
                settings |= {f"{path}.{name}": files for name, files in files_of(value).items()}
    return settings


def entries(field: str, value: Any) -> list[tuple[str, Any]]:
    """(path, value) of a field, or of each entry of a list in it: `reward.0`, `reward.1`."""
    if isinstance(value, list):
        return [(f"{field}.{index}", entry) for index, entry in enumerate(value)]
    return [(field, value)]


def tag_of(group: Settings) -> dict[str, Any]:
    """The key and value that name a group's type among several, e.g. `{"type": "cosine"}`.

    Empty unless the class has a tag: `class Cosine(Settings, tag="cosine")`.
    """
    config = type(group).__struct_config__
    return {} if config.tag is None else {str(config.tag_field): config.tag}


@lru_cache(maxsize=1024)
def _fields_with_parts(cls: type[Settings]) -> tuple[str, ...]:
    """The fields that can hold outside files, settings or steps."""
    hints = field_hints(cls)
    kinds = {f: [t for t in _types_in(hints[f]) if isinstance(t, type)] for f in hints}
    parts = (Files, Settings)
    return tuple(
        f for f in cls.__struct_fields__ if any(issubclass(kind, parts) for kind in kinds[f])
    )


def _types_in(hint: Any) -> Iterator[Any]:
    yield hint
    for inner in get_args(hint):
        yield from _types_in(inner)


def give_files(step: Settings, found: Mapping[str, Iterable[tuple[str, str | Path]]]) -> None:
    """Give a step's settings, named as in `files_of`, the (name, path) of each file found."""
    settings = files_of(step)
    for setting, files in found.items():
        named = [(name, Path(path)) for name, path in files]
        settings[setting].names = [name for name, _ in named]
        settings[setting].paths = [path for _, path in named]


def check_columns(step: "Step", columns: Mapping[str, Collection[str]]) -> None:
    """Raise `DataError` for a setting that names a column which no row has.

    columns: input → the columns of its rows; without an input of which they aren't known.
    """
    for field, info in type(step).__finery_fields__.items():
        known = columns.get(info.column_of, ())
        names = (getattr(step, field) if known else None) or ()
        for name in [names] if isinstance(names, str) else names:
            if name in known or name in TEXT_NAMES or "{" in name:  # `{{ … }}`, a template
                continue
            others = {*known} - STANDARD_COLUMNS | ({"output"} if "messages" in known else set())
            raise DataError(
                f"no row has a column '{name}'",
                where=f"{field}.{name}" if isinstance(names, Mapping) else field,
                fix=f"{did_you_mean(name, others) or 'name another one'}; to keep a column of a "
                f"file in the rows, add keep: [{name}] to the step that reads it",
            )


def columns_of_inputs(step: "Step") -> dict[str, set[str]]:
    """Input → the columns of its rows, of a step with opened inputs."""
    values = {name: getattr(step, name) for name in inputs_of(type(step))}
    lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    return {
        name: {column for rows in datasets for column in rows.meta["columns"]}
        for name, datasets in lists.items()
        if datasets and all(isinstance(rows, Dataset) for rows in datasets)
    }


@lru_cache(maxsize=1024)
def nested_fields(cls: "type[Step]") -> Mapping[str, FieldInfo]:
    """The fields of a step type that hold a step, or a list of steps."""
    return {field: info for field, info in cls.__finery_fields__.items() if info.section}


def nested_in(cls: "type[Step]", values: Mapping[str, Any]) -> Iterator[tuple[str, Any, FieldInfo]]:
    """(path, inner step, its field) of the steps in the fields of a step: `watch`, `reward.0`.

    values: field → its value, also as written in a recipe, where inner steps may be anything.
    """
    for field, info in nested_fields(cls).items():
        for path, step in entries(field, values.get(field)):
            if step is not None:
                yield path, step, info


def nested_steps(step: "Step") -> "Iterator[tuple[str, Step, FieldInfo]]":
    """(path, inner step, its field), see `nested_in`."""
    fields = nested_fields(type(step))
    return nested_in(type(step), {f: getattr(step, f) for f in fields}) if fields else iter(())


def add_nested(step: "Step", path: str, inner: "Step") -> None:
    """Put an inner step where its path says: into a field, or at the end of the list in it."""
    field, in_list, _ = path.partition(".")
    setattr(step, field, [*(getattr(step, field) or ()), inner] if in_list else inner)


def part_at(written: Any, path: str) -> Any:
    """The part of a step as written at a path, e.g. `watch.rows` or `reward.0`; None if absent."""
    for key in path.split("."):
        written = written[int(key)] if isinstance(written, list) else written.get(key)
    return written


def steps_inside(step: "Step", prefix: str = "") -> "Iterator[tuple[str, Step]]":
    """(path, step) of the steps inside a step, and inside these: `watch`, `watch.each`."""
    for path, within, _ in nested_steps(step):
        yield f"{prefix}{path}", within
        yield from steps_inside(within, f"{prefix}{path}.")


def joint_key(step: "Step") -> Key:
    """The `cache_key` of a step, joined with those of the steps inside it."""
    key = step.cache_key()
    for _, within in steps_inside(step):
        key |= within.cache_key()
    return key


class Slot(NamedTuple):
    """A place for inputs of a step: field `field` of `owner`, with `path` from the outer step."""

    path: str
    owner: "Step"
    field: str
    accepts: "Input"

    @property
    def uses_name(self) -> bool:
        """Whether the step reads the name of this input in the recipe."""
        return type(self.owner).__finery_fields__[self.field].uses_name

    @property
    def role(self) -> str:
        """How the step uses this input, see `takes`."""
        return type(self.owner).__finery_fields__[self.field].role


def slots_of(step: "Step") -> dict[str, Slot]:
    """Path → slot of each input; the inputs of an inner step as `watch.rows`."""
    slots = {f: Slot(f, step, f, accepts) for f, accepts in inputs_of(type(step)).items()}
    for path, within, info in nested_steps(step):
        for name, slot in slots_of(within).items():
            if name not in info.given:
                slots[f"{path}.{name}"] = slot._replace(path=f"{path}.{name}")
    return slots


class Input(msgspec.Struct, frozen=True):
    """An input field's kind, whether it takes a list, and whether it is optional."""

    kind: type[Artifact]
    many: bool = False
    optional: bool = False


def _as_input(hint: Any) -> Input | None:
    if isinstance(hint, type) and issubclass(hint, Artifact):
        return Input(hint)
    if get_origin(hint) is list:
        inner = _as_input(get_args(hint)[0])
        return Input(inner.kind, many=True) if inner else None
    if get_origin(hint) in (types.UnionType, typing.Union):
        inputs = [made for a in get_args(hint) if a is not type(None) and (made := _as_input(a))]
        if len(inputs) == 1:
            return Input(inputs[0].kind, many=inputs[0].many, optional=True)
    return None


def declared_outputs(cls: "type[Step]") -> dict[str, type[Artifact]]:
    """The outputs in the return annotation of `run`: one artifact, or a class of artifacts."""
    return dict(_declared_outputs(cls))


@lru_cache(maxsize=1024)
def _declared_outputs(cls: "type[Step]") -> Mapping[str, type[Artifact]]:
    try:
        result = typing.get_type_hints(cls.run).get("return")
    except NameError as error:
        raise PluginError(
            f"{full_name(cls)}.run: the return type can't be resolved: {error}",
            fix="import the type at module level, not under TYPE_CHECKING",
        ) from error
    if isinstance(result, type) and issubclass(result, Artifact):
        return {"": result}
    fields = typing.get_type_hints(result) if isinstance(result, type) else {}
    outputs = {f: h for f, h in fields.items() if isinstance(h, type) and issubclass(h, Artifact)}
    if not outputs:
        raise PluginError(
            f"{full_name(cls)}.run has no return type",
            fix="annotate it with Dataset, Model, Metrics, Bundle, Index or a class of them",
        )
    return outputs


def sections_of(cls: "type[Step]") -> tuple[str, ...]:
    """The sections of a recipe that this step type can be in."""
    if cls.__spec__.sections:
        return cls.__spec__.sections
    kinds = declared_outputs(cls).values()
    return next((SECTIONS_OF[k] for k in kinds if k in SECTIONS_OF), SECTIONS)


def full_name(cls: Any) -> str:
    """A class's name in messages: with its module, or with its file next to the recipe."""
    name, module = getattr(cls, "__qualname__", repr(cls)), getattr(cls, "__module__", "")
    if module.startswith(FILE_MODULE):
        return f"{os.path.basename(sys.modules[module].__file__ or '')}:{name}"
    return f"{module}.{name}"
