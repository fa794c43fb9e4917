"""`embed.train` and `rerank.train`: fine-tune what retrieves, with sentence-transformers."""

from collections.abc import Iterator
from itertools import chain
from typing import Any, Literal

from finery import (
    DataError,
    Dataset,
    Index,
    Job,
    Model,
    Promise,
    Resources,
    Step,
    UsageError,
    setting,
    takes,
)
from finery_retrieve.embed.layout import layout_of
from finery_retrieve.formats import EMBEDDER, RERANKER, require_format
from finery_retrieve.train.examples import FEW_ROWS, Example, read_examples
from finery_trl.view.live import METRICS

PACKAGES = (
    "torch", "transformers", "sentence-transformers", "accelerate", "datasets", "tokenizers",
    "bm25s", "PyStemmer",
)  # fmt: skip
INSTALLED = ("sentence-transformers", "torch", "transformers", "accelerate", "datasets")
INHERITED = ("license", "architecture")
"""Facts about a model that also hold for models trained from it."""


class RetrieverTraining(
    Step,
    isolated=True,
    engines=True,
    packages=PACKAGES,
    sections=("train",),
    gpus=1,
    installs=dict.fromkeys(INSTALLED, "finery[embed]"),
    rehearsal={"epochs": 1e-4, "eval_steps": None},
    metrics=METRICS,
):
    """Base of both trainings: what they take, and how long they train."""

    model: Model = takes(role="base", help="The embedding model to train, e.g. `retrieve.wheel`.")
    rows: list[Dataset] = takes(
        role="train",
        help="With `index`: questions that name their chunk by `chunk`, `parents` or `quote`, as "
        "for eval.retrieval. Without: rows whose answer is the passage to find; in preferences, "
        "the rejected answer is a passage that must not be found.",
    )
    validation: Dataset | None = takes(
        None,
        role="validation",
        help="Rows to measure the validation loss on. The weights with the lowest one are kept.",
    )
    index: Index | None = takes(
        None,
        help="The index to take the right chunks of questions from, and the negatives: the first "
        "chunks that it retrieves for a question, except those that may answer it.",
    )
    negatives: int = setting(
        1, ge=0, le=100, help="Negatives of each question, if there is an `index`."
    )
    epochs: float = setting(1, gt=0, help="Passes over the rows.")
    learning_rate: float = setting(2e-5, gt=0, help="Peak learning rate.")
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"] = setting(
        "linear", help="Learning-rate schedule after warm-up."
    )
    warmup_ratio: float = setting(0.1, ge=0, lt=1, help="Warm-up as a share of optimizer steps.")
    effective_batch_size: int = setting(32, ge=2, help="Questions per optimizer step.")
    per_device_train_batch_size: int = setting(
        16,
        ge=1,
        help="Questions in memory at once, or fewer if effective_batch_size is smaller.",
    )
    eval_steps: int | None = setting(
        None,
        ge=1,
        help="Optimizer steps between validations and between checkpoints. Default: one per epoch.",
    )

    def check(self) -> None:
        """Raise `UsageError` for a model that isn't an embedding model."""
        fix = "name a step of retrieve.embedder, retrieve.wheel or embed.train"
        require_format(self.model, "model", (EMBEDDER,), "can't be trained to retrieve", fix)

    def examples(self, job: Job) -> tuple[list[Example], list[Example] | None]:
        """The examples to learn, and those to validate on."""
        learned = read_examples(job, self.rows, self.index, self.negatives, "rows")
        if len(learned) < FEW_ROWS:
            job.log(f"rows: only {len(learned)}; with fewer than {FEW_ROWS}, expect little")
        if self.validation is None:
            return learned, None
        rows = [self.validation]
        return learned, read_examples(job, rows, self.index, self.negatives, "validation")

    def facts(self, learned: list[Example]) -> dict[str, Any]:
        """For the `meta` of the trained model."""
        inherited = {name: self.model.meta[name] for name in INHERITED if name in self.model.meta}
        return {**inherited, "rows": len(learned), "negatives": len(learned[0].negatives)}

    def resources(self) -> Resources:
        """Also what searches the index."""
        lexical = {"bm25s": "finery[embed]"} if self.index else {}
        return super().resources() | Resources(packages=lexical)


