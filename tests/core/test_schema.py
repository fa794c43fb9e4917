"""JSON Schemas: valid themselves, and in agreement with the check of recipes."""

import inspect
import json
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import pytest
from conftest import LIGHT_STEPS
from hypothesis import event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from finery import Dataset, Files, Job, Model, PluginError, Settings, Step, setting, takes
from finery.plugin.manager import Plugins, load_plugins
from finery.recipe.document import Recipe, load
from finery.recipe.editor import recipe_schema
from finery.recipe.fits import fits
from finery.recipe.messages import _validator, phrase
from finery.recipe.schema import step_schema
from finery.recipe.validate import check_recipe, convert_step
from finery.step.inspect import inputs_of

BUILT_IN = sorted(load_plugins().step_types)
Read = Callable[[Any], tuple[Recipe, Plugins]]


class Lora(Settings):
    """A group of settings."""

    r: int = setting(16, ge=1, help="Rank.")


class Probe(Step):
    """A step type with one of everything.

    More about it.
    """

    rows: list[Dataset] = takes(help="Rows.")
    model: Model | None = takes(None, help="A model.")
    path: Files = setting(help="Files.")
    count: int = setting(1, ge=1, le=9, help="A count.")
    share: float | None = setting(None, gt=0, lt=1, help="A share.")
    kind: Literal["a", "b"] = setting("a", help="A choice.")
    name: str | None = setting(None, pattern="^[a-z]+$", help="A name.")
    lora: Lora | None = setting(Lora(), help="A group.")
    many: dict[str, list[int]] = setting({}, help="Lists of numbers.")

    def run(self, job: Job) -> Dataset:
        """Do nothing."""
        raise NotImplementedError


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Read a recipe from data, with the light step types beside it."""
    folder = tmp_path_factory.mktemp("schemas")
    (folder / "steps.py").write_text(LIGHT_STEPS.read_text())

    def of(data: Any) -> tuple[Recipe, Plugins]:
        (folder / "recipe.yaml").write_text(json.dumps(data))
        return load(folder / "recipe.yaml"), load_plugins((folder / "steps.py",))

    return of


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_schema_of_each_step_type_is_valid_and_helps(name: str) -> None:
    cls = load_plugins().step_type(name)
    schema = step_schema(cls)
    Draft202012Validator.check_schema(schema)
    assert schema["description"] == inspect.cleandoc(cls.__doc__ or "")
    assert all(schema["properties"][field].get("description") for field in cls.__struct_fields__)
    assert set(schema["required"]) == {"use", *(f for f in required_fields(cls))}


def required_fields(cls: type[Step]) -> list[str]:
    """Fields without a default."""
    return [f.name for f in msgspec.structs.fields(cls) if f.required]


def test_the_schema_of_recipes_is_valid_and_complete() -> None:
    schema = recipe_schema(load_plugins())
    Draft202012Validator.check_schema(schema)
    assert {use for use in schema["$defs"] if use in BUILT_IN} == set(BUILT_IN)
    for ref in references(schema):
        assert ref.removeprefix("#/$defs/") in schema["$defs"]


def references(schema: Any) -> list[str]:
    """All `$ref`s in a schema."""
    if isinstance(schema, dict):
        own = [schema["$ref"]] if "$ref" in schema else []
        return own + [ref for part in schema.values() for ref in references(part)]
    return [ref for part in schema for ref in references(part)] if isinstance(schema, list) else []


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 12)
    | st.floats(-1, 2)
    | st.sampled_from(["a", "b", "steps.copy", "x", "rows.txt", ""])
    | st.lists(st.sampled_from(["a", "b", 1]), max_size=2)
)
NAMES = st.sampled_from(["a", "b"])
COMMON = {"needs": NAMES | st.lists(NAMES), "seed": st.integers(0, 9), "env": st.just(["X"])}
GOOD_STEPS = st.one_of(
    st.fixed_dictionaries({"use": st.just("steps.source"), "path": NAMES}, optional=COMMON),
    st.fixed_dictionaries(
        {"use": st.just("steps.copy"), "rows": NAMES | st.lists(NAMES, min_size=1)},
        optional={**COMMON, "tag": st.integers(-9, 9), "note": NAMES},
    ),
    st.fixed_dictionaries(
        {"use": st.just("steps.limit"), "rows": NAMES},
        optional={**COMMON, "most": st.integers(0, 9)},
    ),
)
BAD_STEPS = st.fixed_dictionaries(
    {"use": st.sampled_from(["steps.source", "steps.copy", "steps.limit", "steps.nothing"])},
    optional=dict.fromkeys(
        ("rows", "path", "most", "tag", "note", "needs", "seed", "env", "typo"), VALUES
    ),
)
STEPS = GOOD_STEPS | GOOD_STEPS | BAD_STEPS
SECTION = st.none() | st.dictionaries(st.sampled_from(["a", "b", "c-d"]), STEPS, max_size=2)
GOOD_TOP = {
    "data": SECTION,
    "generate": SECTION,
    "name": NAMES,
    "seed": st.integers(0, 9),
    "x-mine": VALUES,
}
BAD_TOP = {
    **GOOD_TOP,
    "export": SECTION,
    "train": VALUES,
    "data": st.dictionaries(st.sampled_from(["a", "c/d"]), STEPS | VALUES, max_size=2),
    "name": VALUES,
    "seed": VALUES,
    "typo": VALUES,
}
RECIPES = st.fixed_dictionaries({"finery": st.just(1)}, optional=GOOD_TOP) | st.fixed_dictionaries(
    {"finery": VALUES}, optional=BAD_TOP
)


@pytest.fixture(scope="module")
def editor(read: Read) -> Draft202012Validator:
    """What an editor holds recipes against."""
    return Draft202012Validator(recipe_schema(read({})[1]))


@settings(max_examples=5 * settings().max_examples)
@given(data=RECIPES)
def test_what_passes_the_check_passes_the_schema_for_editors(
    read: Read, editor: Draft202012Validator, data: dict[str, Any]
) -> None:
    recipe, plugins = read(data)
    passed = not check_recipe(recipe, plugins)
    event(f"passed: {passed}")
    assert editor.is_valid(recipe.data) or not passed


@settings(max_examples=5 * settings().max_examples)
@given(step=STEPS)
def test_what_passes_the_check_becomes_a_step(read: Read, step: dict[str, Any]) -> None:
    recipe, plugins = read({"finery": 1, "data": {"s": step}})
    if check_recipe(recipe, plugins):
        event("refused")
        return
    cls = plugins.step_type(step["use"])
    made = convert_step(recipe, ("data", "s"), step, cls, plugins)
    for field, accepts in inputs_of(cls).items():
        written = step.get(field)
        if written is not None:
            value = getattr(made, field)
            refs = [v.ref for v in value] if accepts.many else value.ref
            assert refs == ([written] if accepts.many and isinstance(written, str) else written)


@given(data=RECIPES)
def test_every_mistake_has_a_place_and_a_fix(read: Read, data: dict[str, Any]) -> None:
    for error in check_recipe(*read(data)):
        assert "recipe.yaml:1:" in str(error.where)
        assert error.fix, error.what


ANY = st.recursive(
    VALUES | st.sampled_from(["ab", "1", 1e3, 16, 0.5]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=6,
)


@pytest.mark.parametrize("cls", [Probe, *map(load_plugins().step_type, BUILT_IN)])
def test_the_quick_check_agrees_with_the_validator(cls: type[Step]) -> None:
    schema = step_schema(cls)
    validator = _validator()(schema)
    parts = {name: values_of(part, schema) for name, part in schema["properties"].items()}
    required = {name: parts.pop(name) for name in schema["required"]}

    @given(value=st.fixed_dictionaries(required, optional={**parts, "typo": ANY}))
    def agree(value: Any) -> None:
        assert fits(schema, value) == validator.is_valid(value)

    agree()


def values_of(part: dict[str, Any], schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a part of a schema may be about: some that fit, and others."""
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]]
    if "anyOf" in part:
        return st.one_of(ANY, *(values_of(one, schema) for one in part["anyOf"]))
    given_ones = [*part.get("enum", []), part.get("default"), part.get("minimum"), "a", 1]
    options = {name: values_of(one, schema) for name, one in part.get("properties", {}).items()}
    return st.sampled_from(given_ones) | ANY | st.fixed_dictionaries({}, optional=options)


