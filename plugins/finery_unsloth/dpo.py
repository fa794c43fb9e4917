"""Direct preference optimisation with Unsloth."""

from finery import UsageError
from finery_trl import steps
from finery_unsloth.fast import INSTALLS, INSTEAD, PACKAGES, Fast


class Dpo(Fast, steps.Dpo, packages=PACKAGES, installs=INSTALLS):
    """Train a model to prefer the chosen answer to the rejected one, with Unsloth, on a GPU.

    It takes the settings of `trl.dpo`, and the two are interchangeable; see `unsloth.sft`. This
    project never ran it on a GPU.
    """

    def check(self) -> None:
        """Also refuse the training of all weights, which needs a second model as reference."""
        super().check()
        if self.lora is None:
            raise UsageError(
                "Unsloth prepares one model per process, but without an adapter DPO needs a second "
                "one as its reference",
                where="lora",
                fix=f"remove `lora: null`, or {INSTEAD.format('dpo')}",
            )
