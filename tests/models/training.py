"""What the matrix finds out of an architecture: two steps of training, the merge, the export.

Each outcome is `yes`, or `no` with the reason.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from abilities import capabilities
from models.checks import YES, reason, way_of
from models.families import CHATML, IM_END, Family
from models.rows import answer, preference, question
from models.tiny import tokenizer_of, write_model

from finery import FineryError, Model
from finery.rows import Row
from finery.testing import TestJob, dataset
from finery_gguf.export import Export
from finery_transformers.loading import load_adapter, load_model
from finery_trl.steps import Dpo, Sft

CLOSE = 1e-4
"""Largest difference of two logits that are equal but for the order of sums, in fp32."""
SETTINGS: dict[str, Any] = {
    "epochs": 1, "effective_batch_size": 2, "learning_rate": 1e-2, "dtype": "fp32",
    "max_length": 4096,
}  # fmt: skip
UNTESTED = {
    "Phi3": "llama.cpp's converter reads a SentencePiece tokenizer that adds spaces as the "
    "family's own does, and the one here doesn't",
    "Qwen2": "transformers splits the text of all Qwen2 models in its own way, and llama.cpp's "
    "converter doesn't recognise the vocabulary here with it",
}
"""Architecture → why its export can't be tested with the stand-in tokenizer."""


def outcomes(family: Family, smollm2: Path, folder: Path) -> dict[str, str]:
    """Step → yes or no with the reason, for the family's architecture. folder: an empty one.

    A family whose template can't be trained on gets SmolLM2's.
    """
    family, thinks = _trainable(family, smollm2)
    base = write_model(folder / "base", family, smollm2)
    sft: list[Row] = [
        {"prompt": [question(i)], "completion": [answer(i, thinks=thinks)]} for i in range(4)
    ]
    pairs = [preference(i, thinks=thinks) for i in range(4)]
    trained: list[Model] = []

    def train() -> str:
        step = Sft(model=base, rows=[dataset(folder / "rows", sft)], **SETTINGS)
        trained.append(step.run(TestJob(folder / "sft", seed=1)))
        return YES

    def prefer() -> str:
        step = Dpo(model=base, rows=[dataset(folder / "pairs", pairs)], **SETTINGS)
        return YES if step.run(TestJob(folder / "dpo", seed=1)).meta["steps"] == 2 else "no"

    results = {"sft": _tried(train), "dpo": _tried(prefer)}
    if not trained:
        return results | dict.fromkeys(("merge", "gguf"), "no: the training fails")
    results["merge"] = _tried(lambda: _merge(base, trained[0]))
    results["gguf"] = _tried(lambda: _export(family, trained[0], folder))
    return results


def _trainable(family: Family, smollm2: Path) -> tuple[Family, bool]:
    """(the family, whether its answers must have thinking)."""
    tokenizer = tokenizer_of(family, smollm2)
    way, sft = way_of(tokenizer, capabilities(tokenizer))
    if sft.startswith(YES):
        return family, bool(way.note)  # the switch is for SFT alone, thinking also for DPO
    return family._replace(template="", eos=IM_END, control=(*family.control, *CHATML)), False


def _tried(step: Callable[[], str]) -> str:
    try:
        return step()
    except FineryError as error:
        return f"no: {reason(error)}"


def _merge(base: Model, adapter: Model) -> str:
    """Compare the logits of base with adapter, and of the merged model."""
    import torch

    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        plain = load_model(base, torch.float32)
        before = plain(input_ids=ids).logits
        apart = load_adapter(plain, adapter)(input_ids=ids).logits
        merged = load_model(adapter, torch.float32)(input_ids=ids).logits
    assert (apart - before).abs().max() > 100 * CLOSE, "the adapter changes nothing"
    return YES if (apart - merged).abs().max() < CLOSE else "no: the merged model's logits differ"


def _export(family: Family, adapter: Model, folder: Path) -> str:
    """Export the adapter, which verifies prompts, and let llama.cpp answer one."""
    if family.architecture in UNTESTED:
        return f"not tested: {UNTESTED[family.architecture]}"
    job = TestJob(folder / "gguf", seed=1)
    gguf = Export(model=adapter, quantization=["bf16"]).run(job)["bf16"]
    (completion,) = TestJob(seed=None).engine(gguf).generate([[question()]], max_tokens=4)
    return YES if completion.completion_tokens else "no: it answers nothing"
