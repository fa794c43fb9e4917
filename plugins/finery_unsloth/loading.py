"""The model of a training, loaded and patched by Unsloth.

Written against unsloth and unsloth_zoo 2026.10.9: `FastLanguageModel.from_pretrained`,
`get_peft_model` and `for_training`.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import Job, Model
from finery_local.facts import ADAPTER_CONFIG, ADAPTER_WEIGHTS, ModelFiles
from finery_transformers.loading import base_of, load_model, load_tokenizer, quiet
from finery_trl.model.accelerators import Accelerators
from finery_trl.model.loading import Prepared, check_context

if TYPE_CHECKING:
    import torch

    from finery_trl.settings import Training


def prepare(step: "Training", dtype: "torch.dtype", longest: int, job: Job) -> Prepared:
    """Load the model, with frozen weights in `dtype` or in 4 bits and trained weights in fp32.

    longest: tokens of the longest row. Raises the errors of `Prepared.of`.
    """
    from unsloth import FastLanguageModel  # type: ignore[import-not-found]

    whole = step.lora is None
    context = ModelFiles(step.model).context
    check_context(context, longest)
    # Set in both calls, since `for_training` restores the last one's value.
    checkpointing = "unsloth" if step.gradient_checkpointing else False
    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(_folder(step, dtype, job)),
        tokenizer_name=str(_tokenizer(step, job)),
        max_seq_length=_longest(step, context),
        dtype=dtype,
        load_in_4bit=False,  # `quantization_config` sets it and its kind
        use_gradient_checkpointing=checkpointing,
        random_state=job.seed,
        trust_remote_code=step.model.meta.get("trust_remote_code") is True,
        fix_tokenizer=False,
        use_exact_model_name=True,  # otherwise Unsloth replaces known names by its own uploads
        local_files_only=True,
        **({"full_finetuning": True, "float32_mixed_precision": True} if whole else {}),
        **_quantization(step, dtype),
    )
    if step.lora is not None and not step.continues():
        model = FastLanguageModel.get_peft_model(
            model,
            **adapter_arguments(step),
            use_gradient_checkpointing=checkpointing,
            random_state=job.seed,
        )
    _train_on_after_answers(model, checkpointing)
    # Its kernels replace Liger's, and its attention replaces FlashAttention.
    return Prepared(model, None, None, {}, Accelerators(unsloth=True))


def _longest(step: "Training", context: int | None) -> int:
    """Tokens of the longest sequence that Unsloth has to process.

    It cuts longer ones, including prompts of `watch`, and stretches positions beyond the model's
    context.
    """
    if context is None:
        return step.max_length
    return min(step.max_length, context) if step.watch is None else context


def adapter_arguments(step: "Training") -> dict[str, Any]:
    """The arguments of Unsloth's `get_peft_model` for the new adapter."""
    assert step.lora is not None
    arguments = {
        "r": step.lora.r,
        "lora_alpha": step.lora.lora_alpha or step.lora.r,
        "lora_dropout": step.lora.lora_dropout,
        "target_modules": step.lora.target_modules,
        "use_rslora": step.lora.use_rslora,
        "bias": "none",
    }
    return arguments | ({"use_dora": True} if step.lora.use_dora else {})


def _quantization(step: "Training", dtype: "torch.dtype") -> dict[str, Any]:
    """The full 4-bit settings, since Unsloth's own `load_in_4bit` means doubly quantised NF4."""
    if step.quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    config: Any = BitsAndBytesConfig
    quantization = config(
        load_in_4bit=True,
        bnb_4bit_quant_type=step.quantization,
        bnb_4bit_use_double_quant=step.double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": quantization}


def _folder(step: "Training", dtype: "torch.dtype", job: Job) -> Path:
    """The folder for Unsloth: the model's, a 16-bit copy, or an adapter that names its base."""
    under = base_of(step.model) if step.continues() else step.model
    folder = under.path
    if under.format != "transformers":
        folder = job.scratch / "16-bit"
        with quiet():
            load_model(under, dtype).save_pretrained(str(folder))
    return _adapter(step.model, folder, job) if step.continues() else folder


def _adapter(adapter: Model, under: Path, job: Job) -> Path:
    """A copy of an adapter that names the folder of its base on this machine."""
    folder = job.scratch / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copyfile(adapter.file(ADAPTER_WEIGHTS), folder / ADAPTER_WEIGHTS)
    named = {"base_model_name_or_path": str(under), "revision": None}
    config = ModelFiles(adapter).adapter_config | named
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return folder


def _tokenizer(step: "Training", job: Job) -> Path:
    """A tokenizer for Unsloth; the training uses its own.

    If the padding token also ends sequences, Unsloth would add a token to the model. Trainings mask
    padding, so any other token works.
    """
    tokenizer: Any = load_tokenizer(step.model)
    if tokenizer.pad_token == tokenizer.eos_token:
        first = tokenizer.convert_ids_to_tokens([0, 1])
        tokenizer.pad_token = next(t for t in first if t != tokenizer.eos_token)
    folder = job.scratch / "tokenizer"
    tokenizer.save_pretrained(str(folder))
    return folder


def _train_on_after_answers(model: Any, checkpointing: str | bool) -> None:
    """Make the model ready to train again after each answer, for `watch`.

    For generation, Unsloth switches its layers to another path, and switches back only if the model
    was in training mode. Here it answers in evaluation mode.
    """
    from unsloth import FastLanguageModel

    generate = model.generate

    def answer(*arguments: Any, **named: Any) -> Any:
        try:
            return generate(*arguments, **named)
        finally:
            FastLanguageModel.for_training(model, use_gradient_checkpointing=checkpointing)

    model.generate = answer
