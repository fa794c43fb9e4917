"""The engine for embedding models on this machine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from finery import EngineJob, Model, StepError
from finery_retrieve.embed.embedder import Embedder, Embedding, Side, packed
from finery_retrieve.embed.layout import Layout

if TYPE_CHECKING:
    import torch


class LocalEmbedder(Embedder):
    """Computes embeddings with transformers, in float32, as sentence-transformers does.

    Each text by itself: in a batch, the other texts change the last digits of an embedding, and so
    an index would depend on which of its chunks are new.
    """

    local = True
    packages = ("torch", "transformers", "tokenizers")

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        self._alone = Lock()  # tokenizers can't be used by several threads at once

    def embed(self, texts: Sequence[str], side: Side) -> list[Embedding]:
        """The embedding of each text: the model's last states, pooled and scaled to length 1."""
        import torch

        with self._alone, torch.inference_mode():
            return [self._embedding(text, side) for text in texts]

    def _embedding(self, text: str, side: Side) -> Embedding:
        layout, tokenizer, longest = (
            self._loaded.layout,
            self._loaded.tokenizer,
            self._loaded.longest,
        )
        text = (layout.question_prefix if side == "question" else layout.document_prefix) + text
        text = text.lower() if layout.lower else text
        tokens = tokenizer(text, verbose=False)["input_ids"]
        was_cut = len(tokens) > longest
        if was_cut:
            tokens = tokenizer(text, truncation=True, max_length=longest)["input_ids"]
        states = self._states(tokens)
        pooled = states[0] if layout.pooling == "cls" else states.mean(dim=0)
        return Embedding(packed(pooled.tolist()), was_cut)

    def _states(self, tokens: list[int]) -> "torch.Tensor":
        """The last states of the tokens, shape (tokens, dimensions)."""
        import torch

        model = self._loaded.model
        ids = torch.tensor([tokens], device=model.device)
        states: torch.Tensor = model(
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).last_hidden_state[0]
        return states.float()

    @cached_property
    def _loaded(self) -> "_Loaded":
        import torch
        from transformers import AutoTokenizer

        layout = msgspec.convert(self.model.meta["embedding"], Layout)
        try:
            with _quiet():
                tokenizer: Any = AutoTokenizer.from_pretrained(
                    self.model.path, local_files_only=True
                )
                model = _weights(self.model.path)
        except (OSError, ValueError, KeyError) as error:
            raise StepError(
                f"the embedding model can't be loaded: {error}", fix="download the model again"
            ) from error
        model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        positions = getattr(model.config, "max_position_embeddings", None)
        limits = [layout.longest, tokenizer.model_max_length, positions]
        return _Loaded(model, tokenizer, layout, min(n for n in limits if n is not None))


def _weights(folder: Path) -> Any:
    """The model with its weights. `StepError` if some are missing: they would be random."""
    import torch
    from transformers import AutoModel

    model, info = AutoModel.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise StepError(
            f"the embedding model lacks {len(missing):,} of its weights, e.g. {missing[0]}",
            fix="download the model again",
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bar, since the build has its own."""
    from transformers.utils import logging as hf_logging

    logging: Any = hf_logging  # untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class _Loaded(NamedTuple):
    """longest: tokens that the model reads, with its control tokens."""

    model: Any
    tokenizer: Any
    layout: Layout
    longest: int
