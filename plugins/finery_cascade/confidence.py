"""How sure a model is of an answer, and which models don't say so."""

import math

from finery import Completion, UsageError

UNSURE = frozenset({
    "api", "baseline-majority", "baseline-nearest", "cascade", "gguf", "gguf-adapter",
    "retrieving", "vllm",
})  # fmt: skip
"""Formats of models that don't say how sure they are of an answer."""


def confidence_of(answer: Completion, model: str) -> float:
    """How sure a model is of its answer, from 0 to 1: its probability, or that of its tokens.

    0 for an answer that is empty, refused or cut off. `UsageError` for a model that gives neither.
    """
    if answer.is_empty or answer.finish_reason in ("length", "refusal"):
        return 0.0
    if answer.probability is not None:
        return answer.probability
    if answer.logprob is None:
        raise without_confidence(model)
    return math.exp(min(0.0, answer.logprob))


def without_confidence(model: str) -> UsageError:
    """The error for a model that can't be a stage before the last one."""
    return UsageError(
        f"'{model}' doesn't say how sure it is of an answer, so it can only be the last model",
        where="models",
        fix="classifiers (encoder.classify, onnx.export, baseline.linear) and language models that "
        "transformers runs (trl.sft, hub.model) say it",
    )
