"""YAML as people mean it, with the place of every part."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery import UsageError
from finery.errors import RecipeError
from finery.recipe.document import Recipe, load

Read = Callable[..., Recipe]

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co", "Zl", "Zp"]), max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
KEYS = TEXT.filter(lambda key: key not in ("<<",))
DATA = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=20,
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Read a recipe from its text."""
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"

    def of(text: str, *overrides: str) -> Recipe:
        path.write_text(text, encoding="utf-8")
        return load(path, overrides)

    return of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4), ("1e5", 1e5), ("1.", 1.0), (".5", 0.5), ("-3", -3), ("+3", 3),
        ("1_000", 1000), ("0x1F", 31), ("0o17", 15),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"),
        ("007", "007"), ("12:30", "12:30"), ("2026-01-02", "2026-01-02"), ("1.2.3", "1.2.3"),
        ("'.nan'", ".nan"), ("=", "="), ("'2e-4'", "2e-4"), ('"true"', "true"), ("0b1", "0b1"),
        ("|\n  a\n  b", "a\nb\n"), (">-\n  a\n  b", "a b"), ("NULL", None), ("TRUE", True),
    ],
)  # fmt: skip
def test_scalars_mean_what_people_mean(read: Read, text: str, value: Any) -> None:
    found = read(f"a: {text}\n").data["a"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("text", [".inf", "-.Inf", "+.INF", ".nan", ".NaN"])
def test_what_is_no_number_is_refused_with_its_place(read: Read, text: str) -> None:
    with pytest.raises(RecipeError, match="a recipe can't hold the number") as caught:
        read(f"a:\n  b: {text}\n")
    assert str(caught.value.where).endswith(":2:6")


@given(data=DATA)
def test_json_is_read_as_it_is(read: Read, data: dict[str, Any]) -> None:
    found = read(json.dumps(data, ensure_ascii=False) + "\n").data
    assert json.dumps(found) == json.dumps(data)  # tells 1 from 1.0 and True


@given(data=DATA)
def test_every_part_knows_its_place(read: Read, data: dict[str, Any]) -> None:
    text = json.dumps(data, ensure_ascii=False, indent=1)
    recipe = read(text)
    for place, value in parts(data):
        start = json.dumps(value, ensure_ascii=False)
        start = start[0] if isinstance(value, (dict, list)) else start
        assert at(text, recipe.where(place)).startswith(start)
        if isinstance(place[-1], str):
            key = json.dumps(place[-1], ensure_ascii=False)
            assert at(text, recipe.where(place, key=True)).startswith(key)


def parts(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """(place, value) of everything inside a value."""
    if isinstance(value, dict):
        inside = list(value.items())
    else:
        inside = list(enumerate(value)) if isinstance(value, list) else []
    found = [((*place, key), part) for key, part in inside]
    return [*found, *(p for key, part in inside for p in parts(part, (*place, key)))]


def at(text: str, where: str) -> str:
    """The text from a `file:line:column` on."""
    line, column = map(int, where.rsplit(":", 2)[1:])
    return "\n".join(re.split("\n", text)[line - 1 :])[column - 1 :]


def test_a_part_that_is_not_there_has_the_place_of_what_is_above(read: Read) -> None:
    recipe = read("a:\n  b: {c: 1}\n")
    assert recipe.where(["a", "b", "x", "y"]).endswith("recipe.yaml:2:3")
    assert recipe.where(["x"]).endswith("recipe.yaml:1:1")


def test_an_error_shows_the_line_and_points_at_the_place(read: Read) -> None:
    error = read("a:\n  b: [1, two]\n").error("not a number", ["a", "b", 1], fix="write 2")
    assert str(error).splitlines()[1:] == [
        "  2 |   b: [1, two]",
        "    |          ^",
        "  fix: write 2",
    ]


def test_an_error_shows_a_part_of_a_very_long_line(read: Read) -> None:
    error = read(f"a: [{'x, ' * 300}two, {'x, ' * 300}]\n").error("not a number", ["a", 300])
    code, caret = error.details
    assert len(code) < 410
    assert code[caret.index("^") :].startswith("two, ")
    assert (code[:5], code[-1]) == ("1 | …", "…")


@pytest.mark.parametrize(
    ("line", "shown"),
    [("a: [返回, two]", "a: [返回, two]"), ("a: [hf_" + "x1" * 17 + ", two]", "a: [***, two]")],
)
def test_the_caret_is_where_a_terminal_shows_the_place(read: Read, line: str, shown: str) -> None:
    code, caret = read(f"{line}\n").error("not a number", ["a", 1]).details
    assert code == f"1 | {shown}"
    before = code.partition("two")[0]
    assert caret.index("^") == len(before) + before.count("返") + before.count("回")


def test_merges_yield_to_what_is_written_and_to_what_comes_first(read: Read) -> None:
    recipe = read(
        "x-a: &a {one: 1, two: 1}\nx-b: &b {two: 2, three: 2, four: 2}\n"
        "c:\n  four: 3\n  <<: [*a, *b]\n"
    )
    assert recipe.data["c"] == {"one": 1, "two": 1, "three": 2, "four": 3}
    assert recipe.where(["c", "three"]).endswith(":2:25")
    assert recipe.where(["c", "two"]).endswith(":1:23")
    assert recipe.where(["c", "four"]).endswith(":4:9")


@given(given_=st.dictionaries(KEYS, SCALARS), defaults=st.dictionaries(KEYS, SCALARS))
def test_a_merge_is_a_union(read: Read, given_: dict[str, Any], defaults: dict[str, Any]) -> None:
    text = f"x: &x {json.dumps(defaults, ensure_ascii=False)}\n"
    body = "".join(
        f", {json.dumps(k, ensure_ascii=False)}: {json.dumps(v, ensure_ascii=False)}"
        for k, v in given_.items()
    )
    found = read(f"{text}y: {{<<: *x{body}}}\n").data["y"]
    assert found == {**defaults, **given_}


@given(value=SCALARS)
def test_set_puts_any_value_anywhere(read: Read, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    recipe = read("train:\n  sft: {lora: {r: 16}}\n", f"train.sft.lora.r={text}")
    assert recipe.data == {"train": {"sft": {"lora": {"r": value}}}}


def test_set_makes_settings_but_no_steps(read: Read) -> None:
    recipe = read("train:\n  sft: {use: x}\n", "train.sft.lora.r=8", "seed=3", "train.sft.note=")
    assert recipe.data["train"]["sft"] == {"use": "x", "lora": {"r": 8}, "note": ""}
    assert recipe.data["seed"] == 3
    assert recipe.where(["train", "sft", "lora", "r"]) == "--set train.sft.lora.r=8"
    assert recipe.where(["train", "sft", "use"]).endswith(":2:14")


@pytest.mark.parametrize(
    "assignment", ["", "a", "=1", "x.y=1", "train.dpo.epochs=1", "train.sft.use.x=1", "seed=[1"]
)
def test_set_refuses_what_has_no_place(read: Read, assignment: str) -> None:
    with pytest.raises(UsageError) as caught:
        read("train:\n  sft: {use: x}\n", assignment)
    assert caught.value.where == f"--set {assignment}"
    assert caught.value.fix


def test_set_without_its_section_is_named_with_it(read: Read) -> None:
    with pytest.raises(UsageError) as caught:
        read("train:\n  sft: {use: x}\n", "sft.epochs=1")
    assert caught.value.fix == "--set train.sft.epochs=1"


def test_set_takes_lists_whole(read: Read) -> None:
    with pytest.raises(UsageError, match=r"'train\.sft\.rows' is a list") as caught:
        read("train:\n  sft: {rows: [a, b]}\n", "train.sft.rows.0=c")
    assert caught.value.fix == "set all of it: --set 'train.sft.rows=[…]'"


ANYTHING = st.text(st.characters(codec="utf-8"), max_size=200)
YAMLISH = st.text(st.sampled_from("ab:- \n\t[]{},'\"#&*!|>%@`?<~0.1e_\\"), max_size=60)


@given(text=ANYTHING | YAMLISH)
def test_whatever_is_written_is_data_or_an_error_with_a_place(read: Read, text: str) -> None:
    found = outcome(read, text)
    if isinstance(found, RecipeError):
        assert re.search(r"recipe\.yaml:\d+:\d+$", found.where or "")
        assert found.fix


def outcome(read: Read, text: str) -> Recipe | RecipeError:
    """The recipe, or what is wrong with it; any other exception is a bug."""
    try:
        return read(text)
    except RecipeError as error:
        return error


def test_the_recipe_is_named_after_itself_or_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("finery: 1\n")
    assert load(path).name == tmp_path.name
    path.write_text("finery: 1\nname: other\n")
    assert load(path).name == "other"
