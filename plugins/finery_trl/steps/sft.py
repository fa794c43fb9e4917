"""Supervised fine-tuning: learn the answers in rows."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from finery import Dataset, Job, Model, UsageError, setting, takes
from finery.rows import Row
from finery_trl.steps.training import TrlTraining

if TYPE_CHECKING:
    from finery_trl.rows.example import Proven
    from finery_trl.rows.tokens import Tokens
    from finery_trl.rows.turns import Learn


class Sft(TrlTraining):
    """Fine-tune a model on the answers in rows, with TRL: LoRA, QLoRA, or all weights.

    The loss covers only the tokens of the assistant's turns, each up to its end: all turns of
    `messages`, or those of the completion. It never covers what users and tools say. Before the
    first optimizer step, finery verifies that every learned turn contributes to the loss, ends, and
    follows the exact prompt used at inference. The weights with the lowest validation loss are kept
    (without `validation`, the last). An interrupted training continues from its last checkpoint
    and produces the same bytes as an uninterrupted one on a machine with the same hardware and
    packages. The log names an operation that has no deterministic kernel on a GPU, where this
    doesn't hold.
    """

    rows: list[Dataset] = takes(role="train", help="Rows to train on, each with an answer.")
    loss: Literal["all_turns", "last_turn", "marked"] = setting(
        "all_turns",
        help="The assistant turns to learn: all, the last of each row, or those without "
        "`weight: 0` (as in OpenAI's fine-tuning format). Of rows with prompt and completion, only "
        "turns in the completion are learned.",
    )
    thinking: Literal["learned", "masked"] = setting(
        "learned",
        help="Whether the loss covers the thinking in answers (`reasoning_content`, or a "
        "`<think>` block in the text).",
    )
    without_thinking: Literal["template", "switch"] = setting(
        "template",
        help="Rows without thinking, on a chat template that can switch thinking off: `template` "
        "calls the template as for other rows (most then write an empty think block, which is "
        "learned); `switch` renders these rows with thinking switched off, so that their prompts "
        "are those of a model that is told not to think.",
    )
    packing: bool = setting(
        False,
        help="Concatenate the rows of a batch into one sequence instead of padding them. This is "
        "an error if the model's attention would let a row see its neighbors.",
    )

    stop_at: float | None = setting(
        None,
        gt=0,
        lt=1,
        help="Stop after this share of all optimizer steps, with the state that another training "
        "needs to go on: the optimizer, the learning-rate schedule of the whole training, random "
        "states and the place in the rows. The model has the weights at the stop.",
    )
    resume_from: Model | None = takes(
        None,
        role="base",
        help="A training with the same settings, rows and seed that was stopped by `stop_at`, to "
        "go on from. The result is the same as if the training had never stopped.",
    )

    @property
    def share(self) -> float | None:
        """The share of all optimizer steps to stop after."""
        return self.stop_at

    @property
    def earlier(self) -> Model | None:
        """The stopped training that this one goes on from."""
        return self.resume_from

    def static_meta(self) -> dict[str, Any]:
        """Also where the training stops."""
        return super().static_meta() | ({} if self.stop_at is None else {"stop_at": self.stop_at})

    def check(self) -> None:
        """Also refuse a stop before that of the earlier training, or in several processes."""
        super().check()
        if self.launch is not None and (self.stop_at is not None or self.resume_from is not None):
            raise UsageError(
                "a training in several processes can't stop and go on in another step",
                where="launch",
                fix="remove launch, or stop_at and resume_from",
            )
        before = None if self.resume_from is None else self.resume_from.meta.get("stop_at")
        if before is not None and self.stop_at is not None and self.stop_at <= before:
            raise UsageError(
                f"stop_at is {self.stop_at:g}, but resume_from was stopped at {before:g}",
                where="stop_at",
                fix=f"give a share above {before:g}, or remove stop_at to train to the end",
            )

    def read(
        self, rows: Iterable[Row], tokens: "Tokens", job: Job, what: str
    ) -> "Iterable[Proven]":
        """Rows as tokens, with loss on their turns."""
        from finery_trl.rows.tokens import examples_of

        limits: Any = {"max_length": self.max_length, "too_long": self.too_long}
        return examples_of(rows, tokens, job, what=what, learn=self.learn(), **limits)

    def learn(self) -> "Learn":
        """The turns to learn, from the settings."""
        from finery_trl.rows.turns import Learn

        return Learn(self.loss, self.thinking, self.without_thinking)

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """TRL's SFTTrainer."""
        from trl.trainer.sft_config import SFTConfig

        from finery_trl.train.trainers import SftTrainer

        return SftTrainer, SFTConfig, {"padding_free": self.packing}
