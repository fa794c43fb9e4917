"""`matrix:` in a recipe: names and sharing of variants, their keys, errors and their places."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import build

from finery.builder.project import open_graph
from finery.errors import FineryError
from finery.recipe.document import MATRIX_OPTION
from finery.recipe.graph import Graph
from finery.recipe.matrix.labels import value_label

STEPS = Path(__file__).parents[1] / "matrix_steps.py"
RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  lines: {use: t.lines, path: few.txt}
  split: {use: t.split, rows: lines}
  held: {use: t.lines, path: held.txt}
train:
  sft: {use: t.train, rows: split.train}
evaluate:
  test: {use: t.judge, models: [sft], rows: held}
export:
  ship: {use: t.ship, model: sft}
"""
Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Write a recipe and its files into a folder that all tests of this file share."""
    folder = tmp_path_factory.mktemp("matrix")
    (folder / ".git").mkdir()
    shutil.copy(STEPS, folder / "steps.py")
    for name, count in (("few.txt", 9), ("more.txt", 30), ("held.txt", 12)):
        (folder / name).write_text("".join(f"{name} {n}\n" for n in range(count)))

    def write(matrix: str) -> Path:
        path = folder / "recipe.yaml"
        path.write_text(RECIPE + matrix)
        return path

    return write


def graph(path: Path, *overrides: str) -> Graph:
    return open_graph(path, overrides)


def error_of(path: Path, *overrides: str) -> FineryError:
    """The one error of a recipe."""
    with pytest.raises(FineryError) as caught:
        graph(path, *overrides)
    errors: list[FineryError] = getattr(caught.value, "errors", [caught.value])
    assert len(errors) == 1, [str(e) for e in errors]
    assert caught.value.exit_code == 2
    return errors[0]


# -- names and sharing ---------------------------------------------------------------------------


def test_only_what_an_axis_reaches_is_multiplied(make: Make) -> None:
    made = graph(make("matrix: {train.sft.rate: [1e-4, 0.05], export.ship.bits: [4, 8]}\n"))
    assert [*made.nodes] == [
        "lines", "split", "held", "sft@rate=1e-4", "sft@rate=0_05", "test@rate=1e-4",
        "test@rate=0_05", "ship@rate=1e-4,bits=4", "ship@rate=1e-4,bits=8",
        "ship@rate=0_05,bits=4", "ship@rate=0_05,bits=8",
    ]  # fmt: skip
    assert {s.step for s in made.nodes["ship@rate=1e-4,bits=8"].sources} == {"sft@rate=1e-4"}
    assert [s.ref for s in made.nodes["test@rate=1e-4"].sources] == ["sft", "held"]


def test_pairs_exclusions_and_named_variants(make: Make) -> None:
    made = graph(make("""\
matrix:
  size:
    small: {train.sft.lora.r: 4, train.sft.rate: 1e-3}
    large: {train.sft.lora.r: 64, train.sft.rate: 1e-5}
  data.lines.path: {few: few.txt, all: [few.txt, more.txt]}
  exclude: [{size: large, data.lines.path: few}]
  variants: {plain: {}, quick: {train.sft.seconds: 0.5}}
