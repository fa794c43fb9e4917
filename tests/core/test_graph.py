"""The graph of a recipe: order, references, seeds."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import LIGHT_STEPS
from hypothesis import given
from hypothesis import strategies as st

from finery import UsageError
from finery.errors import RecipeError
from finery.plugin.manager import load_plugins
from finery.recipe.document import load
from finery.recipe.graph import Graph, build_graph
from finery.recipe.schema import derived_seed
from finery.recipe.validate import RecipeErrors

Edges = dict[str, list[str]]
"""Step → the steps it waits for."""
Make = Callable[[str], Graph]


@pytest.fixture(scope="module")
def graph_of(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make the graph of a recipe, given by its text."""
    folder = tmp_path_factory.mktemp("graphs")
    (folder / "steps.py").write_text(LIGHT_STEPS.read_text())

    def make(text: str) -> Graph:
        (folder / "recipe.yaml").write_text(f"finery: 1\nplugins: [steps.py]\n{text}")
        return build_graph(load(folder / "recipe.yaml"), load_plugins((folder / "steps.py",)))

    return make


@st.composite
def dags(draw: st.DrawFn) -> Edges:
    """A random acyclic graph, its steps in random order."""
    count = draw(st.integers(1, 12))
    pairs = [(n, m) for n in range(count) for m in range(n)]
    chosen = draw(st.sets(st.sampled_from(pairs))) if pairs else set()
    edges = {f"s{n}": [f"s{m}" for m in range(n) if (n, m) in chosen] for n in range(count)}
    return {name: edges[name] for name in draw(st.permutations(sorted(edges)))}


def recipe(edges: Edges, needs: bool = False) -> str:
    """The recipe of a graph, whose edges are inputs or `needs`."""
    key = "needs" if needs else "rows"
    steps = {n: {"use": "steps.script", **({key: b} if b else {})} for n, b in edges.items()}
    return f"data: {json.dumps(steps)}\n"


@given(edges=dags(), needs=st.booleans())
def test_each_step_comes_after_those_it_waits_for(
    graph_of: Make, edges: Edges, needs: bool
) -> None:
    nodes = graph_of(recipe(edges, needs)).nodes
    order = list(nodes)
    assert sorted(order) == sorted(edges)
    for name, before in edges.items():
        assert nodes[name].upstream() == before
        assert all(order.index(b) < order.index(name) for b in before)


@given(edges=dags(), data=st.data())
def test_a_circle_is_always_found_and_is_one(
    graph_of: Make, edges: Edges, data: st.DataObject
) -> None:
    last = data.draw(st.sampled_from(sorted(edges)))
    first = data.draw(st.sampled_from(sorted(above(edges, last))))
    edges = {**edges, first: [*edges[first], last]}
    with pytest.raises(RecipeError) as caught:
        graph_of(recipe(edges))
    trail = caught.value.what.partition(": ")[2].split(" → ")
    assert trail[0] == trail[-1]
    assert all(after in edges[name] for name, after in pairwise(trail))


def above(edges: Edges, name: str) -> set[str]:
    """The step and all that it waits for."""
    return {name}.union(*(above(edges, before) for before in edges[name]))


@given(edges=dags(), data=st.data())
def test_selecting_takes_what_is_needed_and_no_more(
    graph_of: Make, edges: Edges, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(edges)), min_size=1))
    chosen = graph_of(recipe(edges)).select(names).nodes
    assert set(chosen) == set().union(*(above(edges, name) for name in names))


def test_a_long_chain_is_no_recursion(graph_of: Make) -> None:
    edges = {f"s{n}": [f"s{n + 1}"] if n < 1200 else [] for n in range(1201)}
    assert next(iter(graph_of(recipe(edges)).nodes)) == "s1200"


def test_steps_that_wait_for_nothing_keep_the_order_of_the_recipe(graph_of: Make) -> None:
    assert list(graph_of(recipe({"c": [], "a": [], "b": []})).nodes) == ["c", "a", "b"]


def test_sources_say_which_output_feeds_which_place(graph_of: Make) -> None:
    graph = graph_of("""\
data:
  a: {use: steps.script}
  h: {use: steps.halve, rows: a}
  c: {use: steps.copy, rows: [h.second, a, h.first]}
""")
    found = [(s.field, s.index, s.step, s.output) for s in graph.nodes["c"].sources]
    assert found == [("rows", 0, "h", "second"), ("rows", 1, "a", ""), ("rows", 2, "h", "first")]
    assert graph.nodes["c"].upstream() == ["h", "a"]


def test_all_wrong_references_are_told_at_once(graph_of: Make) -> None:
    with pytest.raises(RecipeErrors) as caught:
        graph_of(recipe({"a": ["x"], "b": ["a", "y"]}))
    assert [e.what for e in caught.value.errors] == ["there is no step 'x'", "there is no step 'y'"]


def test_selecting_an_unknown_step_suggests_one(graph_of: Make) -> None:
    with pytest.raises(UsageError) as caught:
        graph_of(recipe({"tests": []})).select(["test"])
    assert caught.value.fix == "did you mean 'tests'?"


def test_seeds_derive_from_recipe_and_step_type_unless_given(graph_of: Make) -> None:
    nodes = graph_of("seed: 7\n" + recipe({"a": [], "b": []})).nodes
    assert nodes["a"].seed == nodes["b"].seed == derived_seed(7, "steps.script")
    assert graph_of("data: {a: {use: steps.script, seed: 3}}\n").nodes["a"].seed == 3
    assert graph_of(recipe({"a": []})).nodes["a"].seed == derived_seed(0, "steps.script")


def test_a_derived_seed_never_changes() -> None:
    assert derived_seed(17, "trl.sft") == 972171904


@given(seed=st.integers(0, 2**31 - 1), use=st.text(min_size=1))
def test_a_derived_seed_fits_everywhere(seed: int, use: str) -> None:
    assert 0 <= derived_seed(seed, use) < 2**31


def test_a_recipe_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipe.yaml").write_text("finery: 1\ndata: {a: {use: data.file, path: x}}\n")
    monkeypatch.chdir(tmp_path)
    assert list(build_graph(load(Path("recipe.yaml")), load_plugins()).nodes) == ["a"]
