"""Running `serve.check` on a model, and what it found, for the tests of servers."""

from pathlib import Path
from typing import Any

from serving import ROWS

from finery import Dataset, Metrics, Model
from finery.testing import dataset, run_step
from finery_eval.steps.exact import Exact
from finery_serve.check.step import Check


def exact() -> Exact:
    """The evaluator inside."""
    return Exact(
        models=[Model.placeholder("models")], rows=Dataset.placeholder("rows"), max_tokens=6
    )


def check(folder: Path, model: Model, rows: Any = ROWS, **settings: Any) -> tuple[Check, Metrics]:
    """Run the step on a model and the rows."""
    step = Check(models=[model], rows=dataset(folder / "rows", rows), max_tokens=6, **settings)
    made = run_step(step, folder / "step")
    assert isinstance(made, Metrics)
    return step, made


def faults(metrics: Metrics) -> dict[str, str]:
    """Kind → what is wrong."""
    (found,) = metrics.report().data()["details"]["faults"].values()
    return {fault["kind"]: fault["what"] for fault in found}
