"""Supervised fine-tuning: learn the answers of rows."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from finery import Dataset, Job, setting, takes
from finery.rows import Row
from finery_trl.steps.training import TrlTraining

if TYPE_CHECKING:
    from finery_trl.rows.example import Proven
    from finery_trl.rows.tokens import Tokens


class Sft(TrlTraining):
    """Fine-tune a model on the answers of rows, with TRL: LoRA, QLoRA, or all weights.

    Loss lies on the completion's tokens alone, up to the end of its turn. Before the first
    optimizer step every row is proven to have loss, to end its turn, and to have the very prompt
    that the model will be asked. The weights with the lowest validation loss are kept (without
    `validation`, the last). An interrupted training goes on from its last checkpoint and ends
    with the bytes that it would have had.
    """

    rows: list[Dataset] = takes(role="train", help="Rows to learn, each with an answer.")
    neftune_noise_alpha: float | None = setting(
        None,
        gt=0,
        help="Noise on the embeddings in training, against overfitting (NEFTune, Jain et al. 2023, "
        "https://arxiv.org/abs/2310.05914); 5-15.",
    )
    packing: bool = setting(
        False,
        help="Lay the rows of a batch end to end in one sequence instead of padding them. Refused "
        "where the model's attention would let a row see its neighbours.",
    )

    def read(
        self, rows: Iterable[Row], tokens: "Tokens", job: Job, what: str
    ) -> "Iterable[Proven]":
        """Rows in tokens, with loss on their answers."""
        from finery_trl.rows.tokens import examples_of

        limits: Any = {"max_length": self.max_length, "too_long": self.too_long}
        return examples_of(rows, tokens, job, what=what, **limits)

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """TRL's SFTTrainer."""
        from trl.trainer.sft_config import SFTConfig

        from finery_trl.train.trainers import SftTrainer

        return (
            SftTrainer,
            SFTConfig,
            {"neftune_noise_alpha": self.neftune_noise_alpha, "padding_free": self.packing},
        )
