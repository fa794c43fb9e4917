"""Continued pre-training: documents become blocks, and each of their tokens is learned once."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import tiny_llama

from finery import DataError, Dataset, Job, Model
from finery.rows import Row
from finery.testing import TestJob, dataset, examine
from finery_docs.chunks import Limits, chunks
from finery_docs.plain import read_markdown
from finery_trl.rows.text import Block, blocks_of
from finery_trl.rows.tokens import Reading, Tokens
from finery_trl.settings import Launch
from finery_trl.steps import Pretrain
from finery_trl.train.run import _trainer, read
from finery_trl.train.schedule import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = ["late", "wrong", "card_arrival", "my card is", "where"]
TEXT = "# Cards\n\n" + "\n\n".join(
    " ".join(f"{WORDS[j % 5]} {31 * i + j}" for j in range(30)) + "." for i in range(12)
)


def notes(number: int, first: int = 0) -> list[Row]:
    """Documents of 3 to 40 words."""
    return [
        {"text": " ".join(WORDS[(i * j) % 5] for j in range(3 + 37 * (i % 3) // 2))}
        for i in range(first, first + number)
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


def logged(job: TestJob) -> list[str]:
    return [e["message"] for e in job.events if e["event"] == "log"]


@pytest.mark.parametrize("overlap", [0, 100])
def test_chunks_become_documents_whose_tokens_are_learned_once(
    overlap: int, tiny: Model, tmp_path: Path
) -> None:
    document = read_markdown(TEXT.encode())
    spans = chunks(document, Limits(300, overlap))
    rows: list[Row] = [
        {"id": f"{name}{i}", "text": document.text[c.start : c.end], "source": name, "line": 1}
        | {"heading": "Cards"}
        for name in ("a.md", "b.md")
        for i, c in enumerate(spans)
    ]
    tokens, job = Tokens.of_model(tiny), TestJob(tmp_path)
    blocks = blocks_of(rows, Reading(tokens, job, "rows", 64), packing=True)
    assert all(block.size <= 64 for block in blocks)
    assert len(blocks) <= math.ceil(sum(b.size for b in blocks) / 64) + 2
    for name in ("a.md0", "b.md0"):
        parts = [part for block in blocks for part in block.parts if part.row_id == name]
        first, *more = sorted(parts, key=lambda part: part.part)
        ids = [*first.tokens, *(token for part in more for token in part.tokens[1:])]
        text: Any = tokens.tokenizer.decode(ids)
        assert text.split() == f"{document.text}<|endoftext|>".split()
        assert sum(part.loss_tokens for part in parts) == len(ids) - 1
    repeats = [line for line in logged(job) if "overlapping chunks" in line]
    assert len(repeats) == (1 if overlap else 0)


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
def test_the_losses_are_those_of_a_plain_loop(packing: bool, tiny: Model, tmp_path: Path) -> None:
    import torch

    data = dataset(tmp_path / "rows", notes(9))
    step = Pretrain(
        model=tiny, rows=[data], validation=data, lora=None, dtype="fp32", max_length=48,
        packing=packing, effective_batch_size=64, per_device_train_batch_size=64,
    )  # fmt: skip
    job = TestJob(tmp_path / "job")
    tokens, both = read(step, job)
    blocks: list[Any] = both.learned
    assert packing == any(block.sequences > 1 for block in blocks)
    trainer = _trainer(step, Schedule.of_rows(step, blocks, job), tokens, both, job)
    (batch,) = list(trainer.get_train_dataloader())
    count = sum(block.loss_tokens for block in blocks)
    trainer.model.train()
    found = trainer.compute_loss(trainer.model, batch, num_items_in_batch=count)
    plain = 0.0
    for part in (part for block in blocks for part in block.parts):
        ids = torch.tensor([part.tokens])
        mean = trainer.model(input_ids=ids, labels=ids, use_cache=False).loss.item()
        plain += mean * part.loss_tokens
    assert found.item() == pytest.approx(plain / count, rel=1e-5)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain / count, rel=1e-5)


def train(folder: Path, tiny: Model, job: TestJob, **settings: Any) -> Model:
    rows = dataset(folder / "rows", notes(12))
    held_out = dataset(folder / "held-out", notes(3, 20))
    small: dict[str, Any] = {
        "max_length": 64, "effective_batch_size": 2, "epochs": 2, "learning_rate": 1e-2,
    }  # fmt: skip
    return Pretrain(model=tiny, rows=[rows], validation=held_out, **small | settings).run(job)


@pytest.mark.quick
def test_it_learns_the_text_and_a_resumed_training_has_the_same_bytes(
    tiny: Model, tmp_path: Path
) -> None:
    class Cut(TestJob):
        def progress(self, done: float, total: float, text: str = "") -> None:
            if done == 3:
                raise KeyboardInterrupt

    whole_job = TestJob(tmp_path / "whole", seed=1)
    whole = train(tmp_path, tiny, whole_job, save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, tiny, Cut(tmp_path / "cut", seed=1), save_steps=2)
    job = TestJob(tmp_path / "cut", seed=1)
    resumed = train(tmp_path, tiny, job, save_steps=2)
    assert f"continuing from optimizer step 2 of {whole.meta['steps']}" in logged(job)
    names = {path.name for path in whole.path.iterdir()}
    assert all((whole.path / n).read_bytes() == (resumed.path / n).read_bytes() for n in names)
    assert whole.meta == resumed.meta
    points = json.loads((whole.path / "curve.json").read_text())
    assert (points[0]["step"], points[0].keys() & {"loss", "eval_loss"}) == (0, {"eval_loss"})
    assert whole.meta["perplexity_before"] == pytest.approx(math.exp(points[0]["eval_loss"]), 1e-3)
    assert whole.meta["perplexity"] < 0.9 * whole.meta["perplexity_before"]
    assert (whole.meta["rows"], "prompts" in whole.meta) == (12, False)
    template = (tiny.path / "chat_template.jinja").read_text()
    assert (whole.path / "chat_template.jinja").read_text() == template
    said = "perplexity on held-out documents: "
    assert [line for line in logged(whole_job) if line.startswith(said)]


@pytest.mark.slow
def test_two_processes_train_and_validate_like_one(tiny: Model, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lora": None, "dtype": "fp32", "per_device_train_batch_size": 1}
    curves = []
    for launch in (None, Launch(processes=2)):
        job = TestJob(tmp_path / str(launch is None), seed=1)
        train(tmp_path, tiny, job, launch=launch, **settings)
        curves.append([e["value"] for e in job.events if e.get("name") in ("loss", "eval_loss")])
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


def test_a_check_shows_the_blocks(tiny: Model, tmp_path: Path) -> None:
    data = dataset(tmp_path / "rows", [*notes(4), {"id": "x", "text": "<|im_end|> is a token"}])
    step = Pretrain(model=tiny, rows=[data], max_length=64)
    job = TestJob(tmp_path / "job")
    (proof,) = step.prove(job, 9)
    reading = step.reading(Tokens.of_model(tiny), job, "rows")
    blocks: list[Block] = list(step.read(data, reading))  # type: ignore[arg-type]
    assert (proof.rows, proof.tokens) == (len(blocks), sum(block.size for block in blocks))
    assert sum(s.pieces[0].text.count("<|endoftext|>") for s in proof.samples) == 5
    assert any("as plain text: x" in note for note in proof.notes)
    ids = [part.tokens for block in blocks for part in block.parts if part.row_id == "x"]
    assert Tokens.of_model(tiny).template.tokens("<|im_end|>")[0] not in ids[0]
    with pytest.raises(DataError, match="validation: there is no column `text`, but: completion"):
        examine(step, rows={"validation": [{"completion": ""}]})


def refused(data: Dataset, tiny: Model, job: Job) -> DataError:
    with pytest.raises(DataError) as caught:
        Pretrain(model=tiny, rows=[data]).run(job)
    return caught.value


def test_rows_without_a_text_are_refused_and_repeats_are_said(tiny: Model, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    data = dataset(tmp_path / "rows", [{"text": "late"}, {"messages": turns}])
    error = refused(data, tiny, TestJob(tmp_path / "job"))
    assert "no `text` in 1 of 2 rows" in error.what
    job = TestJob(tmp_path / "other")
    twice = [{"id": name, "text": "where is my card"} for name in "ab"]
    blocks_of(twice, Reading(Tokens.of_model(tiny), job, "rows", 64), packing=True)
    assert any("text of another row" in line for line in logged(job))