class EmbedTrain(RetrieverTraining):
    """Train an embedding model on questions and the passages that answer them.

    The loss is MultipleNegativesRankingLoss of sentence-transformers (InfoNCE; Henderson et al.
    2017, https://arxiv.org/abs/1705.00652): each question must be closer to its passage than to all
    other passages of the batch, negatives included. No text occurs twice in a batch. The result is
    an embedding model for `embedder` of retrieve.index. Compare it with the untrained one in
    eval.retrieval, on questions about other documents.

    An interrupted training continues from its last checkpoint, and produces the same bytes as an
    uninterrupted one on a machine with the same hardware and packages.
    """

    per_device_train_batch_size: int = setting(
        16,
        ge=1,
        help="Texts in memory at once. If that is less than effective_batch_size, gradients are "
        "cached (GradCache, Gao et al. 2021, https://arxiv.org/abs/2101.06983): the loss is the "
        "same, and the training takes about a third longer.",
    )
    dimensions: list[int] = setting(
        [],
        help="Sizes that the first numbers of an embedding can be cut to with little loss, e.g. "
        "[384, 128] (Matryoshka, Kusupati et al. 2022, https://arxiv.org/abs/2205.13147); see "
        "`dimensions` of retrieve.index. Default: only the full size.",
    )

    def check(self) -> None:
        """Also refuse sizes of embeddings that no model has."""
        super().check()
        sizes = dict.fromkeys(size for size in self.dimensions if size > 0)
        if [*sizes] != self.dimensions:
            raise UsageError(
                f"`dimensions` must be different sizes of at least 1, but it is {self.dimensions}",
                where="dimensions",
                fix=f"dimensions: {[*sizes]}" if sizes else "remove it",
            )

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format for the checks of steps that take it."""
        return {"": Promise(Model, {"format": EMBEDDER})}

    def run(self, job: Job) -> Model:
        """Train, and describe the model."""
        from datasets import Dataset as Columns  # type: ignore[import-untyped]
        from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
        from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

        from finery_retrieve.train import running
        from finery_transformers.loading import quiet

        learned, held_out = self.examples(job)
        most = min(len({e.question for e in learned}), len({e.passage for e in learned}))
        if most == 1 and not learned[0].negatives:  # no batch would have two of them
            raise DataError(
                "the rows have no negatives and only one question or passage, so there is nothing "
                "to tell apart",
                where="rows",
                fix="add rows with other questions and passages, or use preferences: rows with "
                "chosen and rejected",
            )
        layout = self.model.meta["embedding"]

        def columns(examples: list[Example]) -> Any:
            numbers = range(len(examples[0].negatives))
            documents = {
                "positive": [e.passage for e in examples],
                **{f"negative_{n}": [e.negatives[n] for e in examples] for n in numbers},
            }
            asked = [layout["question_prefix"] + e.question for e in examples]
            prefix = layout["document_prefix"]
            found = {name: [prefix + text for text in of] for name, of in documents.items()}
            return Columns.from_dict({"anchor": asked, **found})

        class Trainer(running.Quiet, SentenceTransformerTrainer):
            pass

        with quiet():
            model = SentenceTransformer(str(self.model.path), local_files_only=True)
            self._check_dimensions(model.get_embedding_dimension())
            common = running.arguments(self, job, size=self.effective_batch_size, accumulated=1)
            trainer = Trainer(
                model=model,
                args=Arguments(**common, batch_sampler="no_duplicates"),
                train_dataset=columns(learned),
                eval_dataset=None if held_out is None else columns(held_out),
                loss=self._loss(model),
            )
            kept = running.train(trainer, job)
            trained = SentenceTransformer(str(job.out), local_files_only=True)
            values = trained.encode([learned[0].question], show_progress_bar=False)
            running.refuse_diverged(values, self.learning_rate)
        prefixes = layout["question_prefix"], layout["document_prefix"]
        embedding = layout_of(job.out, *prefixes).facts()
        meta: dict[str, Any] = {"format": EMBEDDER, "embedding": embedding}
        if self.dimensions:
            meta["dimensions"] = self.dimensions
        return Model(job.out, meta={**meta, **self.facts(learned), **kept.facts()})

    def _loss(self, model: Any) -> Any:
        from sentence_transformers.sentence_transformer import losses

        size = self.per_device_train_batch_size
        loss: Any
        if size < self.effective_batch_size:
            loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=size)
        else:
            loss = losses.MultipleNegativesRankingLoss(model)
        return losses.MatryoshkaLoss(model, loss, self.dimensions) if self.dimensions else loss

    def _check_dimensions(self, most: int | None) -> None:
        if most is not None and any(not 0 < size <= most for size in self.dimensions):
            raise UsageError(
                f"the model's embeddings have {most} numbers",
                where="dimensions",
                fix=f"use sizes from 1 to {most}",
            )


class RerankTrain(RetrieverTraining):
    """Train a reranker: a cross-encoder, which reads a question and a passage together.

    It gets a new head of one number, and learns with binary cross-entropy, in which the right
    passage of a question weighs as much as its negatives together. A reranker is more accurate than
    comparing embeddings, and too slow for all chunks: use it in retrieve.rerank, and compare the
    index with and without it in eval.retrieval. Take its negatives from the index that it will
    rerank.

    An interrupted training continues from its last checkpoint, and produces the same bytes as an
    uninterrupted one on a machine with the same hardware and packages.
    """

    negatives: int = setting(
        4, ge=1, le=100, help="Negatives of each question, if there is an `index`."
    )
    epochs: float = setting(2, gt=0, help="Passes over the rows.")
    effective_batch_size: int = setting(
        32, ge=2, help="Pairs of a question and a passage per optimizer step."
    )
    per_device_train_batch_size: int = setting(
        16, ge=1, help="Pairs in memory at once; gradients are accumulated."
    )

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format for the checks of steps that take it."""
        return {"": Promise(Model, {"format": RERANKER})}

    def check(self) -> None:
        """Also refuse batches that can't be divided."""
        super().check()
        size, each = self.effective_batch_size, self.per_device_train_batch_size
        if size % min(size, each):
            raise UsageError(
                f"effective_batch_size {size} is not a multiple of per_device_train_batch_size "
                f"{each}",
                where="effective_batch_size",
                fix=f"effective_batch_size: {max(1, round(size / each)) * each}",
            )

    def run(self, job: Job) -> Model:
        """Train, and describe the model."""
        import torch
        from datasets import Dataset as Columns
        from sentence_transformers import CrossEncoder, CrossEncoderTrainer
        from sentence_transformers import CrossEncoderTrainingArguments as Arguments
        from sentence_transformers.base.modules import Transformer
        from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
        from transformers import set_seed

        from finery_retrieve.train import running
        from finery_transformers.loading import quiet

        learned, held_out = self.examples(job)
        if not learned[0].negatives:
            raise DataError(
                "the rows have no negatives, so there is nothing to tell apart",
                fix="set index, or use preferences: rows with chosen and rejected",
            )

        def columns(examples: list[Example]) -> Any:
            pairs = [*chain.from_iterable(map(_pairs, examples))]
            names = ("query", "passage", "label")
            return Columns.from_dict(dict(zip(names, zip(*pairs, strict=True), strict=True)))

        class Trainer(running.Quiet, CrossEncoderTrainer):
            pass

        whole = self.effective_batch_size
        size = min(whole, self.per_device_train_batch_size)
        with quiet():
            set_seed(job.seed)  # of the new head
            encoder = Transformer(
                str(self.model.path),
                transformer_task="sequence-classification",
                model_kwargs={"local_files_only": True},
                config_kwargs={"num_labels": 1},
            )
            model = CrossEncoder(modules=[encoder])
            longest = self.model.meta["embedding"]["longest"]
            if longest is not None:
                model.max_seq_length = longest
            common = running.arguments(self, job, size=size, accumulated=whole // size)
            weight = torch.tensor(float(len(learned[0].negatives)))
            trainer = Trainer(
                model=model,
                args=Arguments(**common, batch_sampler=running.Shuffled),
                train_dataset=columns(learned),
                eval_dataset=None if held_out is None else columns(held_out),
                loss=BinaryCrossEntropyLoss(model, pos_weight=weight),
            )
            kept = running.train(trainer, job)
            trained = CrossEncoder(str(job.out), local_files_only=True)
            values = trained.predict(
                [(learned[0].question, learned[0].passage)],
                activation_fn=torch.nn.Identity(), show_progress_bar=False,
            )  # fmt: skip
            running.refuse_diverged(values, self.learning_rate)
        meta = {"format": RERANKER, "longest": model.max_seq_length}
        return Model(job.out, meta={**meta, **self.facts(learned), **kept.facts()})


def _pairs(example: Example) -> Iterator[tuple[str, str, float]]:
    """(question, passage, 1.0 if it answers the question)."""
    yield example.question, example.passage, 1.0
    for negative in example.negatives:
        yield example.question, negative, 0.0
