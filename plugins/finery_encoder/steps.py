"""`encoder.classify`: trains a classifier on an encoder."""

from typing import Literal

from finery import Dataset, Job, Key, Model, Promise, Resources, UsageError, setting, takes
from finery_baseline.answers import FieldsStep, lessons_of
from finery_encoder.embedding import check_encoder
from finery_encoder.head import fields_of, named_classes
from finery_trl.settings import Lora
from finery_trl.view.live import METRICS

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "scikit-learn", "scipy",
)  # fmt: skip
TRAINER, SETFIT = ("accelerate",), ("accelerate", "setfit", "sentence-transformers", "datasets")


class Classify(
    FieldsStep,
    sections=("train", "models"),
    family="encoder",
    isolated=True,
    packages=PACKAGES,
    gpus=1,
    metrics=METRICS,
    rehearsal={"epochs": 1, "num_iterations": 1},
):
    """Train a classifier on an encoder such as all-MiniLM-L6-v2, ModernBERT or DeBERTa.

    Each field of the answer (or the answer as a whole) has a linear layer on the pooled last states
    of the encoder. A field whose values are JSON lists can have any number of its classes. `train`
    says what is learned. The model answers in the form of the training rows, and says how probable
    its answer is, for `abstain_below` of `eval.classification`. With `validation`, the
    probabilities are calibrated. Many classification tasks don't need a language model.

    An interrupted training continues from the end of its last complete epoch, and produces the same
    bytes. With one epoch, as is usual with setfit, it starts again.

    Raises DataError for answers that are free text.
    """

    model: Model = takes(
        role="base",
        help="The encoder: a step of retrieve.wheel or retrieve.embedder, or a Hugging Face folder "
        "by hub.model or local.model.",
    )
    validation: Dataset | None = takes(
        None,
        role="validation",
        help="Rows to calibrate the probabilities on and, with `train: full`, to choose the epoch.",
    )
    train: Literal["head", "setfit", "full"] = setting(
        "head",
        help="head: only a logistic regression on the embeddings, in seconds; setfit: first "
        "embeddings that are alike within a class (SetFit, for few rows per class); full: then "
        "all weights, or an adapter with `lora`.",
    )
    c: float | None = setting(
        None,
        gt=0,
        help="Inverse strength of the regularisation of the logistic regression. Default: 10.",
    )
    class_weight: Literal["balanced"] | None = setting(
        None, help="balanced: rare classes count as much as frequent ones."
    )
    class_names: bool = setting(
        False,
        help="Also learn the name of each class as a row, e.g. `card arrival` of `card_arrival`. "
        "Helps if there are few rows per class and the names say what the classes are about. For "
        "answers with one label.",
    )
    lora: Lora | None = setting(
        None, help="The adapter to train with full. It is merged at the end."
    )
    epochs: int | None = setting(
        None, ge=1, help="Passes over the rows. Default: 1 with setfit, 5 with full."
    )
    learning_rate: float | None = setting(
        None,
        gt=0,
        help="Peak learning rate. Default: 2e-5 with setfit, 5e-5 with full, 5e-4 with lora.",
    )
    effective_batch_size: int = setting(
        16, ge=1, help="Rows per optimizer step; with setfit, pairs of rows."
    )
    num_iterations: int = setting(
        20,
        ge=1,
        help="Pairs of each row with a row of its class, and as many with one of another class, "
        "for setfit. Lower it if there are many rows.",
    )
    pooling: Literal["mean", "cls"] | None = setting(
        None,
        help="How the last states become one vector. Default: what the model's folder says, else "
        "mean.",
    )
    max_length: int | None = setting(
        None, ge=8, help="Tokens of a window. Default: as many as the model reads, at most 512."
    )
    windows: int = setting(
        1,
        ge=1,
        help="Most windows that a long text is divided into. Their logits are averaged. Further "
        "tokens are cut off.",
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that `train` doesn't use, and for other models."""
        trainings = {
            "lora": ("full",),
            "epochs": ("setfit", "full"),
            "learning_rate": ("setfit", "full"),
        }
        for name, used in trainings.items():
            if getattr(self, name) is not None and self.train not in used:
                raise UsageError(
                    f"train: {self.train} doesn't use {name}",
                    where=name,
                    fix=f"remove it, or set train: {used[-1]}",
                )
        check_encoder(self.model, "encoder.classify")

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format and the step type that ships it."""
        return {"": Promise(Model, {"format": "encoder", "bundle": "serve.bundle"})}

    def cache_key(self) -> Key:
        """Also the packages of the trainer. A logistic regression doesn't need the seed."""
        return Key(packages=self._packages(), seeded=self.train != "head")

    def resources(self) -> Resources:
        """The same packages."""
        installs = dict.fromkeys(self._packages(), "finery[encoder]")
        return super().resources() | Resources(packages=installs)

    def _packages(self) -> tuple[str, ...]:
        more = {"head": (), "setfit": SETFIT, "full": TRAINER}[self.train]
        return (*PACKAGES, *more, *(("peft",) if self.lora is not None else ()))

    @property
    def c_or_default(self) -> float:
        """The inverse strength of the regularisation."""
        return self.c or 10.0

    @property
    def epochs_or_default(self) -> int:
        """The passes over the rows."""
        return self.epochs or (1 if self.train == "setfit" else 5)

    @property
    def learning_rate_or_default(self) -> float:
        """The peak learning rate."""
        default = 2e-5 if self.train == "setfit" else 5e-5 if self.lora is None else 5e-4
        return self.learning_rate or default

    def run(self, job: Job) -> Model:
        """Train, write the model, and calibrate its probabilities."""
        shape, lessons = lessons_of(self.rows, self.fields)
        fields = fields_of(shape, lessons)  # before torch is loaded
        named = named_classes(fields) if self.class_names else []
        from finery_encoder.classify import run

        return run(self, job, shape, fields, lessons, named)
