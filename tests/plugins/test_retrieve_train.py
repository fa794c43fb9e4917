"""embed.train, rerank.train and retrieve.rerank: what they learn, and that resuming is exact."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import chunk_rows, index_of, question_row, unanswerable_row
from embedding import tiny_bert
from needs import need
from warm import TORCH

from finery import DataError, Files, Index, Model, StepError, UsageError
from finery.rows import Row
from finery.testing import TestJob, dataset, run_step
from finery_retrieve.embed.cached import CachedEmbedder
from finery_retrieve.embed.engines import Reranker
from finery_retrieve.embed.steps import RetrieveEmbedder
from finery_retrieve.index.retriever import EMBEDDINGS_FILE, Retriever
from finery_retrieve.steps.index import RetrieveIndex, RetrieveRerank
from finery_retrieve.train.examples import read_examples
from finery_retrieve.train.steps import EmbedTrain, RerankTrain, RetrieverTraining

need("sentence_transformers")
IMPORTS = (*TORCH, "sentence_transformers")

WORDS = ("where", "is", "my", "card", "q")


def triplets() -> list[Row]:
    """Questions of two words, whose passage has the same words in another order."""
    pairs = [(a, b) for a in WORDS for b in WORDS if a < b]
    others = [*pairs[1:], pairs[0]]
    return [
        {"prompt": f"{a} {b}", "chosen": f"{b} {a} is", "rejected": f"{c} {d} my {a}"}
        for (a, b), (c, d) in zip(pairs, others, strict=True)
    ]


def base(folder: Path, **config: Any) -> Model:
    """A tiny BERT with prefixes, and with dropout unless `config` says otherwise."""
    root = tiny_bert(folder / "bert", prompts={"query": "q : "})
    known = json.loads((root / "config.json").read_text())
    (root / "config.json").write_text(json.dumps({**known, **config}))
    files = sorted(path for path in root.rglob("*") if path.is_file())
    model = run_step(RetrieveEmbedder(path=Files(["bert"], files)), folder / "base")
    for name, path in model.external.items():
        (model.path / name).parent.mkdir(exist_ok=True)
        (model.path / name).symlink_to(path)
    assert isinstance(model, Model)
    return model


PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SETTINGS: dict[str, Any] = {
    "epochs": 2, "effective_batch_size": 4, "learning_rate": 1e-3, "warmup_ratio": 0.0,
    "lr_scheduler_type": "constant_with_warmup",
}  # fmt: skip


def training(kind: type[RetrieverTraining], folder: Path, model: Model, **more: Any) -> Any:
    rows = dataset(folder / "rows", triplets())
    return kind(model=model, rows=[rows], **{**SETTINGS, **more})


def losses(model: Model) -> list[float]:
    return [p["loss"] for p in json.loads((model.path / "curve.json").read_text()) if "loss" in p]


def epochs_of(sampler: Any) -> Iterator[list[int]]:
    for epoch in range(2):
        sampler.set_epoch(epoch)
        yield from sampler


@pytest.mark.slow
@pytest.mark.parametrize(("size", "dimensions"), [(4, []), (2, []), (4, [16, 8])])
def test_an_embedding_model_learns_as_in_a_plain_loop(
    tmp_path: Path, size: int, dimensions: list[int]
) -> None:
    """Batches of sentence-transformers' sampler, its loss, and AdamW. In parts, it's the same."""
    import torch
    from datasets import Dataset  # type: ignore[import-untyped]
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.sampler import NoDuplicatesBatchSampler
    from sentence_transformers.sentence_transformer import losses as st_losses

    start = base(tmp_path, **PLAIN)
    step = training(
        EmbedTrain, tmp_path, start, per_device_train_batch_size=size, dimensions=dimensions
    )
    trained = run_step(step, tmp_path / "trained")

    model = SentenceTransformer(str(start.path), device="cpu").train()
    columns = {
        "anchor": [f"q : {row['prompt']}" for row in triplets()],
        "positive": [row["chosen"] for row in triplets()],
        "negative": [row["rejected"] for row in triplets()],
    }
    sampler = NoDuplicatesBatchSampler(
        Dataset.from_dict(columns), 4, False, generator=torch.Generator(), seed=0
    )
    loss: Any = st_losses.MultipleNegativesRankingLoss(model)
    if dimensions:
        loss = st_losses.MatryoshkaLoss(model, loss, dimensions)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    expected = []
    for batch in epochs_of(sampler):
        texts = [[of[i] for i in batch] for of in columns.values()]
        value = loss([model.preprocess(each) for each in texts], None)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        expected.append(value.item())
    assert losses(trained) == pytest.approx(expected, abs=2e-5)
    assert len(expected) == trained.meta["steps"] == trained.meta["best_step"] >= 6
    text = "where is card"
    (own,) = CachedEmbedder(trained, TestJob()).embed([text], "question")
    plain = model.eval().encode([f"q : {text}"])[0]
    assert np.frombuffer(own.vector, "<f4") == pytest.approx(plain, abs=1e-4)


@pytest.mark.slow
def test_a_reranker_learns_as_in_a_plain_loop(tmp_path: Path) -> None:
    """And the engine's scores are those of sentence-transformers."""
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from transformers import set_seed

    start = base(tmp_path, **PLAIN)
    step = training(RerankTrain, tmp_path, start, per_device_train_batch_size=2)
    trained = run_step(step, tmp_path / "trained")
    assert [trained.meta[name] for name in ("rows", "negatives", "longest")] == [10, 1, 12]

    set_seed(0)
    model = CrossEncoder(str(start.path), num_labels=1, max_length=12, device="cpu").train()
    pairs = [
        (row["prompt"], row[name], float(name == "chosen"))
        for row in triplets()
        for name in ("chosen", "rejected")
    ]
    loss = BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(1.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    expected = []
    for epoch in range(2):
        order = torch.randperm(20, generator=torch.Generator().manual_seed(epoch)).tolist()
        for at in range(0, 20, 4):
            asked, passages, labels = zip(*(pairs[i] for i in order[at : at + 4]), strict=True)
            value = loss([list(asked), list(passages)], torch.tensor(labels))
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            expected.append(value.item())
    assert losses(trained) == pytest.approx(expected, abs=2e-5)

    own = Reranker.of(trained, TestJob()).scores("where is", ["is where is", "card q my where"])
    library = CrossEncoder(str(trained.path), device="cpu", max_length=12)
    both = [("where is", "is where is"), ("where is", "card q my where")]
    logits = library.predict(both, activation_fn=torch.nn.Identity())
    assert own == pytest.approx(list(map(float, logits)), abs=1e-4)


class Killed(TestJob):
    """A job that ends at an optimizer step."""

    last = 0

    def metric(self, name: str, value: float, at: float) -> None:
        """Raise an error at the step."""
        if at == self.last:
            raise KeyboardInterrupt
        super().metric(name, value, at)


def bytes_in(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "last"), [(EmbedTrain, 5), (RerankTrain, 9)])
def test_a_killed_training_continues_to_the_same_bytes(
    tmp_path: Path, kind: type[RetrieverTraining], last: int
) -> None:
    """In the middle of the second epoch, with dropout and a validation loss."""
    more = {"validation": dataset(tmp_path / "held-out", triplets()[:4]), "eval_steps": 2}
    step = training(kind, tmp_path, base(tmp_path), **more)
    whole = run_step(step, tmp_path / "whole")
    killed = Killed(tmp_path / "killed")
    killed.last = last
    with pytest.raises(KeyboardInterrupt):
        step.run(killed)
    half = tmp_path / "killed" / "scratch" / "checkpoints" / f"checkpoint-{last}"
    half.mkdir()  # that a kill left without its mark
    job = TestJob(tmp_path / "killed")
    resumed = step.run(job)
    assert any(f"continuing from optimizer step {last - 1}" in str(event) for event in job.events)
    assert not half.exists()
    assert bytes_in(resumed.path) == bytes_in(whole.path)
    assert resumed.meta == whole.meta
    assert "eval_loss" in whole.meta
    again = step.run(TestJob(tmp_path / "killed"))  # killed after its last checkpoint
    assert bytes_in(again.path) == bytes_in(whole.path)


