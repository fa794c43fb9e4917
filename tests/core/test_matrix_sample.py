"""`sample:` variants drawn by a sampler: from the recipe's seed, before anything is built."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from needs import need

from finery import PluginError
from finery.advanced import Graph, SearchRange
from finery.builder.project import open_graph
from finery.errors import RecipeError
from finery_optuna.samplers import quasi_random, random

need("optuna")

STEPS = Path(__file__).parent.parent / "matrix_steps.py"
RECIPE = """\
finery: 1
name: t
seed: 17
plugins: [./steps.py]
data:
  lines: {use: t.lines, path: few.txt}
  split: {use: t.split, rows: lines}
train:
  sft: {use: t.train, rows: split.train}
evaluate:
  test: {use: t.judge, models: [sft], rows: split.test}
matrix:
  train.sft.rate: {from: 1e-5, to: 1e-3, log: true}
  train.sft.lora.r: [8, 16, 32]
  sample: {use: optuna.qmc, trials: 8}
"""


def graph(folder: Path, old: str = "", new: str = "") -> Graph:
    """The graph of the recipe above, with `old` replaced."""
    assert old in RECIPE
    (folder / "steps.py").write_text(STEPS.read_text("utf-8"), encoding="utf-8")
    (folder / "few.txt").write_text("one\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE.replace(old, new, 1), encoding="utf-8")
    return open_graph(folder / "recipe.yaml")


def variants(drawn: Graph) -> list[str]:
    """The names of the variants."""
    assert drawn.matrix is not None
    return [variant.name for variant in drawn.matrix.variants]


@pytest.mark.parametrize("use", ["optuna.qmc", "optuna.random"])
def test_variants_are_drawn_from_the_recipes_seed(tmp_path: Path, use: str) -> None:
    first = variants(graph(tmp_path, "optuna.qmc", use))
    assert len(first) == 8
    assert first == variants(graph(tmp_path, "optuna.qmc, trials", f"{use}, trials"))
    assert first == variants(graph(tmp_path, "optuna.qmc, trials: 8", f"{use}, trials: 13"))[:8]
    assert first != variants(graph(tmp_path, "optuna.qmc", f"{use}, seed: 18"))
    assert first == variants(graph(tmp_path, "optuna.qmc", f"{use}, seed: 17"))


def test_a_drawn_number_is_a_setting_of_an_ordinary_step(tmp_path: Path) -> None:
    drawn = graph(tmp_path)
    trainings = [n for n in drawn.nodes.values() if n.origin == "sft"]
    assert len(trainings) == 8
    for node in trainings:
        rate = drawn.recipe.data["train"][node.name]["rate"]
        assert 1e-5 <= rate <= 1e-3
        assert f"{rate:.3g}" == f"{rate:.12g}"  # what its name says
        assert drawn.recipe.data["train"][node.name]["lora"]["r"] in (8, 16, 32)
    assert len({n.name for n in drawn.nodes.values() if n.origin == "test"}) == 8


def test_points_that_are_drawn_twice_are_built_once(tmp_path: Path) -> None:
    few = graph(tmp_path, "{from: 1e-5, to: 1e-3, log: true}", "{from: 1, to: 2}")
    assert 1 < len(variants(few)) <= 6


@pytest.mark.parametrize(
    ("old", "new", "line", "what", "fix"),
    [
        ("  sample: {use: optuna.qmc, trials: 8}\n", "", 13, "is a range, which needs `sample`",
         "sample: {use: optuna.qmc"),
        ("optuna.qmc", "optuna.qcm", 15, "unknown sampler 'optuna.qcm'", "'optuna.qmc'"),
        ("from: 1e-5, ", "", 13, "has no `from`", "from: 1e-5"),
        ("from: 1e-5", "from: 0", 13, "must be above 0", "from: 1e-5"),
        ("trials: 8}", "trials: 8}\n  exclude: [{r: 8}]", 15, "can't be combined with `exclude`",
         "remove"),
    ],
)  # fmt: skip
def test_what_can_not_be_drawn_is_an_error_at_its_line(
    tmp_path: Path, old: str, new: str, line: int, what: str, fix: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        graph(tmp_path, old, new)
    assert what in caught.value.what
    assert f"recipe.yaml:{line}:" in str(caught.value.where)
    assert fix in str(caught.value.fix)


BROKEN = """
from finery import hookimpl


def far(space, count, seed):
    return [dict.fromkeys(space, 5.0)]


@hookimpl
def finery_samplers():
    return {"far.away": far}
"""


def test_a_sampler_that_leaves_the_range_is_named(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(STEPS.read_text("utf-8"), encoding="utf-8")
    (tmp_path / "far.py").write_text(BROKEN, encoding="utf-8")
    text = RECIPE.replace("[./steps.py]", "[./steps.py, ./far.py]")
    (tmp_path / "recipe.yaml").write_text(text.replace("optuna.qmc", "far.away"), encoding="utf-8")
    with pytest.raises(PluginError, match=r"'far\.away' drew 5\.0 for rate"):
        open_graph(tmp_path / "recipe.yaml")


numbers = st.floats(1e-6, 1e3, allow_subnormal=False)
ranges = st.one_of(
    st.tuples(numbers, numbers, st.booleans())
    .filter(lambda ends: ends[0] < ends[1])
    .map(lambda ends: SearchRange(ends[0], ends[1], False, ends[2])),
    st.tuples(st.integers(1, 50), st.integers(51, 999), st.booleans()).map(
        lambda ends: SearchRange(ends[0], ends[1], True, ends[2])
    ),
    st.integers(1, 9),
)


@given(space=st.dictionaries(st.sampled_from("abc"), ranges, min_size=1), seed=st.integers(0, 99))
def test_points_are_inside_and_repeatable(
    space: Mapping[str, SearchRange | int], seed: int
) -> None:
    for draw in (quasi_random, random):
        points = draw(space, 5, seed)
        assert points == draw(space, 5, seed)
        assert len(points) == 5
        for point in points:
            for axis, of in space.items():
                low, high = (of.low, of.high) if isinstance(of, SearchRange) else (0, of - 1)
                assert low <= point[axis] <= high
