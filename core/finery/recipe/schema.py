"""What a recipe needs from plugins: step types by name. JSON Schemas (2020-12) of them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from inspect import cleandoc
from typing import Any, Protocol, get_args, get_origin

import msgspec
from blake3 import blake3

from finery.artifact.kinds import Artifact
from finery.errors import PluginError
from finery.fields import File, Files
from finery.step.inspect import Input, field_hints, full_name, inputs_of, nested_fields
from finery.step.resources import SCHEMA as RESOURCES
from finery.step.step import Step
from finery.util.text import a_or_an

Schema = dict[str, Any]
NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"
"""A step's name becomes a folder's name and part of `step.output`."""
_STEP_KEYS: dict[str, Any] = {
    "needs": {
        "description": "Steps to wait for. If one fails, this step doesn't run.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    },
    "seed": {
        "description": "The step's seed. By default it derives from the recipe's `seed` and the "
        "step type, so that equal steps under two names give equal outputs.",
        "type": "integer",
        "minimum": 0,
        "maximum": 2**31 - 1,
    },
    "env": {
        "description": "Names of environment variables to pass to the step, e.g. API keys.",
        "type": "array",
        "items": {
            "type": "string",
            "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
            "description": "A variable's name, e.g. OPENAI_API_KEY.",
        },
    },
    "gpus": {
        "description": "The GPUs that the step may use, as nvidia-smi numbers them, or by UUID. "
        "It gets one of them, or one for each of its processes, see launch.",
        "type": "array",
        "minItems": 1,
        "items": {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {
                    "type": "string",
                    "pattern": "^(GPU|MIG)-",
                    "description": "A UUID or its beginning, e.g. GPU-3f2a; `nvidia-smi -L` lists "
                    "them.",
                },
            ],
        },
    },
    "environment": {
        "description": "The environment of `environments` that the step runs in; null: finery's "
        "own. Default: the one that has the step type or the section in `for`.",
        "type": ["string", "null"],
    },
    "resources": RESOURCES,
}
_AXIS_VALUES = {
    "anyOf": [
        {"type": "array", "minItems": 1},
        {"type": "object", "minProperties": 1},
    ],
}
_AXIS_SETTINGS = {
    "type": ["object", "null"],
    "description": "Path of a setting → its value, e.g. {train.sft.epochs: 8}.",
}
_TOP_LEVEL: dict[str, Any] = {
    "finery": {"const": 1, "description": "The version of the recipe language."},
    "name": {
        "type": "string",
        "pattern": NAME_PATTERN,
        "description": "The recipe's name. Its outputs are in build/NAME/.",
    },
    "seed": {
        "type": "integer",
        "minimum": 0,
        "maximum": 2**31 - 1,
        "description": "The seeds of steps derive from it. Default: 0.",
    },
    "plugins": {
        "type": "array",
        "items": {"type": "string"},
        "description": "Plugin files next to the recipe, e.g. ./checks.py.",
    },
    "requires": {
        "type": "array",
        "items": {
            "type": "string",
            "description": "A distribution and its versions as pip takes them, e.g. "
            "finery-spans>=1.2.",
        },
        "description": "Distributions that must be installed, such as those of the plugins that "
        "the recipe uses.",
    },
    "silence": {
        "type": "array",
        "items": {
            "type": "string",
            "description": "A note's name, or STEP/NAME for one step only, e.g. sft/epochs.",
        },
        "description": "Notes to silence, e.g. few-rows, or sft/few-rows for one step.",
    },
    "environments": {
        "type": "object",
        "minProperties": 1,
        "description": "Packages of steps that need others than finery's own environment has, by "
        'name: {old: {packages: ["transformers<5"], for: [trl.sft]}}.',
        "additionalProperties": {
            "type": "object",
            "properties": {
                "packages": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "string",
                        "description": "A package as pip takes it, e.g. trl==1.16.0 or "
                        "finery[unsloth].",
                    },
                    "description": "The packages. recipe.lock has the versions of all that they "
                    "need. finery and its plugins come from where finery runs.",
                },
                "python": {
                    "type": "string",
                    "pattern": "^3\\.[0-9]+$",
                    "description": 'The version of Python, e.g. "3.12". Default: finery\'s own.',
                },
                "for": {
                    "description": "The sections and step types that run in it, or `all`. A step's "
                    "own `environment` comes first, then its type.",
                    "anyOf": [
                        {"type": "string"},
                        {"type": "array", "items": {"type": "string"}},
                    ],
                },
            },
            "required": ["packages"],
            "additionalProperties": False,
        },
    },
    "matrix": {
        "type": "object",
        "description": "Variants to build and compare. Each key is an axis: the path of a setting "
        "with a list of values, train.sft.learning_rate: [1e-4, 2e-4], or a name with the settings "
        "of each value, size: {small: {train.sft.lora.r: 8}, large: {train.sft.lora.r: 32}}.",
        "minProperties": 1,
        "properties": {
            "exclude": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "minProperties": 1,
                    "description": "Axis → value: variants with all of these aren't built.",
                },
                "description": "Combinations to leave out.",
            },
            "variants": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": _AXIS_SETTINGS,
                "description": "Further variants by name, each with its own settings.",
            },
            "seeds": {
                "description": "Train each variant so many times, each time under another seed; or "
                "a list of seeds.",
                "anyOf": [
                    {"type": "integer", "minimum": 2},
                    {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "integer",
                            "minimum": 0,
                            "maximum": 2**31 - 1,
                            "description": "A seed.",
                        },
                    },
                ],
            },
            "sample": {
                "type": "object",
                "description": "Draw variants instead of building all combinations. An axis can "
                "then be a range: {from: 1e-5, to: 1e-3, log: true}.",
                "properties": {
                    "use": {
                        "type": "string",
                        "description": "The sampler: optuna.qmc covers the ranges evenly, "
                        "optuna.random draws at random.",
                    },
                    "trials": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": 1000,
                        "description": "How many variants to draw.",
                    },
                    "seed": {
                        "type": "integer",
                        "minimum": 0,
                        "maximum": 2**31 - 1,
                        "description": "Another seed draws others. Default: the recipe's seed.",
                    },
                },
                "required": ["use", "trials"],
                "additionalProperties": False,
            },
            "select": {
                "type": "object",
                "description": "Choose the best variant, and make everything after it of that one.",
                "properties": {
                    "by": {
                        "type": "string",
                        "description": "What to choose by: EVALUATOR.MODEL.METRIC, e.g. "
                        "test.sft.accuracy.",
                    },
                    "on": {
                        "type": "string",
                        "description": "The rows to choose on, e.g. split.validation, so that the "
                        "evaluator's own rows judge only the winner.",
                    },
                    "best": {
                        "enum": ["highest", "lowest"],
                        "description": "Whether a high value is good. Default: highest.",
                    },
                },
                "required": ["by"],
                "additionalProperties": False,
            },
        },
        "additionalProperties": _AXIS_VALUES,
    },
}


def step_schema(cls: type[Step]) -> dict[str, Any]:
    """The self-contained schema of one step of this type, as a recipe writes it."""
    schema: dict[str, Any] = msgspec.json.decode(_encoded_schema(cls))
    return schema


def settings_inside(schema: Schema, key: str) -> Iterator[tuple[str, Schema, bool]]:
    """(name, schema, whether it is required) of the settings in a group, to any depth.

    schema: of the step type. key: of the group. Names are `lora.r`, of each group in a list
    `checks[].name`, of each in a mapping `rules.NAME.never`.
    """
    yield from _settings_in_field(
        key, schema["properties"][key], schema.get("$defs", {}), frozenset()
    )


def _settings_in_field(
    path: str, field: Schema, defs: Mapping[str, Schema], visited: frozenset[str]
) -> Iterator[tuple[str, Schema, bool]]:
    for ref, mark in _groups_in(field):
        if ref in visited:  # a group may contain groups of its own type
            continue
        group = defs[ref]
        for key, inner in group.get("properties", {}).items():
            name = f"{path}{mark}.{key}"
            yield name, inner, key in group.get("required", ())
            yield from _settings_in_field(name, inner, defs, visited | {ref})


def _groups_in(field: Schema, mark: str = "") -> Iterator[tuple[str, str]]:
    """(name, how it is reached) of each group of settings that a field takes."""
    if "$ref" in field:
        yield field["$ref"].removeprefix("#/$defs/"), mark
    for form in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        yield from _groups_in(form, mark)
    if isinstance(field.get("items"), dict):
        yield from _groups_in(field["items"], f"{mark}[]")
    if isinstance(field.get("additionalProperties"), dict):
        yield from _groups_in(field["additionalProperties"], f"{mark}.NAME")


@lru_cache(maxsize=1024)
def _encoded_schema(cls: type[Step]) -> bytes:
    try:
        (_,), defs = msgspec.json.schema_components(
            [cls], schema_hook=_custom_schema, ref_template="#/$defs/{name}"
        )
    except TypeError as error:
        raise PluginError(f"{full_name(cls)}: a setting's type has no schema: {error}") from error
    type_schema = defs.pop(cls.__name__)
    for group in defs.values():  # msgspec before 0.23 leaves a docstring's indentation
        if "description" in group:
            group["description"] = cleandoc(group["description"])
    properties: dict[str, Any] = {
        "use": {"type": "string"},
        **type_schema["properties"],
        **_STEP_KEYS,
    }
    if not (cls.__spec__.engines or cls.__spec__.gpus):  # it can't use one
        del properties["gpus"]
    for name, accepts in inputs_of(cls).items():
        properties[name] = _input_schema(cls.__finery_fields__[name].help, accepts)
    for name, info in nested_fields(cls).items():  # `_check_nested` checks their settings
        defs.pop(Step.__name__, None)
        nested_schema = {
            "type": ["object", "null"],
            "properties": {
                "use": {
                    "type": "string",
                    "description": f"A step type of the section {info.section}.",
                }
            },
            "required": ["use"],
        }
        properties[name] = {"description": info.help, **nested_schema}
        if any(get_origin(hint) is list for hint in get_args(field_hints(cls)[name])):
            item_schema = {**nested_schema, "type": "object"}
            forms = [
                item_schema,
                {"type": "array", "items": item_schema, "minItems": 1},
                {"type": "null"},
            ]
            properties[name] = {"description": info.help, "anyOf": forms}
    for field in msgspec.structs.fields(cls):  # msgspec leaves lists that aren't empty out
        if field.default_factory not in (msgspec.NODEFAULT, list, dict):
            value = msgspec.to_builtins(field.default_factory())
            if isinstance(value, list) and value:
                properties[field.encode_name].setdefault("default", value)
    schema = {
        "type": "object",
        "description": cleandoc(cls.__doc__ or ""),
        "properties": properties,
        "required": ["use", *type_schema.get("required", [])],
        "additionalProperties": False,
    }
    return msgspec.json.encode({**schema, "$defs": defs} if defs else schema)


def _input_schema(text: str, accepts: Input) -> dict[str, Any]:
    reference_schema = {"type": "string"}
    forms: list[dict[str, Any]] = [reference_schema]
    if accepts.many:
        forms.append({"type": "array", "items": reference_schema, "minItems": 1})
    if accepts.optional:
        forms.append({"type": "null"})
    note_end = ", or a list of them." if accepts.many else "."
    note = f"Names a step that makes {a_or_an(accepts.kind.kind)}{note_end}"
    schema = {"description": f"{text} {note}".strip()}
    return {**schema, **reference_schema} if len(forms) == 1 else {**schema, "anyOf": forms}


def _custom_schema(kind: type) -> dict[str, Any]:
    if issubclass(kind, Artifact | File):
        return {"type": "string"}
    if issubclass(kind, Files):
        return {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
            ]
        }
    raise NotImplementedError(f"no schema for {kind}")


class StepTypes(Protocol):
    """The available step types; `finery.plugin.manager.Plugins` implements this."""

    @property
    def step_types(self) -> Mapping[str, Any]:
        """The step types by name; only the names are used here."""

    @property
    def note_names(self) -> Collection[str]:
        """Names of the notes that a recipe can silence."""

    def step_type(self, name: str) -> type[Step]:
        """The class of a step type. Raises `PluginError` if it is missing or broken."""

    def suggest(self, name: str) -> str:
        """A fix for an unknown step type."""

    @property
    def sampler_names(self) -> Collection[str]:
        """Names of what can draw the variants of a matrix."""

    def sampler(self, name: str) -> Callable[..., Any]:
        """A sampler, see `finery.recipe.matrix.sample.Sampler`."""

    @property
    def chooser(self) -> str:
        """The step type that chooses a variant of a matrix."""


def derived_seed(seed: int, use: str) -> int:
    """A step's seed from the recipe's seed and the step type, 0 ≤ seed < 2³¹.

    The step's name has no part in it: two trainings that are compared under different names
    differ only in what the recipe changes between them.
    """
    return int.from_bytes(blake3(f"{seed}/{use}".encode()).digest(4), "big") >> 1