def test_negatives_are_retrieved_and_never_answer(tmp_path: Path) -> None:
    rooms = range(10, 14)
    rows = [*map(question_row, rooms), unanswerable_row()]
    index = index_of(tmp_path, chunk_rows(rooms))
    job = TestJob()
    examples = read_examples(job, [dataset(tmp_path / "questions", rows)], index, 3, "rows")
    assert [example.question for example in examples] == [
        f"What is the inventory number of Room {room}?" for room in rooms
    ]
    for room, example in zip(rooms, examples, strict=True):
        assert f"Room {room} has the inventory number" in example.passage
        assert len(set(example.negatives)) == 3
        assert not any(f"Room {room} has the inventory" in text for text in example.negatives)
    assert any("left out 1 row with answerable: false" in str(event) for event in job.events)
    with pytest.raises(DataError, match="only 7 chunks that can be negatives"):
        read_examples(job, [dataset(tmp_path / "all", rows)], index, 8, "rows")


def test_rows_without_an_index_are_pairs_or_triplets(tmp_path: Path) -> None:
    pair = {"prompt": "where is my card", "completion": "my card is q"}
    read = [
        read_examples(TestJob(), [dataset(tmp_path / name, rows)], None, 1, "rows")
        for name, rows in (("pairs", [pair]), ("triplets", triplets()))
    ]
    assert read[0] == [("where is my card", "my card is q", [])]
    assert [example.negatives for example in read[1]] == [[row["rejected"]] for row in triplets()]
    with pytest.raises(DataError, match="some rows are preferences"):
        read_examples(TestJob(), [dataset(tmp_path / "x", [pair, *triplets()])], None, 1, "rows")
    step = RerankTrain(model=base(tmp_path), rows=[dataset(tmp_path / "y", [pair])])
    with pytest.raises(DataError, match="the rows have no negatives"):
        run_step(step, tmp_path / "out")
    same = EmbedTrain(model=step.model, rows=[dataset(tmp_path / "z", [pair] * 2)])
    with pytest.raises(DataError, match="nothing to tell apart"):
        run_step(same, tmp_path / "out")


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    rows = dataset(tmp_path / "rows", triplets())
    language = Model(tmp_path, meta={"format": "gguf"})
    with pytest.raises(UsageError, match="format 'gguf' can't be trained to retrieve"):
        EmbedTrain(model=language, rows=[rows]).check()
    embedder = Model(tmp_path, meta={"format": "embedder"})
    with pytest.raises(UsageError, match="20 is not a multiple of") as raised:
        RerankTrain(model=embedder, rows=[rows], effective_batch_size=20).check()
    assert raised.value.fix == "effective_batch_size: 16"
    with pytest.raises(UsageError, match="must be different sizes of at least 1") as raised:
        EmbedTrain(model=embedder, rows=[rows], dimensions=[0, -1, 8, 8]).check()
    assert raised.value.fix == "dimensions: [8]"
    with pytest.raises(UsageError, match="format 'embedder' can't rerank chunks"):
        RetrieveRerank(index=Index(tmp_path, meta={}), model=embedder).check()


