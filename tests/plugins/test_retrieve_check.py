"""`retrieve.check` with the real app and server: what is right passes, each fault is named."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from answering import CHUNKS, bundled, indexed, retrieving
from llama_server import needs_llama_server
from needs import need
from serving import gguf_model

from finery import Bundle, Index, Metrics, Model, RequirementError
from finery.rows import Row, with_id
from finery.testing import dataset, run_step
from finery_retrieve.evaluate.grounded import Grounded
from finery_retrieve.serve.check import RetrieveCheck

pytestmark = needs_llama_server
need("bm25s")
QUESTIONS = [
    ("Which files are read?", "Files up to 50 MB", 0),
    ("How is a password reset?", "Press Reset in Settings", 1),
    ("How many members has a team on the Pro plan?", "25", 2),
]
TOKENS = 6


def question(text: str, answer: str, chunk: int) -> Row:
    """A question about a chunk."""
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return with_id({"messages": turns, "parents": [with_id(dict(CHUNKS[chunk]))["id"]]})


ROWS = [question(*each) for each in QUESTIONS]


def rag(folder: Path, under: Model, index: Index, **settings: Any) -> Model:
    """A model that retrieves, as a recipe names it."""
    model = retrieving(folder, under, index, **settings)
    model.ref = "rag"
    return model


def parts(model: Model) -> tuple[Model, Index]:
    """What a model that retrieves consists of."""
    under, index = model.refs["model"], model.refs["index"]
    assert isinstance(under, Model)
    assert isinstance(index, Index)
    return under, index


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Bundle]:
    """A model that retrieves, over a tiny GGUF, and its bundle."""
    folder = tmp_path_factory.mktemp("shipped")
    model = rag(folder / "rag", gguf_model(folder / "tiny"), indexed(folder))
    return model, bundled(folder / "bundle", model, slots=1, context=2048)


def checked(
    folder: Path, model: Model, bundle: Bundle, **settings: Any
) -> tuple[RetrieveCheck, Metrics]:
    """Run the step."""
    step = RetrieveCheck(
        models=[model], bundle=bundle, rows=dataset(folder / "rows", ROWS), max_tokens=TOKENS,
        **settings,
    )  # fmt: skip
    metrics = run_step(step, folder / "step")
    assert isinstance(metrics, Metrics)
    return step, metrics


def faults(metrics: Metrics) -> dict[str, Any]:
    """Kind → the fault."""
    (found,) = metrics.report().data()["details"]["faults"].values()
    return {fault["kind"]: fault for fault in found}


def changed(bundle: Bundle, folder: Path, name: str, old: str, new: str) -> Bundle:
    """A copy of a bundle in which a file has another text."""
    shutil.copytree(bundle.path, folder)
    file = folder / name
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")
    return Bundle(folder, meta=bundle.meta)


def test_an_app_without_a_fault(tmp_path: Path, shipped: tuple[Model, Bundle]) -> None:
    model, bundle = shipped
    step, metrics = checked(tmp_path, model, bundle)
    report = metrics.report().data()
    assert not faults(metrics)
    scores = report["scores"]
    assert (scores["rag"]["sources"], scores["rag"]["prompts"]) == (1.0, 1.0)
    tables = {table["title"]: table["rows"] for table in report["details"]["tables"]}
    assert scores["rag"]["answers"] == 1.0, tables
    assert scores["rag"]["lost"] == 0.0
    assert "Compared with rag in finery" in tables
    assert len(list(metrics.predictions())) == 2 * len(ROWS)
    step.verify({"": metrics})


def test_the_scores_are_those_of_eval_grounded(
    tmp_path: Path, shipped: tuple[Model, Bundle]
) -> None:
    model, bundle = shipped
    _, metrics = checked(tmp_path, model, bundle)
    under, index = parts(model)
    grounded = Grounded(
        models=[under], index=index, rows=dataset(tmp_path / "more", ROWS), k=3,
        contexts=["retrieved"], max_tokens=TOKENS,
    )  # fmt: skip
    expected = run_step(grounded, tmp_path / "grounded").report().data()
    (scores,) = expected["scores"].values()
    report = metrics.report().data()
    assert report["scores"]["rag in finery"] == scores
    (intervals,) = expected["intervals"].values()
    assert report["intervals"]["rag in finery"] == intervals


def test_a_bundle_of_another_model_has_other_sources(
    tmp_path: Path, shipped: tuple[Model, Bundle]
) -> None:
    model, bundle = shipped
    other = rag(tmp_path / "rag", *parts(model), k=1)
    step, metrics = checked(tmp_path, other, bundle)
    assert faults(metrics).keys() == {"sources", "prompts"}
    assert "1 of 3 questions have other sources" in faults(metrics)["sources"]["what"]
    assert metrics.report().data()["scores"]["rag"]["sources"] == pytest.approx(2 / 3)
    with pytest.raises(RequirementError, match="doesn't answer as the model in the recipe") as bad:
        step.verify({"": metrics})
    assert any(line.startswith("  built: ") for line in bad.value.details)
    step.allow = ["sources", "prompts"]
    step.verify({"": metrics})


def test_a_changed_prompt_is_found(tmp_path: Path, shipped: tuple[Model, Bundle]) -> None:
    model, bundle = shipped
    wrong = changed(bundle, tmp_path / "changed", "prompt.jinja", "Question:", "My question:")
    _, metrics = checked(tmp_path, model, wrong)
    (fault,) = faults(metrics).values()
    assert fault["kind"] == "prompts"
    assert any(line.startswith("served:") and ">>>'My" in line for line in fault["details"])
    assert metrics.report().data()["scores"]["rag"]["sources"] == 1.0


def test_another_chat_template_is_found(tmp_path: Path, shipped: tuple[Model, Bundle]) -> None:
    model, bundle = shipped
    wrong = changed(
        bundle, tmp_path / "changed", "settings.json", '"parameters"',
        '"chat_template": "other.jinja", "parameters"',
    )  # fmt: skip
    other = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    wrong.file("other.jinja").write_text(other, "utf-8")
    _, metrics = checked(tmp_path, model, wrong)
    assert faults(metrics).keys() == {"template"}
    assert metrics.report().data()["scores"]["rag"]["prompts"] == 0.0
