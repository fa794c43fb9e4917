"""Direct preference optimisation with Unsloth."""

from finery import UsageError
from finery_trl.steps import dpo
from finery_unsloth.fast import INSTEAD, PACKAGES, Fast


class Dpo(Fast, dpo.Dpo, packages=PACKAGES):
    """Train a model to prefer the chosen answer to the rejected one, with Unsloth, on a GPU.

    It takes the settings of `trl.dpo`, and the two can stand for each other; see `unsloth.sft`.
    It was never run on a GPU in this project.
    """

    def check(self) -> None:
        """Also refuse all weights, whose reference would be a second model."""
        super().check()
        if self.lora is None:
            raise UsageError(
                "Unsloth prepares one model a process, and without an adapter DPO needs a second "
                "one as its reference",
                where="lora",
                fix=f"drop `lora: null`, or {INSTEAD.format('dpo')}",
            )
