"""The base of step types whose model writes the answers that it learns from."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from finery import Dataset, Job, Model, UsageError, setting, takes
from finery.rows import Row
from finery_trl.settings import MOST_EPOCHS
from finery_trl.steps import TrlTraining

if TYPE_CHECKING:
    from finery_trl.rows.example import Proven
    from finery_trl.rows.tokens import Reading, Tokens


class OnPolicy(TrlTraining, learns="rewards"):
    """Train a model on its own answers to the prompts of rows.

    Subclasses set `learns` and `config`, and implement `trainer` with a subclass of
    `train.on_policy.OnPolicyTrainer` and `arguments`, which gives it more than the tokens.
    """

    estimated = False
    on_policy = True

    model: Model = takes(role="base", help="The model to train, usually the output of `trl.sft`.")
    rows: list[Dataset] = takes(
        role="train",
        help="Rows with prompts. Their answers are not learned, but may be what is expected.",
    )
    adapter: Literal["new", "continue"] = setting(
        "continue",
        help="If `model` is itself an adapter: `continue` trains it further (omit `lora`, since "
        "the adapter keeps its shape); `new` merges it and trains a new one on top.",
    )
    epochs: float = setting(1, gt=0, le=MOST_EPOCHS, help="Passes over the prompts.")
    learning_rate: float = setting(
        1e-5, gt=0, help="Peak learning rate, far lower than in supervised fine-tuning."
    )
    max_completion_length: int = setting(
        128, ge=1, help="Longest answer in tokens; longer ones are cut off."
    )
    max_length: int = setting(
        1024, ge=8, help="Maximum length of a prompt with the longest answer, in tokens."
    )
    temperature: float = setting(1.0, gt=0, help="Sampling temperature of the answers.")

    def check(self) -> None:
        """Also refuse what isn't supported where the model writes the answers."""
        super().check()
        if self.validation is not None:
            raise UsageError(
                "the answers of rows aren't learned here, so there is no validation loss",
                where="validation",
                fix="watch: an evaluator on these rows",
            )
        if self.launch is not None:
            raise UsageError(
                "this step type trains in one process",
                where="launch",
                fix="remove launch; on a GPU, args: {use_vllm: true, vllm_mode: colocate} answers "
                "faster",
            )
        if self.eval_steps is not None and self.eval_steps % self.shared_steps:
            raise UsageError(
                f"eval_steps {self.eval_steps} is not a multiple of the {self.shared_steps} "
                "optimizer steps that learn from the same answers",
                where="eval_steps",
                fix=f"eval_steps: {-(-self.eval_steps // self.shared_steps) * self.shared_steps}",
            )

    @property
    def best_by(self) -> str:
        """By default the first metric of `watch`, since there is no validation loss."""
        if self.watch is None or self.metric_for_best_model != "eval_loss":
            return self.metric_for_best_model
        names: list[str] = getattr(self.watch, "metric_names", lambda: ["eval_loss"])()
        return names[0]

    def read(self, rows: Iterable[Row], reading: "Reading") -> "Iterable[Proven]":
        """Prompts as tokens."""
        from finery_trl.rows.tokens import prompts_of

        return prompts_of(rows, reading, self.max_completion_length)

    def arguments(self, tokens: "Tokens", job: Job) -> dict[str, Any]:
        """The tokens, with which the trainer ends answers."""
        return {"tokens": tokens}
