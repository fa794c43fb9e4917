"""Direct preference optimization: prefer the better of two answers."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finery import Dataset, Job, UsageError, setting, takes
from finery.rows import Row
from finery_trl.steps.preference import Preference

if TYPE_CHECKING:
    from finery_trl.rows.example import Proven
    from finery_trl.rows.tokens import Tokens


class Dpo(Preference):
    """Train a model to prefer the chosen answer to the rejected one, with TRL's DPO.

    Direct preference optimization (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290). The
    untrained model is the reference. Use DPO after supervised fine-tuning: it shifts probability
    between answers that the model can already give. Rows are verified as in `trl.sft`, for both
    answers.
    """

    rows: list[Dataset] = takes(
        role="train", help="Preferences: rows with a prompt, a chosen and a rejected answer."
    )
    loss_type: Literal["sigmoid", "ipo", "hinge", "robust", "apo_zero", "apo_down"] = setting(
        "sigmoid", help="The loss, as named by TRL; sigmoid is the original DPO loss."
    )
    label_smoothing: float = setting(
        0.0,
        ge=0,
        lt=0.5,
        help="Expected share of preferences with chosen and rejected swapped; for loss_type: "
        "robust.",
    )
    sft_weight: float = setting(
        0.0,
        ge=0,
        help="Weight of an additional loss on the chosen answers, as in `trl.sft` (Pang et al. "
        "2024, https://arxiv.org/abs/2404.19733). DPO alone can make both answers less likely and "
        "unlearn where answers end; 0.2-1 prevents this.",
    )

    precompute_ref_log_probs: bool = setting(
        False,
        help="Compute the reference's log-probabilities once, before the training. The reference "
        "then needs no memory during the training, which matters if all weights are trained.",
    )

    config: ClassVar[str] = "trl.trainer.dpo_config:DPOConfig"

    def check(self) -> None:
        """Also refuse settings that another setting makes useless or impossible."""
        super().check()
        if self.precompute_ref_log_probs and self.launch is not None:
            raise UsageError(
                "precompute_ref_log_probs needs one process: TRL hands its results to the others "
                "in a file that they don't share",
                where="precompute_ref_log_probs",
                fix="remove it or launch",
            )
        if self.label_smoothing and self.loss_type != "robust":
            raise UsageError(
                f"loss_type: {self.loss_type} ignores label_smoothing",
                where="label_smoothing",
                fix="remove it, or set loss_type: robust",
            )

    def read(
        self, rows: Iterable[Row], tokens: "Tokens", job: Job, what: str
    ) -> "Iterable[Proven]":
        """Preferences as tokens."""
        from finery_trl.rows.pairs import pairs_of

        limits: Any = {"max_length": self.max_length, "too_long": self.too_long}
        return pairs_of(rows, tokens, job, what=what, **limits)

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """TRL's DPOTrainer."""
        from trl.trainer.dpo_config import DPOConfig

        from finery_trl.train.trainers import DpoTrainer

        settings = {
            "beta": self.beta,
            "label_smoothing": self.label_smoothing,
            "precompute_ref_log_probs": self.precompute_ref_log_probs,
        }
        return DpoTrainer, DPOConfig, {**settings, **self._losses()}

    @property
    def keeps_reference(self) -> bool:
        """False if it is only needed before the training, when it is the model itself."""
        return not self.precompute_ref_log_probs

    def _losses(self) -> dict[str, Any]:
        if not self.sft_weight:
            return {"loss_type": [self.loss_type]}
        return {"loss_type": [self.loss_type, "sft"], "loss_weights": [1.0, self.sft_weight]}
