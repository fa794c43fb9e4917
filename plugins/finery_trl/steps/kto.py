"""Kahneman-Tversky optimization: learn from answers that are rated good or bad."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finery import Dataset, Job, UsageError, setting, takes
from finery.rows import Row
from finery_trl.steps.preference import Preference

if TYPE_CHECKING:
    from finery_trl.rows.example import Proven
    from finery_trl.rows.tokens import Tokens


class Kto(Preference, learns="ratings", hints="finery_trl.hints:KTO"):
    """Train a model on single answers rated good or bad, with TRL's KTO.

    Kahneman-Tversky optimization (Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306), for
    thumbs-up and thumbs-down ratings without pairs. The untrained model is the reference. Rows are
    verified as in `trl.sft`.
    """

    rows: list[Dataset] = takes(
        role="train",
        help="Rows with a prompt, a completion and `label: true` (good) or `false` (bad). A "
        "preference counts as one good and one bad answer.",
    )
    loss_type: Literal["kto", "apo_zero_unpaired"] = setting(
        "kto", help="The loss, as named by TRL; apo_zero_unpaired doesn't estimate the drift."
    )
    config: ClassVar[str] = "trl.trainer.kto_config:KTOConfig"

    def check(self) -> None:
        """Also refuse batches of one row, in which KTO can't estimate the drift."""
        super().check()
        reason = (
            "KTO estimates the drift of the model from other rows of a batch, so it needs at least "
            "two rows in memory"
        )
        instead = "loss_type: apo_zero_unpaired"
        if (self.per_device_train_batch_size or self.fewest_rows) < self.fewest_rows:
            raise UsageError(
                reason,
                where="per_device_train_batch_size",
                fix=f"per_device_train_batch_size: 2, or {instead}",
            )
        needed = self.fewest_processes * self.fewest_rows
        if self.effective_batch_size < needed:
            raise UsageError(
                reason + (" of each process" if self.fewest_processes > 1 else ""),
                where="effective_batch_size",
                fix=f"effective_batch_size: {needed}, or {instead}",
            )

    @property
    def fewest_rows(self) -> int:
        """Two where the drift is estimated from pairs of rows."""
        return 2 if self.loss_type == "kto" else 1

    def read(
        self, rows: Iterable[Row], tokens: "Tokens", job: Job, what: str
    ) -> "Iterable[Proven]":
        """Rated answers as tokens."""
        from finery_trl.rows.pairs import ratings_of

        limits: Any = {"max_length": self.max_length, "too_long": self.too_long}
        return ratings_of(rows, tokens, job, what=what, **limits)

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """TRL's KTOTrainer."""
        from trl.trainer.kto_config import KTOConfig

        from finery_trl.train.trainers import KtoTrainer

        return KtoTrainer, KTOConfig, {"beta": self.beta, "loss_type": self.loss_type}