"""))  # fmt: skip
    trainings = [name for name in made.nodes if name.startswith("sft")]
    assert trainings == [
        "sft@size=small,path=few", "sft@size=small,path=all", "sft@size=large,path=all",
        "sft@plain", "sft@quick",
    ]  # fmt: skip
    # The rows of a named variant are those of the recipe, which one value of the axis repeats.
    assert [name for name in made.nodes if name.startswith("lines")] == [
        "lines@path=few", "lines@path=all",
    ]  # fmt: skip
    assert made.nodes["sft@plain"].sources[0].step == "split@path=few"


def test_seeds_repeat_trainings_and_what_follows_them(make: Make) -> None:
    path = make("matrix: {seeds: 3}\n")
    made = graph(path)
    assert [n for n in made.nodes if "@" not in n] == ["lines", "split", "held"]
    first, second, third = (made.nodes[f"sft@seed={n}"].seed for n in (1, 2, 3))
    assert (second, third) == (first + 1, first + 2)
    assert first == graph(path, f"{MATRIX_OPTION}off").nodes["sft"].seed
    assert [*graph(make(""), "matrix.seeds=3").nodes] == [*made.nodes]  # by --set
    assert [n.seed for n in graph(make("matrix: {seeds: [7, 5]}\n")).nodes.values()
            if n.origin == "sft"] == [7, 5]  # fmt: skip


def test_the_command_line_adds_an_axis_or_takes_them_away(make: Make) -> None:
    path = make("matrix: {train.sft.rate: [1e-4, 2e-4]}\n")
    wider = graph(
        path,
        f"{MATRIX_OPTION}train.sft.rate=1e-4,2e-4,4e-4",
        f"{MATRIX_OPTION}train.sft.lora.r=1,2",
    )
    assert sum(name.startswith("sft@") for name in wider.nodes) == 6
    assert [*graph(path, f"{MATRIX_OPTION}off").nodes] == [*graph(make("")).nodes]
    assert "sft@rate=3e-4" in graph(make(""), f"{MATRIX_OPTION}train.sft.rate=3e-4").nodes


@pytest.mark.parametrize(
    ("value", "label"),
    [(1e-4, "1e-4"), (0.05, "0_05"), (0.5, "0_5"), (2.5e-5, "2_5e-5"), (8, "8"), (True, "true"),
     (None, "null"), ("Qwen/Qwen3-4B", "Qwen3-4B"), ("data/all rows.jsonl", "all_rows_jsonl"),
     (["split.train", "more"], "split_train+more"), ({"a": 1}, None), ("…", None)],
)  # fmt: skip
def test_values_have_readable_names(value: Any, label: str | None) -> None:
    assert value_label(value) == label


# -- keys ----------------------------------------------------------------------------------------

PATHS = {
    "train.sft.rate": st.sampled_from([1e-4, 2e-3, 0.05]),
    "train.sft.lora.r": st.integers(1, 4),
    "train.sft.seed": st.integers(0, 9),
    "data.lines.path": st.sampled_from(["few.txt", "more.txt", ["few.txt", "more.txt"]]),
    "data.split.rows": st.sampled_from(["lines", "held"]),
    "export.ship.bits": st.integers(1, 8),
}


@settings(max_examples=12)
@given(data=st.data())
def test_the_keys_of_a_variant_are_those_of_the_recipe_with_its_settings(
    make: Make, data: st.DataObject
) -> None:
    paths = data.draw(st.lists(st.sampled_from([*PATHS]), min_size=1, max_size=3, unique=True))
    axes = {
        path: data.draw(st.lists(PATHS[path], min_size=1, max_size=2, unique_by=repr))
        for path in paths
    }
    path = make(f"matrix: {yaml.safe_dump(axes, default_flow_style=True)}")
    made = build(path)
    matrix = made.graph.matrix
    assert matrix is not None
    for variant in matrix.variants:
        assignments = [f"{'.'.join(s.path)}={yaml.safe_dump(s.value, default_flow_style=True)}"
                       .removesuffix("...\n") for s in variant.settings]  # fmt: skip
        plain = build(path, [*assignments, f"{MATRIX_OPTION}off"]).outcome.results
        own = matrix.steps[variant.name]
        for step, result in plain.items():
            assert made.outcome.results[own.get(step, step)].key == result.key, (step, variant.name)


def test_the_winner_has_the_keys_of_the_recipe_with_its_settings(make: Make) -> None:
    path = make("""\
matrix:
  train.sft.rate: [1e-4, 0.05]
  export.ship.bits: [3]
  select: {by: test.sft.accuracy, on: lines}
