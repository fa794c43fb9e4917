"""The engine of rerankers: cross-encoders, which read a question and a chunk together."""

from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import Any

from finery import Completion, DataError, Engine, EngineJob, Model, Request, Sampling, StepError

DIGITS = 5
"""Digits of a score after the point. Further ones differ between machines."""


class Reranker(Engine):
    """An engine that scores chunks, and answers no prompts."""

    @classmethod
    def of(cls, model: Model, job: EngineJob) -> "Reranker":
        """The engine of a model. `StepError` for a model of another format."""
        engine = job.raw_engine(model)
        if not isinstance(engine, Reranker):
            raise StepError(
                f"a model of the format '{model.format}' can't rerank chunks",
                fix="use a model made by rerank.train",
            )
        return engine

    def scores(self, question: str, texts: Sequence[str]) -> list[float]:
        """How well each text answers the question; higher is better."""
        raise NotImplementedError

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Raise `DataError`: it can't."""
        raise DataError(
            "a reranker can't answer prompts",
            fix="name a language model; rerankers are for retrieve.rerank",
        )


class LocalReranker(Reranker):
    """Scores pairs with transformers, in float32, as sentence-transformers does.

    One pair at a time: in a batch, other pairs change the last digits of a score.
    """

    local = True
    packages = ("torch", "transformers", "tokenizers")

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        self._alone = Lock()  # tokenizers can't be used by several threads at once

    def scores(self, question: str, texts: Sequence[str]) -> list[float]:
        """The model's logit of each pair."""
        import torch

        model, tokenizer = self._loaded
        scores = []
        with self._alone, torch.inference_mode():
            for text in texts:
                pair = tokenizer(
                    question, text, truncation=True, max_length=self.model.meta["longest"],
                    return_tensors="pt",
                )  # fmt: skip
                logits = model(**pair.to(model.device)).logits
                scores.append(round(float(logits[0, 0]), DIGITS))
        return scores

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from finery_transformers.loading import quiet

        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(self.model.path, local_files_only=True)
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                self.model.path, local_files_only=True, dtype=torch.float32
            )
        return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
