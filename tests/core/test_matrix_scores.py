"""The scores of a matrix's variants: which models count, in which order, and from which build."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from in_process import InProcess, build

from finery.builder.project import open_graph, open_store
from finery.builder.scheduler import Build
from finery.compare.variants import Line, columns_of, lines_of, remarks_on

STEPS = Path(__file__).parents[1] / "matrix_steps.py"
FILES = {"rows.txt": 30, "held.txt": 30}
RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
models:
  base: {use: t.base, quality: 0.1}
data:
  lines: {use: t.lines, path: rows.txt}
  held: {use: t.lines, path: held.txt}
train:
  sft: {use: t.train, model: base, rows: lines}
evaluate:
  test: {use: t.judge, models: [base, sft], rows: held}
export:
  ship: {use: t.ship, model: sft}
"""
Make = Callable[[str], Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a recipe with a matrix, and its files."""
    (tmp_path / ".git").mkdir()
    shutil.copy(STEPS, tmp_path / "steps.py")
    for name, count in FILES.items():
        (tmp_path / name).write_text("".join(f"{name} {n}\n" for n in range(count)))

    def write(matrix: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE + matrix)
        return path

    return write


def lines(made: Build) -> Sequence[Line]:
    """The lines of the table at the end of a build."""
    return lines_of(made.graph, made.store, made.outcome.results, {})


# -- models without repeats ------------------------------------------------------------------------


def test_a_model_that_no_seed_reaches_counts_once(make: Make) -> None:
    # The better base model is trained to the worse one, since its learning rate is lower.
    made = build(
        make("""\
matrix:
  base:
    weak: {models.base.quality: 0.1, train.sft.rate: 0.003}
    strong: {models.base.quality: 0.2, train.sft.rate: 0.001}
  seeds: 3
""")
    )
    table = lines(made)
    assert [line.axes for line in table] == [{"base": "weak"}, {"base": "strong"}]
    assert columns_of(table) == ["test.sft.accuracy", "test.base.accuracy"]
    for line in table:
        tuned, base = (line.scores[name] for name in columns_of(table))
        assert len(tuned.values) == 3
        assert tuned.interval != tuned.rows_interval
        assert len(base.values) == 1
        assert base.interval == base.rows_interval == (0.0, 1.0)
        assert "seeds" not in base.data()
    seeds, rows = remarks_on(table)
    assert "over seeds" in seeds
    assert "the choice of rows only" in rows


def test_an_evaluator_that_no_seed_reaches_counts_once(make: Make) -> None:
    path = make("matrix: {models.base.quality: [0.1, 0.2], seeds: 3}\n")
    path.write_text(path.read_text().replace("models: [base, sft]", "models: [base]"))
    made = build(path)
    assert [line.scores["test.base.accuracy"].values for line in lines(made)] == [
        [pytest.approx(4 / 30)], [pytest.approx(2 / 30)],
    ]  # fmt: skip


# -- the table of a run --------------------------------------------------------------------------

SELECTED = """\
matrix:
  train.sft.rate: [1e-4, 2e-4, 4e-4, 8e-4]
  select: {by: test.sft.accuracy, on: lines}
"""


def test_a_build_of_some_steps_shows_all_variants(make: Make) -> None:
    path = make(SELECTED)
    whole = lines(build(path))
    assert whole[0].chosen
    for step in ("ship", "sft"):
        graph = open_graph(path).select([step])
        part = Build(graph, open_store(path), InProcess())
        part.run()
        assert lines(part) == whole
