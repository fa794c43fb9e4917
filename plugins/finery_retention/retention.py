"""`eval.retention`: did a model forget what it could do before it was tuned?"""

import gc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from finery import Completion, File, Job, Key, Metrics, Model, Resources, UsageError, setting
from finery_eval.evaluator import Better, Gated
from finery_retention.result import PROBABILITY, SOLVED, UNBOUNDED, Result
from finery_retention.tasks import Item, TaskName, items_of
from finery_retention.text import SHIPPED, passages
from finery_transformers.precision import auto_dtype

if TYPE_CHECKING:
    from finery_transformers.scoring import TextLikelihood

PACKAGES = ("reasoning-gym", "torch", "transformers", "peft", "tokenizers", "gguf")
NONE = "none"
LOADABLE = ("transformers", "adapter", "gguf")
"""Formats with weights on this machine, which give the likelihood of a text."""


class Retention(
    Gated,
    engines=True,
    seeded=False,
    packages=PACKAGES,
    gpus=1,
    version="1",
    rehearsal={"items": 5, "text_bytes": 500, "max_tokens": 8},
):
    """Measure whether models forgot general abilities in their training; name the base first.

    `solved` is the share of procedural tasks that a model solves, each after `shots` solved ones.
    Questions and verifiers come from reasoning-gym, with fixed seeds. `byte_probability` is the
    geometric mean of the probability of a byte of general text; `bits_per_byte` and `perplexity`
    (per token) are the same likelihood in other units. Only `perplexity` depends on the tokenizer.

    Each model is compared with the first on the same items: Newcombe's paired interval (1998,
    method 10) and the exact McNemar test on the tasks; the paired bootstrap over passages (Efron
    and Tibshirani 1993) and the exact sign test on the text. A model "lost" an ability if the
    interval shows a loss above `margin`, and "kept" it if the interval excludes such a loss.

    Texts are scored with transformers: Hugging Face folders, adapters, GGUF files (dequantised).
    Models behind an API give no likelihoods. With `text: none`, they only do the tasks.
    """

    tasks: list[TaskName] = setting(
        ["letters", "products", "sorting", "sums", "syllogisms"],
        help="The procedural tasks. With an empty list, only the text is scored.",
    )
    items: int = setting(25, ge=5, le=1000, help="Questions of each task.")
    shots: int = setting(3, ge=0, le=20, help="Solved questions before each question.")
    text: File | None = setting(
        None,
        may_be="name",
        help="A text file that models shouldn't get worse at. Default: a built-in text of 1889. "
        "`none` scores no text.",
        examples=["texts/general.txt", "none"],
    )
    text_bytes: int = setting(
        16_000, ge=500, help="How much of the text is scored, from its beginning, in bytes."
    )
    margin: float = setting(
        0.05, gt=0, lt=1, help="The loss that is tolerated, as a share: 0.05 is 5 points."
    )
    max_tokens: int = setting(32, ge=1, help="Longest answer to a question, in tokens.")

    def metric_names(self) -> list[str]:
        """The metrics of each model, the headline first."""
        text = [PROBABILITY, *UNBOUNDED] if self._has_text() else []
        return [*([SOLVED] if self.tasks else []), *text]

    def unbounded(self) -> Mapping[str, Better]:
        """The likelihood in units that aren't shares."""
        return UNBOUNDED

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        if self.text is not None and not self.text.paths and self.text.name == NONE:
            if not self.tasks:
                raise UsageError(
                    "neither tasks nor a text is left to measure",
                    where="text",
                    fix="remove text: none, or name `tasks`",
                )
        elif self.text is not None and self.text.name:
            raise UsageError(
                f"'{self.text.patterns[0]}' isn't a text file",
                where="text",
                fix=f"write text: {NONE}, or a path with a dot or a slash, e.g. texts/general.txt",
            )
        if len(set(self.tasks)) < len(self.tasks):
            raise UsageError("a task is listed twice", where="tasks", fix="list each task once")
        super().check()

    def _has_text(self) -> bool:
        return self.text is None or self.text.patterns[0] != NONE

    def cache_key(self) -> Key:
        """For a text to score: the dtype of the models, and the text itself if it is ours."""
        facts = {"dtype": auto_dtype()} if self._has_text() else {}
        return super().cache_key() | Key(code=(SHIPPED,) if self.text is None else (), facts=facts)

    def resources(self) -> Resources:
        """A GPU where a text is scored, one model after the other."""
        return Resources(gpus=1 if self._has_text() else 0)

    def run(self, job: Job) -> Metrics:
        """Ask the questions, score the text, compare the models with the first."""
        self._refuse_unscorable()
        items = [item for name in self.tasks for item in items_of(name, self.items, self.shots)]
        texts = self._passages()
        answers = {model.name: self._answers(job, model, items) for model in self.models}
        likelihoods = {model.name: self._likelihoods(job, model, texts) for model in self.models}
        return Result(items, texts, answers, likelihoods).write(job, self.margin)

    def _refuse_unscorable(self) -> None:
        odd = [m for m in self.models if m.format not in LOADABLE] if self._has_text() else []
        if odd:
            raise UsageError(
                f"the text can't be scored with '{odd[0].name}': a model of format "
                f"'{odd[0].format}' gives no likelihood of a text",
                where="text",
                fix=f"write text: {NONE}, or name models that are files on this machine",
            )

    def _passages(self) -> list[str]:
        if not self._has_text():
            return []
        return passages(SHIPPED if self.text is None else self.text.path, self.text_bytes)

    def _answers(self, job: Job, model: Model, items: Sequence[Item]) -> list[Completion]:
        if not items:
            return []
        answers = job.engine(model).generate(
            [item.messages for item in items], max_tokens=self.max_tokens, temperature=0.0, seed=0,
            refusals=True, progress=model.name,
        )  # fmt: skip
        gc.collect()  # the next model may need the memory of this one
        return answers

    def _likelihoods(self, job: Job, model: Model, texts: Sequence[str]) -> "list[TextLikelihood]":
        if not texts:
            return []
        from finery_transformers.scoring import text_likelihoods

        scored = text_likelihoods(
            model, texts, lambda done, total: job.progress(done, total, f"{model.name}: text")
        )
        gc.collect()
        return scored
