"""Notes on recipes with documents: given where they should be, and nowhere else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from asking import ROOMS, question_row

from finery import Artifact, Dataset, Model, Note
from finery.builder.checks import notes_on
from finery.builder.project import open_graph
from finery.plugin.history import Results

GOOD = """\
finery: 1
models:
  base: {use: local.model, path: models/base}
  teacher: {use: openai.model, model: m, api_key: null}
data:
  chunks: {use: docs.files, path: docs}
  index: {use: retrieve.index, rows: chunks, tokenizer: base}
  split: {use: data.split, rows: questions, group: source}
generate:
  questions: {use: synth.from_docs, rows: chunks, model: teacher, context: without}
  raft: {use: synth.raft, rows: split.train, index: index}
train:
  sft: {use: trl.sft, model: base, rows: raft}
evaluate:
  grounded: {use: eval.grounded, models: [base, sft], rows: split.test, index: index}
  retrieval: {use: eval.retrieval, indices: [index], rows: split.test}
"""
OWN = (
    "different-prompts",
    "shared-documents",
    "knowledge-by-heart",
    "random-distractors",
    "train-test-overlap",
    "retrieved-twice",
    "other-tokenizer",
)


def notes(folder: Path, recipe: str, results: Results | None = None) -> list[Note]:
    """The notes of this plugin on a recipe, and those on overlaps."""
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    for file in ("docs/a.md", "models/base/config.json", "q.jsonl"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("{}\n", encoding="utf-8")
    graph = open_graph(folder / "recipe.yaml")
    return [note for note in notes_on(graph, results) if note.name in OWN]


def edited(*edits: tuple[str, str]) -> str:
    recipe = GOOD
    for old, new in edits:
        assert old in recipe
        recipe = recipe.replace(old, new)
    return recipe


def test_a_recipe_that_splits_by_document_gets_no_note(tmp_path: Path) -> None:
    assert notes(tmp_path, GOOD) == []


def test_a_split_that_parts_documents_is_noted(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, edited((", group: source", "")))
    assert note.name == "shared-documents"
    assert note.fix == "write group: source in split"
    assert note.place == ("evaluate", "grounded", "rows")
    assert "sft is trained on raft, and grounded tests split.test" in note.text


def test_questions_of_the_same_chunks_are_noted(tmp_path: Path) -> None:
    more = "  others: {use: synth.from_docs, rows: chunks, model: teacher, context: without, n: 1}"
    recipe = edited(("rows: split.test, index", "rows: others, index"),
                    ("  raft:", f"{more}\n  raft:"))  # fmt: skip
    (note,) = notes(tmp_path, recipe)
    assert (note.name, note.fix) == (
        "shared-documents", "split the chunks first: data.split with group: source",
    )  # fmt: skip


class Built(Results):
    """Results of a build in which these outputs are built, by their names in the recipe."""

    def __init__(self, rows: Mapping[str, Artifact | None]) -> None:
        super().__init__()
        self._rows = rows

    def artifact(self, step: str, output: str = "") -> Artifact | None:
        """The rows of an output."""
        return self._rows.get(f"{step}.{output}".rstrip("."))

    def meta(self, step: str, output: str = "") -> dict[str, Any] | None:
        """The facts about an output."""
        artifact = self.artifact(step, output)
        return artifact.meta if artifact is not None else None


def built(folder: Path, trained: range, tested: range) -> Results:
    """Rows about these rooms."""
    train = Dataset.write(folder / "train", [question_row(room) for room in trained])
    test = Dataset.write(folder / "test", [question_row(room) for room in tested])
    return Built({"raft": train, "split.test": test})


@pytest.mark.parametrize(("tested", "text"), [
    (range(16, 20), "of the 4 documents that grounded asks about, "
     "sft is trained on questions about 2"),
    (range(18, 20), None),
])  # fmt: skip
def test_built_rows_say_which_documents_are_shared(
    tmp_path: Path, tested: range, text: str | None
) -> None:
    """Whatever the split is by: rows may have been split elsewhere."""
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
    results = built(tmp_path, ROOMS, tested)
    texts = [note.text for note in notes(tmp_path, edited((", group: source", "")), results)]
    assert texts == ([text] if text else [])


def test_facts_that_are_learned_without_an_index_are_noted(tmp_path: Path) -> None:
    lines = [line for line in GOOD.splitlines() if "index" not in line]
    test = "  test: {use: eval.exact, models: [base, sft], rows: split.test}"
    recipe = "\n".join([*lines, test]).replace("rows: raft", "rows: split.train")
    (note,) = notes(tmp_path, recipe)
    assert note.name == "knowledge-by-heart"
    assert note.text == (
        "sft learns the facts of questions by heart, and test tests it without documents"
    )
    assert notes(tmp_path, recipe.replace("context: without", "context: both")) == []


RAG = "  rag: {use: retrieve.model, model: sft, index: index}\n"


def with_rag(*edits: tuple[str, str]) -> str:
    """The recipe with a model that retrieves, and an export of it."""
    bundle = "export:\n  app: {use: retrieve.bundle, model: rag, name: app, needs: [grounded]}\n"
    recipe = edited(("data:\n", f"{RAG}data:\n")) + bundle
    for old, new in edits:
        assert old in recipe
        recipe = recipe.replace(old, new)
    return recipe


@pytest.mark.parametrize(("edits", "texts"), [
    ([], []),
    ([("sft, index: index}", "sft, index: index, k: 8}")],
     ["rag has k: 8, but raft, whose rows train the model, has k: 4",
      "rag has k: 8, but grounded, which measures the model, has k: 4"]),
    ([("rows: split.test, index: index}", "rows: split.test, index: index, limit: 900}")],
     ["rag has no limit, but grounded, which measures the model, has limit: 900",
      "grounded has limit: 900, but raft, whose rows train the model, has no limit"]),
    # a model without the training that another step measures
    ([("model: sft, index: index}", "model: teacher, index: index, k: 8}")],
     ["rag has k: 8, but grounded, which app needs, has k: 4"]),
])  # fmt: skip
def test_prompts_that_differ_are_noted(
    tmp_path: Path, edits: list[tuple[str, str]], texts: list[str]
) -> None:
    every = notes(tmp_path, with_rag(*edits))
    assert sorted(note.text for note in every) == sorted(texts)
    assert {note.name for note in every} <= {"different-prompts"}


def with_other_tokenizer(*edits: tuple[str, str]) -> str:
    """The recipe with a model that retrieves, a limit, and the tokenizer of another base."""
    return with_rag(
        ("  teacher:", "  other: {use: local.model, path: models/base}\n  teacher:"),
        ("tokenizer: base", "tokenizer: other"),
        *edits,
    )


LIMITED = [
    ("split.train, index: index}", "split.train, index: index, limit: 300}"),
    ("rows: split.test, index: index}", "rows: split.test, index: index, limit: 300}"),
    ("model: sft, index: index}", "model: sft, index: index, limit: 300}"),
]


def bases(folder: Path, *metas: dict[str, Any]) -> Results:
    """The two bases, built."""
    models = [Model(folder, meta=meta) for meta in metas]
    return Built(dict(zip(("base", "other"), models, strict=True)))


def folder_of(digest: str) -> dict[str, Any]:
    """What is known of a folder with a tokenizer."""
    return {"format": "transformers", "files": {"tokenizer.json": {"blake3": digest, "size": 1}}}


def test_a_limit_that_another_tokenizer_counts_is_noted(tmp_path: Path) -> None:
    results = bases(tmp_path, folder_of("a"), folder_of("b"))
    every = notes(tmp_path, with_other_tokenizer(*LIMITED), results)
    assert {note.step: note.text for note in every} == {
        name: f"the limit of {name} counts tokens of other, but its prompts are for {model}"
        for name, model in {"raft": "sft", "grounded": "base", "rag": "sft"}.items()
    }
    assert {note.name for note in every} == {"other-tokenizer"}
    assert {note.fix for note in every} == {"write tokenizer: base in index"}
    assert {note.place[2] for note in every} == {"limit"}
    assert notes(tmp_path, with_rag(*LIMITED), results) == []
    assert notes(tmp_path, with_other_tokenizer(), results) == []
