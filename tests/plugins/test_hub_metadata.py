"""The metadata of a model card, as the hub's library reads it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from finery import Model
from finery_hub.card import facts as f
from finery_hub.card.card import card
from finery_hub.card.metadata import (
    Benchmark,
    Target,
    eval_results,
    front_matter,
    license_fields,
)
from finery_hub.push.files import Placed
from finery_hub.push.gather import _scores

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


def test_a_part_of_a_benchmark_is_called_that() -> None:
    (entry,) = entries(facts(whole=False), recipe=False)
    assert "a part of the rows (200)" in entry.notes
    assert entry.source_url is None


def test_no_leaderboard_without_a_benchmark() -> None:
    assert [*eval_results(facts(), placed(), Target("acme/x"))] == []
    assert entries(facts(origins=("questions", "more"))) == []


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


def test_an_untrained_gguf_is_a_quantisation() -> None:
    known = {name: getattr(facts(), name) for name in f.Facts.__struct_fields__}
    untrained = f.Facts(**{**known, "trainings": []})
    meta = front_matter(untrained, placed("gguf"), Target("acme/x"))
    assert meta["base_model_relation"] == "quantized"


def card_of(made: f.Facts, places: list[Placed]) -> str:
    return card(made, places, [], Target("acme/x", recipe=False))


def test_the_card_loads_no_stacked_adapter_on_the_base_alone() -> None:
    (alone,) = placed()
    assert '"org/base",' in card_of(facts(), [alone])
    under = Model(Path(), meta={"format": "adapter"})
    model = Model(Path(), meta={"format": "adapter"}, refs={"base": under})
    text = card_of(facts(), [alone._replace(artifact=model)])
    assert '"org/base",' not in text
    assert "holds org/base with the first adapter merged into it, which isn't on the hub" in text


def test_a_metric_that_is_no_share_is_no_percentage() -> None:
    scores = [*_scores({"accuracy": 0.5, "margin": 0.35}, {"margin": (-0.1, 0.8)}, ["margin"])]
    made = facts()
    judged = [f.Judged("sft", "a" * 64, scores)]
    made = msgspec.structs.replace(
        made, evaluations=[msgspec.structs.replace(made.evaluations[0], judged=judged)]
    )
    text = card_of(made, placed())
    assert "| accuracy | 50.0\N{NO-BREAK SPACE}% |" in text
    assert "| margin | 0.35 |" in text


def test_a_training_that_diverged_has_no_validation_loss_to_show() -> None:
    meta = {"steps": 3, "eval_loss": None}  # as the store returns NaN
    diverged = f.Training("sft", "trl.sft", "answers", [], [], meta)
    known = {name: getattr(facts(), name) for name in f.Facts.__struct_fields__}
    text = card(f.Facts(**{**known, "trainings": [diverged]}), placed(), [], Target("acme/x"))
    assert "optimizer steps: 3" in text
    assert "validation loss" not in text


@pytest.mark.parametrize(("name", "fields"), [
    ("MIT License", {"license": "mit"}),
    ("Apache License 2.0", {"license": "apache-2.0"}),
    ("CC-BY-4.0", {"license": "cc-by-4.0"}),
    ("Acme v2", {"license": "other", "license_name": "acme-v2", "license_link": "L"}),
])  # fmt: skip
def test_licences(name: str, fields: dict[str, str]) -> None:
    assert license_fields(name, "L") == fields