def test_a_recipe_that_is_fine_needs_no_validator(read: Read) -> None:
    _validator.cache_clear()
    data = {"a": {"use": "steps.source", "path": "x", "needs": []}}
    assert check_recipe(*read({"finery": 1, "name": "t", "seed": 2, "data": data})) == []
    assert _validator.cache_info().currsize == 0
    assert len(check_recipe(*read({"finery": 1, "seed": -1, "data": data}))) == 1


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("rows", "text or a list of text, at least 1 of them"),
        ("count", "a whole number, at least 1, at most 9"),
        ("kind", "one of a, b"),
        ("many", "a mapping of names to lists of whole numbers"),
    ],
)
def test_what_a_setting_takes_is_told_in_words(field: str, words: str) -> None:
    assert phrase(step_schema(Probe)["properties"][field]) == words


def test_a_setting_without_a_schema_is_the_plugins_fault() -> None:
    class Odd(Step):
        """A step type with a setting of a type that YAML can't hold."""

        value: complex = setting(1j, help="A complex number.")

        def run(self, job: Job) -> Dataset:
            """Do nothing."""
            raise NotImplementedError

    with pytest.raises(PluginError, match="a setting's type has no schema"):
        step_schema(Odd)


def test_the_check_of_values_is_strict(read: Read, editor: Draft202012Validator) -> None:
    """JSON Schema takes 2.0 for a whole number; a typed setting doesn't."""
    step = {"use": "steps.limit", "rows": "a", "most": 2.0}
    recipe, plugins = read({"finery": 1, "data": {"s": step}})
    assert editor.is_valid(recipe.data)
    (error,) = check_recipe(recipe, plugins)
    assert (error.what, error.fix) == ("'most' can't be 2.0", "give a whole number, at least 0")
