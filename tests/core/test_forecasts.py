"""Rows counted and sampled before anything is built, by what step types declare."""

from pathlib import Path
from typing import Any

from finery import Artifact, Dataset, Forecast
from finery.advanced import Graph, Results
from finery.builder.project import open_graph
from finery.plugin.forecasts import Forecasts

PLUGIN = '''
from finery import Count, Dataset, Files, Forecast, Job, Step, hookimpl, setting, takes


class Orders(Step):
    """Orders from a file."""

    path: Files = setting(help="The file.")

    def forecast(self, inputs):
        words = [word for path in self.path.paths for word in path.read_text().split()]
        return Forecast(
            rows=Count(len(words)), sample=lambda: ({"text": word} for word in words)
        )

    def run(self, job: Job) -> Dataset:
        """Never run here."""
        raise NotImplementedError


class Twice(Step):
    """All rows, twice."""

    rows: list[Dataset] = takes(help="Rows.")

    def forecast(self, inputs):
        def twice():
            count = inputs.count("rows")
            return count and count._replace(rows=2 * count.rows)

        return Forecast(rows=twice, passes=["rows"])

    def run(self, job: Job) -> Dataset:
        """Never run here."""
        raise NotImplementedError


class Opaque(Step):
    """Says nothing of its rows."""

    rows: Dataset = takes(help="Rows.")

    def run(self, job: Job) -> Dataset:
        """Never run here."""
        raise NotImplementedError


@hookimpl
def finery_steps():
    return {"shop.orders": Orders, "shop.twice": Twice, "shop.opaque": Opaque}
'''
RECIPE = """\
finery: 1
plugins: [shop.py]
data:
  orders: {use: shop.orders, path: orders.txt}
  more: {use: shop.orders, path: more.txt}
  twice: {use: shop.twice, rows: [orders, more]}
  split: {use: data.split, rows: twice}
  opaque: {use: shop.opaque, rows: split.test}
  last: {use: shop.twice, rows: [opaque]}
"""


class Built(Results):
    """Results of a build that was never made: step → artifact."""

    def __init__(self, **artifacts: Artifact) -> None:
        super().__init__()
        self._made = artifacts

    def artifact(self, step: str, output: str = "") -> Artifact | None:
        """The artifact."""
        return self._made.get(step)

    def meta(self, step: str, output: str = "") -> dict[str, Any] | None:
        """Its facts."""
        artifact = self.artifact(step, output)
        return artifact.meta if artifact else None


def shop(folder: Path) -> Graph:
    """The graph of the recipe above: three orders, and two more."""
    (folder / "shop.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "orders.txt").write_text("one two three", encoding="utf-8")
    (folder / "more.txt").write_text("four five", encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return open_graph(folder / "recipe.yaml")


def count(graph: Graph, step: str, results: Results | None = None) -> str:
    """The count of what a step takes, in words."""
    return str(Forecasts(graph, (results or Results())).count(graph.nodes[step].sources[0]))


def test_rows_are_counted_along_the_graph(tmp_path: Path) -> None:
    graph = shop(tmp_path)
    assert count(graph, "twice") == "3 rows"
    assert count(graph, "split") == "10 rows"
    assert count(graph, "opaque") == "about 2 rows"


def test_an_artifact_counts_more_than_a_forecast(tmp_path: Path) -> None:
    graph = shop(tmp_path)
    rows = Dataset.write(tmp_path / "built", [{"text": str(i)} for i in range(7)])
    assert count(graph, "twice", Built(orders=rows)) == "7 rows"
    assert count(graph, "split", Built(orders=rows)) == "18 rows"
    assert count(graph, "last", Built(opaque=rows)) == "7 rows"


def test_rows_are_sampled_through_steps_that_pass_them_on(tmp_path: Path) -> None:
    graph = shop(tmp_path)
    source = graph.nodes["opaque"].sources[0]
    rows = Forecasts(graph, Results()).sample(source, limit=4)
    assert rows is not None
    assert [row["text"] for row in rows] == ["one", "two", "three", "four"]
    assert Forecasts(graph, Results()).sample(graph.nodes["last"].sources[0], limit=4) is None


def test_a_missing_file_leaves_the_rows_unknown(tmp_path: Path) -> None:
    """`finery check` reports the file; a note on another step must not fail for it."""
    graph = shop(tmp_path)
    (tmp_path / "orders.txt").unlink()
    assert Forecasts(graph).forecast(graph.nodes["orders"]) == Forecast()
    assert count(graph, "split") == "None"
