"""Supervised fine-tuning: learn the answers in rows."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from finery import Dataset, Job, setting, takes
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
    packages. If an operation has no deterministic kernel on a GPU, the bytes can differ, and the
    log names the operation.
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
        "are those of a request without thinking.",
    )
    packing: bool = setting(
        False,
        help="Concatenate the rows of a batch into one sequence instead of padding them. This is "
        "an error if the model's attention would let a row see its neighbors.",
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
