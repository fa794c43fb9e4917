"""Writes the folders that vLLM reads: of a complete model, and of an adapter."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import Model, StepError
from finery_transformers.formats import WEIGHTS
from finery_vllm.server.command import read_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

LOADING = dict.fromkeys(("torch", "transformers", "peft"), "finery[train]")
"""What reads tokenizers and chat templates, and merges adapters. vLLM itself has its own."""
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""An adapter's files. Not its tokenizer, since prompts are tokenized for the base."""


def check_format(model: Model) -> None:
    """`StepError` for a model without weights that vLLM reads."""
    if model.format not in WEIGHTS:
        raise StepError(
            f"vLLM can't serve a model of the format '{model.format}'",
            fix="name an adapter, a Hugging Face folder or a GGUF",
        )


def whole(model: Model, folder: Path, dtype: "torch.dtype | None" = None) -> Path:
    """A Hugging Face folder with the model: links to its files, or its merged weights.

    dtype: of weights that are merged or dequantised; default: that of `dtype: auto`.
    """
    if model.format == "transformers":
        return linked(model, names_of(model), folder)
    from finery_transformers.loading import load_model, load_tokenizer, quiet

    with quiet():
        load_model(model, dtype).save_pretrained(str(folder))
    load_tokenizer(model).save_pretrained(str(folder))
    return folder


def linked(
    model: Model,
    names: Iterable[str],
    folder: Path,
    copy: Callable[[Path, Path], Any] | None = None,
) -> Path:
    """A folder with links to files of a model, or with copies."""
    for name in names:
        source, target = model.file(name).absolute(), folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy is None:
            target.symlink_to(source)
        else:
            copy(source, target)
    return folder


def names_of(model: Model) -> list[str]:
    """The names of a model's files, without finery's own."""
    own = (p.relative_to(model.path) for p in model.path.rglob("*") if p.is_file())
    return sorted({*(path.as_posix() for path in own), *model.external} - {"manifest.json"})


def root_of(model: Model) -> Model:
    """The model under all adapters."""
    base = model.refs.get("base")
    return root_of(base) if isinstance(base, Model) else model


def ends_of(model: Model, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids that end an answer: those of the trained template, and of the base's files."""
    from finery_transformers.chat import end_of_turn
    from finery_transformers.loading import template_arguments

    ends = set(end_of_turn(tokenizer, template_arguments(model)))
    root = root_of(model)
    for name in ("generation_config.json", "config.json"):
        file = root.file(name)
        value = read_json(file).get("eos_token_id") if file.is_file() else None
        ends |= {i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}
    if not ends:
        raise StepError(
            "the end of the model's answers is unknown: its tokenizer has no end-of-sequence "
            "token, and its chat template writes no special token after an answer",
            fix="set eos_token in the model's tokenizer_config.json",
        )
    return sorted(ends)
