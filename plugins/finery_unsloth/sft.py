"""Supervised fine-tuning with Unsloth."""

from finery import UsageError
from finery_trl.steps import sft
from finery_unsloth.fast import INSTEAD, PACKAGES, Fast


class Sft(Fast, sft.Sft, packages=PACKAGES):
    """Fine-tune a model on the answers of rows, with Unsloth: faster, in less memory, on a GPU.

    It takes the settings of `trl.sft`, and the two are interchangeable. Rows, their order, their
    checks, checkpoints and outputs are the same; loading and kernels are Unsloth's
    (`FastLanguageModel`). It needs a GPU that multiplies bf16, and `pip install 'finery[unsloth]'`.
    This project never ran it on a GPU.
    """

    def check(self) -> None:
        """Also refuse to stop and go on, which is verified for TRL only."""
        super().check()
        for name in ("stop_at", "resume_from"):
            if getattr(self, name) is not None:
                raise UsageError(
                    f"a training with Unsloth has no {name}, since it isn't verified to go on "
                    "with the same result",
                    where=name,
                    fix=f"remove it, or {INSTEAD.format('sft')}",
                )
