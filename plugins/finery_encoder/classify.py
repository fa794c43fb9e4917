"""From rows and an encoder to the files of a classifier."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import torch
from safetensors.torch import save_file

from finery import DataError, Dataset, Job, Model, StepError, UsageError, outside_key
from finery.advanced import counted
from finery.rows import example_request
from finery_baseline.answers import Lesson, Shape, lessons_of
from finery_encoder.embedding import LONGEST, classifier_on, open_encoder
from finery_encoder.head import calibrated, fit, mistakes, targets_of
from finery_encoder.network import HEAD, WHOLE, Answers, Classifier, Field, network
from finery_local.folder import LOADED

if TYPE_CHECKING:
    from finery_encoder.steps import Classify
    from finery_trl.train.resuming import Ended

INHERITED = ("license", "architecture")
"""Facts about a model that also hold for models trained from it."""
FEW_MISTAKES = 5
"""Fewer wrong validation rows say little about how sure a classifier may be."""


class Training(NamedTuple):
    """What is trained in place: `network`, on `lessons`."""

    step: "Classify"
    job: Job
    classifier: Classifier
    network: Any
    tokenizer: Any
    lessons: Sequence[Lesson]
    held_out: Sequence[Lesson]


def run(
    step: "Classify",
    job: Job,
    shape: Shape,
    fields: list[Field],
    lessons: Sequence[Lesson],
    named: Sequence[Lesson],
) -> Model:
    """Train, write the model, and calibrate its probabilities. named: further rows to learn."""
    sizes = ", ".join(
        f"{field.name}: 1 class" if len(field.classes) == 1
        else f"{field.name}: {len(field.classes)} classes"
        for field in fields
    )  # fmt: skip
    more = f" and {counted(len(named), 'name')} of classes" if named else ""
    job.log(f"learns from {counted(len(lessons), 'row')}{more}, {sizes}")
    held_out = [] if step.validation is None else _held_out(step.validation, shape)
    if unseen := sum(_is_unseen(fields, one) for one in held_out):
        job.log(
            "validation: answers with a class that no training row has, which can't be predicted: "
            f"{unseen} of {len(held_out)}"
        )
    job.progress(0, 1, "loading the model")
    if step.train != "head":
        torch.manual_seed(job.seed)  # of new layers
    encoder, tokenizer = open_encoder(step.model)
    classifier = _classifier(step, shape.form, fields, encoder, tokenizer)
    model = network(encoder, classifier)
    learned = [*lessons, *named]
    facts, ended = _trained(Training(step, job, classifier, model, tokenizer, learned, held_out))
    _write(step, classifier, model, job)
    if ended is not None:
        ended.write_curve(job.out)
    if held_out:
        logits = [*Answers(job.out).logits([lesson.question for lesson in held_out])]
        targets = [targets_of(fields, one) for one in held_out]
        classifier = calibrated(classifier, logits, targets)
        classifier.write(job.out)
        wrong = mistakes(classifier, logits, targets)
        few = ": too few mistakes to calibrate well" if wrong < FEW_MISTAKES else ""
        job.log(
            f"calibrates probabilities on {counted(len(held_out), 'validation row')}, {wrong} of "
            f"them wrong{few}; temperature "
            + ", ".join(f"{field.temperature:g}" for field in classifier.fields)
        )
    meta = {
        "format": "encoder",
        "bundle": "serve.bundle",
        "baseline": "encoder",
        "trained": step.train,
        "rows": len(lessons),
        **facts,
        "shape": {"form": shape.form, "fields": list(shape.fields)},
        "training_example": example_request({"prompt": lesson.question} for lesson in lessons),
        **{name: step.model.meta[name] for name in INHERITED if name in step.model.meta},
    }
    return Model(job.out, meta=meta, runtime={"settings": _settings_used(step, classifier)})


@outside_key
def _settings_used(step: "Classify", classifier: Classifier) -> dict[str, tuple[Any, str]]:
    """Setting → (value, why it is that), of those that the recipe may leave open."""
    values = {"c": step.c_or_default, "max_length": classifier.max_length}
    if step.train != "head":
        values |= {"epochs": step.epochs_or_default, "learning_rate": step.learning_rate_or_default}
    by_model = "" if step.pooling else "what the model's folder says, else mean"
    return {name: (value, "") for name, value in values.items()} | {
        "pooling": (classifier.pooling, by_model)
    }


def _is_unseen(fields: list[Field], lesson: Lesson) -> bool:
    return any(
        not field.several and value not in field.classes
        for field, value in zip(fields, lesson.parts, strict=True)
    )


def _held_out(validation: Dataset, shape: Shape) -> list[Lesson]:
    """The validation rows, with their answers in the form of the training rows."""
    found, lessons = lessons_of(validation, shape.fields)
    if shape.form == WHOLE:
        return [msgspec.structs.replace(one, parts=shape.parts(one.answer)) for one in lessons]
    if found.form != shape.form:
        raise DataError(
            "the answers of `validation` have another form than those of `rows`",
            where="validation",
            fix="write all answers as JSON objects, or all as lines `field: value`",
        )
    return lessons


def _classifier(
    step: "Classify", form: str, fields: list[Field], encoder: Any, tokenizer: Any
) -> Classifier:
    """The classifier before its training. `UsageError` for a length that the model can't read."""
    classifier = classifier_on(step.model, encoder, tokenizer, form, fields)
    longest = classifier.max_length
    if step.max_length is not None and step.max_length > longest:
        raise UsageError(
            f"the model reads at most {longest} tokens",
            where="max_length",
            fix=f"max_length: {longest}; for longer texts, windows: 4",
        )
    return classifier._replace(
        pooling=step.pooling or classifier.pooling,
        max_length=step.max_length or min(longest, LONGEST),
        windows=step.windows,
    )


