"""The context length of a model, read without loading its weights."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from finery import DataError, Model, outside_key

if TYPE_CHECKING:
    from finery_trl.rows.example import Proven


def context_of(model: Model) -> int | None:
    """The longest sequence that a model takes, in tokens; None if its files don't state it."""
    if model.format == "adapter":
        from finery_transformers.loading import base_of

        return context_of(base_of(model))
    if model.format == "gguf":
        return _gguf_context(model)
    path = model.file("config.json")
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    text = config.get("text_config", config)  # of multimodal models
    context = text.get("max_position_embeddings")
    return context if isinstance(context, int) else None


def _gguf_context(model: Model) -> int | None:
    from finery_local.formats.gguf_header import read_header

    values = read_header(model.file(str(model.meta["file"]))).values
    context = values.get(f"{model.meta.get('architecture')}.context_length")
    return context if isinstance(context, int) else None


@outside_key
def check_rows(name: str, rows: "Iterable[Proven]", model: Model) -> None:
    """Raise `DataError` if the longest row has more tokens than the model's context.

    name: of the rows in the error.
    """
    check_longest(name, max(row.size for row in rows), context_of(model))


def check_longest(name: str, longest: int, context: int | None) -> None:
    """Raise `DataError` if the longest row, of `longest` tokens, is longer than the context."""
    if context is not None and longest > context:
        raise DataError(
            f"{name}: the longest row has {longest} tokens, more than the model's context of "
            f"{context}",
            fix=f"max_length: {context}, and too_long: drop to drop longer rows",
        )