""")
    made = build(path)
    results = made.outcome.results
    assert results["winner"].outputs[""].meta["chosen"] == "rate=0_05,bits=3"
    assignments = ["train.sft.rate=0.05", "export.ship.bits=3", f"{MATRIX_OPTION}off"]
    plain = build(path, assignments).outcome.results
    assert {step: results[step].key for step in plain} == {s: r.key for s, r in plain.items()}


# -- errors --------------------------------------------------------------------------------------

WRONG = {
    "matrix:\n  train.sft.ratt: [1e-4]\n": (
        15, "unknown setting 'ratt'", "rate"),
    "matrix:\n  train.sft.rate: [1e-4, fast]\n": (15, "'rate' can't be", "number"),
    "matrix:\n  train.sftt.rate: [1e-4]\n": (15, "there is no step 'sftt'", "sft"),
    "matrix:\n  trian.sft.rate: [1e-4]\n": (15, "'trian' is not a section", "train"),
    "matrix:\n  train.sft.rate: []\n": (15, "'train.sft.rate'", ""),
    "matrix:\n  train.sft.rate: 1e-4\n": (15, "'train.sft.rate'", ""),
    "matrix:\n  rate: [1e-4]\n": (15, "names no setting", "section.step.setting"),
    "matrix:\n  train.sft.rate: [1e-4, 0.0001]\n": (15, "lists 1e-4 twice", "remove"),
    "matrix:\n  train.sft.lora: [{r: 1}, {r: 2}]\n": (15, "needs a name", "NAME"),
    "matrix:\n  train.sft.rate: [1e-4, 2e-4]\n  exclude:\n  - {train.sft.rate: 3e-4}\n": (
        17, "matches no variant", "1e-4, 2e-4"),
    "matrix:\n  train.sft.rate: [1e-4, 2e-4]\n  exclude:\n  - {ratte: 1e-4}\n": (
        17, "there is no axis 'ratte'", "train.sft.rate"),
    "matrix:\n  train.sft.rate: [1e-4]\n  exclude: [{rate: 1e-4}]\n": (
        14, "the matrix has no variants", "axis"),
    "matrix:\n  variants: {'a b': {train.sft.rate: 1}}\n": (15, "can't be named 'a b'", "letters"),
    "matrix:\n  seed: {a: {train.sft.seed: 1}}\n": (15, "can't be named 'seed'", "another"),
    "matrix:\n  seeds: 1\n": (15, "'seeds' can't be 1", ""),
    "matrix:\n  seeds: [4, 4]\n": (15, "a seed twice", "once"),
    "matrix:\n  train.sft.rate: [1e-4]\n  select: {by: test.base.accuracy}\n": (
        16, "doesn't name a model", "sft"),
    "matrix:\n  train.sft.rate: [1e-4]\n  select: {by: tests.sft.accuracy}\n": (
        16, "names no evaluator", "test"),
    "matrix:\n  train.sft.rate: [1e-4]\n  select: {by: test.sft.accuracy, on: split.dev}\n": (
        16, "has no output 'dev'", "train"),
    "matrix:\n  train.sft.rate: [1e-4]\n  select: {by: test.sft.acuracy}\n": (
        16, "no metric 'acuracy'", "accuracy"),
    "matrix:\n  export.ship.bits: [4, 8]\n  select: {by: test.sft.accuracy, on: lines}\n": (
        16, "no axis reaches test", "axes change"),
    "matrix:\n  train.sft.rate: [1, 2]\n  export.ship.bits: [4, 8]\n"
    "  select: {by: test.sft.accuracy, on: lines}\n": (16, "doesn't reach test", "remove the axis"),
    "matrix:\n  train.sft.rate: [1e-4, 2e-4]\n  halve: {keep: 1/2}\n": (
        16, "'keep' must map paths of settings", "write keep"),
}  # fmt: skip


@pytest.mark.parametrize("matrix", WRONG)
def test_a_mistake_is_told_with_its_line_and_a_fix(make: Make, matrix: str) -> None:
    line, what, fix = WRONG[matrix]
    error = error_of(make(matrix))
    assert what in error.what
    assert fix in (error.fix or "")
    assert f"recipe.yaml:{line}:" in (error.where or ""), error.where


PRESET = "  preset: {cheap: {train.sft.rate: 5e-4}, full: {train.sft.lora.r: 64}}\n"
OVERLAPS = {
    f"  train.sft.rate: [1e-4, 2e-4]\n{PRESET}": (16, "train.sft.rate", "train.sft.rate", "preset"),
    f"{PRESET}  train.sft.lora: {{a: {{r: 4}}}}\n": (
        16, "train.sft.lora.r", "preset", "train.sft.lora"),
    "  train.sft.lora: {a: {r: 4}, b: {r: 8}}\n  train.sft.lora.r: [16]\n": (
        16, "train.sft.lora.r", "train.sft.lora", "train.sft.lora.r"),
    "  train.sft.seed: [1, 2]\n  seeds: 2\n": (16, "train.sft.seed", "train.sft.seed", "seeds"),
}  # fmt: skip


@pytest.mark.parametrize("axes", OVERLAPS)
def test_two_axes_that_set_the_same_setting_are_refused(make: Make, axes: str) -> None:
    line, setting, first, second = OVERLAPS[axes]
    error = error_of(make(f"matrix:\n{axes}"))
    assert error.what == f"two axes set {setting}: '{first}' and '{second}'"
    assert f"recipe.yaml:{line}:" in (error.where or "")


RATES = "  preset: {cheap: {train.sft.rate: 5e-4}, full: {train.sft.rate: 6e-4}}\n"


@pytest.mark.parametrize(
    ("axes", "option", "what", "fix"),
    [
        (RATES, "train.sft.rate=9e-4", "train.sft.rate is set by the axis 'preset'",
         "change the values of 'preset'"),
        ("  seeds: [17, 42]\n", "train.sft.seed=5", "train.sft.seed is set by the axis 'seeds'",
         "change the values"),
    ],
)  # fmt: skip
def test_set_of_what_every_value_of_an_axis_sets_is_refused(
    make: Make, axes: str, option: str, what: str, fix: str
) -> None:
    error = error_of(make(f"matrix:\n{axes}"), option)
    assert error.what == f"{what} of the matrix, so setting it has no effect"
    assert error.where == f"--set {option}"
    assert fix in (error.fix or "")


def test_a_huge_product_is_told(make: Make) -> None:
    values = ", ".join(map(str, range(1, 101)))
    error = error_of(
        make(f"matrix: {{train.sft.lora.r: [{values}], train.sft.seed: [{values}]}}\n")
    )
    assert "10,000 variants" in error.what