def _trained(training: Training) -> "tuple[dict[str, Any], Ended | None]":
    """Train the network: (facts about that, how a training with epochs ended)."""
    step, model = training.step, training.network
    parameters = sum(p.numel() for p in model.parameters())
    trainable, ended = sum(p.numel() for p in model.head.parameters()), None
    if step.train == "setfit":
        from finery_encoder.training import train_setfit

        ended, trainable = train_setfit(training), parameters
    _fit_head(training)
    if step.train == "full":
        from finery_encoder.training import train_full

        ended, trainable = train_full(training)
        _vectors(training._replace(lessons=training.lessons[:1]))  # raises if it diverged
    facts = {"parameters": parameters, "trainable_parameters": trainable}
    return facts | (ended.facts() if ended is not None else {}), ended


def _fit_head(training: Training) -> None:
    """Make the linear layer a logistic regression on the encoder's vectors.

    A training of all weights goes on from there: it keeps more of what the encoder knows than one
    that begins with random numbers (Kumar et al. 2022, https://arxiv.org/abs/2202.10054).
    """
    weights, bias = fit(
        training.classifier, _vectors(training), training.lessons,
        c=training.step.c_or_default, class_weight=training.step.class_weight,
    )  # fmt: skip
    training.network.head.load_state_dict(
        {"weight": torch.from_numpy(weights), "bias": torch.from_numpy(bias)}
    )


def _vectors(training: Training) -> Any:
    """The pooled vector of each row [rows, width], the mean of its windows', as NumPy array.

    One window at a time, as in the answers. Raises `StepError` for a network whose weights or
    logits are no longer finite numbers.
    """
    model = training.network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    texts = [lesson.question for lesson in training.lessons]
    vectors = []
    with torch.inference_mode():
        for i, windows in enumerate(training.classifier.encode(training.tokenizer, texts)):
            training.job.progress(i, len(texts), "embedding rows")
            ids = [torch.tensor([window], device=model.head.weight.device) for window in windows]
            pooled = torch.cat([model.pooled(one, torch.ones_like(one)) for one in ids])
            vectors.append(pooled.mean(dim=0).cpu())
            if not model.head(pooled).isfinite().all():
                is_trained = training.step.train != "head"
                raise StepError(
                    "the training diverged: the model's logits aren't finite numbers"
                    if is_trained
                    else "the encoder's embeddings aren't finite numbers",
                    fix="lower learning_rate" if is_trained else "use another encoder",
                )
    return torch.stack(vectors).numpy()


def _write(step: "Classify", classifier: Classifier, model: Any, job: Job) -> None:
    """Fill `job.out`. A frozen encoder's files are copied, so that the store has them once."""
    for path in step.model.path.iterdir():
        is_network = path.name == "config.json" or "safetensors" in path.name
        is_wanted = any(fnmatchcase(path.name, pattern) for pattern in LOADED)
        if path.is_file() and is_wanted and (step.train == "head" or not is_network):
            job.copy(path, path.name)
    if step.train != "head":
        model.encoder.cpu().save_pretrained(job.out)
    head = {name: value.cpu().contiguous() for name, value in model.head.state_dict().items()}
    save_file(head, job.out / HEAD)
    classifier.write(job.out)
