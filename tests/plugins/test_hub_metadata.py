"""The metadata of a model card, as the hub's library reads it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from finery import Model
from finery_hub.card import facts as f
from finery_hub.card.metadata import Benchmark, Target, eval_results, front_matter
from finery_hub.push.files import Placed

hub = pytest.importorskip("huggingface_hub", reason="needs the package huggingface-hub")

COMMIT = "2" * 40
BENCH = {"test": Benchmark("org/bench", "default")}


def facts(*, whole: bool = True, origins: tuple[str, ...] = ("questions",)) -> f.Facts:
    """An adapter that was judged on a data set of the hub."""
    rows = f.Rows("questions", 200, "d" * 64)
    score = f.Score("accuracy", 0.5, 0.43, 0.57)
    judged = [f.Judged("base", "b" * 64, [score]), f.Judged("sft", "a" * 64, [score])]
    origin = f.Origin(
        "questions", "hub.dataset", "org/bench", rows, ["evaluation"], "org/bench", COMMIT,
        "main", "test",
    )  # fmt: skip
    base = f.Base("base", "hub.model", "org/base", "org/base", "1" * 40, license="Apache-2.0")
    return f.Facts(
        step="push",
        recipe=f.Recipe("bench", "recipe.yaml", ""),
        lock=f.Lock("recipe.lock"),
        bases={"sft": [base]},
        trainings=[f.Training("sft", "trl.sft", "answers", [], [], {})],
        origins=[origin],
        generated=[],
        dropped=[],
        evaluations=[
            f.Evaluation(
                "test", "eval.exact", rows, list(origins), judged, temperature=0.0, whole=whole
            )
        ],
        apart=[],
    )


def placed(form: str = "adapter") -> list[Placed]:
    model = Model(Path(), meta={"format": form})
    model.digest = "a" * 64
    return [Placed("sft", model, "", [])]


def entries(made: f.Facts, **settings: Any) -> list[Any]:
    """What the hub's library reads from the files for leaderboards."""
    target = Target("acme/x", benchmarks=BENCH, **settings)
    return [
        entry
        for _, content in eval_results(made, placed(), target)
        for entry in hub.parse_eval_result_entries(content)
    ]


def test_a_score_for_a_leaderboard() -> None:
    (entry,) = entries(facts())
    assert (entry.dataset_id, entry.task_id, entry.value) == ("org/bench", "default", 0.5)
    assert entry.dataset_revision == COMMIT
    assert entry.source_url == "https://huggingface.co/acme/x/blob/main/recipe.yaml"
    assert entry.notes == (
        "accuracy of sft, all rows (200), 95 % interval 0.430 to 0.570, temperature 0"
    )
    files = [name for name, _ in eval_results(facts(), placed(), Target("a/x", benchmarks=BENCH))]
    assert files == [".eval_results/test.yaml"]


def test_evaluations_on_the_same_rows_stay_apart() -> None:
    again = msgspec.structs.replace(facts().evaluations[0], step="again")
    twice = msgspec.structs.replace(facts(), evaluations=[*facts().evaluations, again])
    ((index,),) = [front_matter(twice, placed(), Target("acme/x"))["model-index"]]
    assert [result["task"]["name"] for result in index["results"]] == ["test", "again"]


def test_scores_on_a_data_set_of_the_hub() -> None:
    data = hub.ModelCardData(**front_matter(facts(), placed(), Target("acme/x")))
    (result,) = data.eval_results
    assert (result.dataset_type, result.dataset_name) == ("org/bench", "org/bench")
    assert (result.dataset_config, result.dataset_split) == ("main", "test")
    assert result.dataset_revision == COMMIT
    assert result.metric_args == {"rows": 200, "confidence_level": 0.95, "interval": [0.43, 0.57]}


@pytest.mark.parametrize(("form", "merged", "relation", "library"), [
    ("adapter", False, "adapter", "peft"),
    ("adapter", True, "finetune", "transformers"),
    ("transformers", False, "finetune", "transformers"),
    ("gguf", False, "finetune", None),
])  # fmt: skip
def test_relation_and_library(form: str, merged: bool, relation: str, library: str | None) -> None:
    meta = front_matter(facts(), placed(form), Target("acme/x", merged=merged))
    assert (meta["base_model_relation"], meta.get("library_name")) == (relation, library)
    assert meta["license"] == "apache-2.0"