@pytest.mark.parametrize("kind", [EmbedTrain, RerankTrain])
def test_a_training_whose_model_returns_no_numbers_diverged(
    kind: type[RetrieverTraining], tmp_path: Path
) -> None:
    """One optimizer step: its loss, from before the step, is finite."""
    settings = {"epochs": 1, "learning_rate": 1e30, "effective_batch_size": 64}
    step = training(kind, tmp_path, base(tmp_path), **settings, per_device_train_batch_size=64)
    with pytest.raises(StepError, match="the training diverged: what the trained model returns"):
        run_step(step, tmp_path / "out")


class Backwards(Reranker):
    """A reranker that prefers chunks in the reverse order of their lines."""

    def scores(self, question: str, texts: Any) -> list[float]:
        """The place of each chunk among the candidates."""
        return [float(place) for place in range(len(texts))]


def test_the_candidates_are_reranked_and_the_others_follow(tmp_path: Path) -> None:
    """The first k don't depend on k, and the files of the index are all there."""
    index = index_of(tmp_path, chunk_rows(range(10, 14)), "plain")
    model = Model(tmp_path, meta={"format": "backwards"})
    engines = {"backwards": Backwards}
    before = [hit.id for hit in Retriever.open(index, TestJob()).search(["inventory room"], 8)[0]]
    reranked = RetrieveRerank(index=index, model=model, candidates=3).run(TestJob(tmp_path / "r"))
    retriever = Retriever.open(reranked, TestJob(engines=engines))
    (hits,) = retriever.search(["inventory room"], 8)
    assert [hit.id for hit in hits] == [*before[2::-1], *before[3:]]
    assert retriever.search(["inventory room"], 2)[0] == hits[:2]
    assert bytes_in(reranked.path) == bytes_in(index.path)


def test_an_index_can_keep_the_first_numbers_of_embeddings(tmp_path: Path) -> None:
    """They are those of the whole embeddings, scaled to length 1 again, and so are questions'."""
    model, rows = base(tmp_path), [{"text": "my card"}, {"text": "where is q"}, {"text": "q my"}]

    def index(name: str, **more: Any) -> Index:
        step = RetrieveIndex(
            rows=[dataset(tmp_path / f"{name}-rows", rows)], method="dense", embedder=model, **more
        )
        made = run_step(step, tmp_path / name)
        assert isinstance(made, Index)
        return made

    short, whole = index("short", dimensions=4), np.load(index("whole").path / EMBEDDINGS_FILE)
    first = whole[:, :4] / np.linalg.norm(whole[:, :4], axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(short.path / EMBEDDINGS_FILE), first, rtol=1e-6)
    assert (short.meta["dimensions"], short.meta["whole_dimensions"]) == (4, 16)
    hits = Retriever.open(short, TestJob()).search(["my card"], 3)[0]
    assert len(hits) == 3
    assert all(-1.000001 <= hit.score <= 1.000001 for hit in hits)
    with pytest.raises(UsageError, match="have only 16 numbers"):
        index("long", dimensions=17)
