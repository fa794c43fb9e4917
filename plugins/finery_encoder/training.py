"""Trains encoders, with the trainers of transformers and SetFit, in the job's scratch folder.

Each epoch ends with a checkpoint, see `finery_trl.train.resuming`.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoModel, Trainer, TrainingArguments

from finery_baseline.answers import Lesson
from finery_encoder.head import targets_of
from finery_encoder.network import Classifier
from finery_transformers.imports import import_peft
from finery_trl.train.resuming import Ended, train

if TYPE_CHECKING:
    from finery_encoder.classify import Training

WARMUP = 0.1
"""Share of the optimizer steps during which the learning rate rises."""
Example = dict[str, Any]
"""A row for the trainer: `windows`, the token ids of each, and `targets`, see `head.targets_of`."""


class Learner(torch.nn.Module):
    """A network with its loss: the mean over fields, of the mean over rows.

    weights: of the classes. A row whose class no training row has doesn't count.
    """

    weights: torch.Tensor

    def __init__(self, network: Any, classifier: Classifier, weights: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        self._several = [field.several for field in classifier.fields]
        self._sizes = [len(field.classes) for field in classifier.fields]
        self.register_buffer("weights", weights, persistent=False)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        rows: torch.Tensor,
        labels: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The loss and the logits. rows: the number of the row of each window."""
        windows = self.network(input_ids, attention_mask)
        sums = windows.new_zeros(labels.shape).index_add(0, rows, windows)
        logits = sums / rows.bincount(minlength=len(labels)).unsqueeze(1)
        parts = (tensor.split(self._sizes, dim=-1) for tensor in (logits, labels, self.weights))
        losses = [
            binary_cross_entropy_with_logits(x, y, pos_weight=weight)
            if several
            else cross_entropy(x, y.argmax(1).where(y.any(1), -100), weight=weight)
            for several, x, y, weight in zip(self._several, *parts, strict=True)
        ]
        return {"loss": torch.stack(losses).nanmean(), "logits": logits}


def train_full(training: "Training") -> tuple[Ended, int]:
    """Train all weights of the network, or an adapter; also how many weights were trained."""
    step, classifier, network = training.step, training.classifier, training.network

    def examples(lessons: Sequence[Lesson]) -> list[Example]:
        encoded = classifier.encode(training.tokenizer, [lesson.question for lesson in lessons])
        targets = [targets_of(classifier.fields, lesson) for lesson in lessons]
        return [
            {"windows": windows, "targets": of}
            for windows, of in zip(encoded, targets, strict=True)
        ]

    if step.lora is not None:
        import_peft()
        from peft import get_peft_model

        network.encoder = get_peft_model(
            network.encoder, step.lora.peft_config("FEATURE_EXTRACTION")
        )
    learned = examples(training.lessons)
    # Rows of classes that no training row has would have no loss.
    held_out = [one for one in examples(training.held_out) if any(one["targets"])] or None
    targets = torch.tensor([example["targets"] for example in learned])
    weights = torch.ones(targets.shape[1])
    if step.class_weight == "balanced":
        sizes = [len(field.classes) for field in classifier.fields for _ in field.classes]
        weights = len(targets) / (torch.tensor(sizes) * targets.sum(dim=0))
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(training.job.scratch / "training"),
        seed=training.job.seed,
        num_train_epochs=step.epochs_or_default,
        learning_rate=step.learning_rate_or_default,
        warmup_steps=WARMUP,
        weight_decay=0.01,
        per_device_train_batch_size=step.effective_batch_size,
        per_device_eval_batch_size=step.effective_batch_size,
        eval_strategy="no" if held_out is None else "epoch",
        save_strategy="epoch",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        report_to="none",
    )
    arguments._n_gpu = min(1, arguments.n_gpu)

    def collated(batch: Sequence[Example]) -> dict[str, torch.Tensor]:
        windows = [ids for example in batch for ids in example["windows"]]
        padded = training.tokenizer.pad(
            {"input_ids": windows}, padding_side="right", return_tensors="pt"
        )
        rows = [i for i, example in enumerate(batch) for _ in example["windows"]]
        return {
            "input_ids": padded["input_ids"],
            "attention_mask": padded["attention_mask"],
            "rows": torch.tensor(rows),
            "labels": torch.tensor([example["targets"] for example in batch]),
        }

    learner = Learner(network, classifier, weights)
    trainer = Trainer(
        model=learner,
        args=arguments,
        train_dataset=learned,
        eval_dataset=held_out,
        data_collator=collated,
    )
    ended = train(trainer, training.job)
    learner.load_state_dict(load_file(ended.checkpoint / "model.safetensors"))
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if step.lora is not None:
        network.encoder = network.encoder.merge_and_unload()
    return ended, trainable


def train_setfit(training: "Training") -> Ended:
    """Move the embeddings of equal answers together, with SetFit.

    SetFit (Tunstall et al. 2022, https://arxiv.org/abs/2209.11055): pairs of texts, half of them
    with equal answers, and a loss on the cosine of their embeddings. The encoder is trained in
    place.
    """
    import setfit
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    step, classifier = training.step, training.classifier
    encoder, lessons = training.network.encoder, training.lessons
    reader = Transformer(
        str(step.model.path),
        max_seq_length=classifier.max_length,
        do_lower_case=classifier.lower,
    )
    reader.model = encoder
    pooling = Pooling(encoder.config.hidden_size, pooling_mode=classifier.pooling)
    body = SentenceTransformer(modules=[reader, pooling, Normalize()])
    texts = [classifier.prefix + lesson.question for lesson in lessons]
    numbers = {answer: i for i, answer in enumerate(sorted({str(x.parts) for x in lessons}))}
    arguments = setfit.TrainingArguments(
        output_dir=str(training.job.scratch / "training"),
        seed=training.job.seed,
        num_epochs=step.epochs_or_default,
        num_iterations=step.num_iterations,
        body_learning_rate=step.learning_rate_or_default,
        batch_size=step.effective_batch_size,
        warmup_proportion=WARMUP,
        save_strategy="epoch",
        save_total_limit=None,
        logging_steps=1,
        show_progress_bar=False,
        report_to="none",
    )
    outer = setfit.Trainer(model=setfit.SetFitModel(model_body=body), args=arguments)
    trainer, labels = outer.st_trainer, [numbers[str(lesson.parts)] for lesson in lessons]
    trainer.train_dataset, trainer.loss = outer.get_dataset(texts, labels, args=arguments)
    trainer.args.disable_tqdm = True
    trainer.args.logging_nan_inf_filter = False
    # The card of a checkpoint would ask the hub about the model.
    body.save_pretrained = partial(  # type: ignore[method-assign]
        body.save_pretrained, create_model_card=False
    )
    ended = train(trainer, training.job)
    trained = AutoModel.from_pretrained(
        ended.checkpoint, local_files_only=True, dtype=torch.float32
    )
    encoder.load_state_dict(trained.state_dict())
    return ended
