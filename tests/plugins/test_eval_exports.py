"""Exported files in an evaluation: compared with what they were exported from."""

from pathlib import Path
from typing import Any

import pytest
import tables
from showing import shown

from finery import Metrics, Model
from finery.artifact.manifest import manifest
from finery.testing import TestJob
from finery.views import Detail, Output
from finery_eval.steps.exact import Exact
from finery_eval.view.metrics import MetricsView

pytestmark = pytest.mark.usefixtures("tables_answer")
ROWS = {f"question {i}": f"answer {i}" for i in range(40)}


def model(name: str, right: int, **meta: Any) -> Model:
    """A model with right answers to the first questions."""
    answers = {q: a if i < right else "" for i, (q, a) in enumerate(ROWS.items())}
    made = tables.model(name, **answers)
    made.meta |= meta
    return made


def trained() -> Model:
    made = model("sft", 38)
    made.digest = "d1"
    return made


def exported(name: str, right: int) -> Model:
    made = model(f"gguf.{name}", right, file=f"model-{name}.gguf", size=95 * 2**20,
                 exported_from="d1")  # fmt: skip
    made.runtime = {"tokens_per_second": 81.5}
    return made


def judged(folder: Path, *models: Model, use: Any = Exact, **settings: Any) -> Output:
    step = use(models=list(models), rows=tables.rows(folder, **ROWS), **settings)
    metrics = step.run(TestJob(folder / "job"))
    assert isinstance(metrics, Metrics)
    return Output("exported", metrics, manifest("Metrics", metrics.meta, {}))


def test_each_file_is_compared_with_the_model_it_was_exported_from(tmp_path: Path) -> None:
    models = [model("base", 2), trained(), exported("q8_0", 37), exported("q4_k_m", 20)]
    output = judged(tmp_path, *models)
    text = shown(output, rows=0)
    [q8, q4] = [line.split() for line in text.splitlines() if " MiB " in line]
    assert q8[:8] == ["gguf.q8_0", "95.0", "MiB", "82", "92.5", "%", "sft", "-2.5"]
    assert q4[:8] == ["gguf.q4_k_m", "95.0", "MiB", "82", "50.0", "%", "sft", "-45.0"]
    assert "gguf.q4_k_m is significantly worse than sft: -45.0 points (95 % CI -" in text
    [remark] = MetricsView().remarks(output)
    assert remark.severity == "warning"
    assert remark.text.startswith("gguf.q4_k_m is significantly worse than sft")
    data = MetricsView().data(output, Detail())
    assert data["tokens_per_second"] == {"gguf.q8_0": 81.5, "gguf.q4_k_m": 81.5}
    assert [e["baseline"] for e in data["metrics"]["details"]["exports"]] == ["sft", "sft"]
