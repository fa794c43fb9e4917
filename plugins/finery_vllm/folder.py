"""Writes the folders that vLLM reads: of a complete model, and of an adapter."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import Model
from finery_local.facts import ADAPTER_CONFIG, ADAPTER_WEIGHTS, ModelFiles, file_names

if TYPE_CHECKING:
    import torch

    from finery_transformers.chat import PromptTemplate

LOADING = dict.fromkeys(("torch", "transformers", "peft"), "finery[train]")
"""What reads tokenizers and chat templates, and merges adapters. vLLM itself has its own."""
ADAPTER = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
"""An adapter's files. Not its tokenizer, since prompts are tokenized for the base."""


def whole(model: Model, folder: Path, dtype: "torch.dtype | None" = None) -> Path:
    """A Hugging Face folder with the model: links to its files, or its merged weights.

    dtype: of weights that are merged or dequantised; default: that of `dtype: auto`.
    """
    if model.format == "transformers":
        return linked(model, file_names(model), folder)
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


def ends_of(model: Model, template: "PromptTemplate") -> list[int]:
    """Token ids that end an answer: those of the trained template, and of the base's files."""
    return template.ends_with(ModelFiles(model).end_tokens)
