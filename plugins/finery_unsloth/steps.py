"""The trainings with Unsloth: how they differ from TRL's, and what they have to refuse."""

from typing import TYPE_CHECKING, ClassVar

from finery import Job, Model, UsageError, outside_key
from finery_trl import steps
from finery_trl.settings import PACKAGES as TRL

if TYPE_CHECKING:
    import torch

    from finery_trl.model.loading import Prepared

    Mixed = steps.TrlTraining
else:
    # No step type at run time: if two bases have settings, the first sets the defaults, and DPO's
    # own would be lost.
    Mixed = object

UNSLOTH = ("unsloth", "unsloth_zoo", "xformers", "triton")
PACKAGES = (*TRL, *UNSLOTH)
INSTALLS = {"unsloth": "finery[unsloth]"}
INSTEAD = "use: trl.{}, which takes the same settings"
EMBEDDINGS = ("embed_tokens", "lm_head")
"""Layers that Unsloth trains in full, even if they should get an adapter."""


class Fast(Mixed):
    """Mixed into TRL's step types to train with Unsloth.

    No estimates, since Unsloth's kernels need less memory, and a GPU that this machine may lack.
    """

    __slots__ = ()
    estimated: ClassVar[bool] = False

    @outside_key  # as of a step type, which a mixin is not
    def check(self) -> None:
        """Also refuse settings that Unsloth would ignore or change."""
        super().check()
        refused = {
            "dtype": (
                self.dtype in ("fp16", "fp32"),
                "finery only trains with Unsloth in bf16, which all supported GPUs can multiply",
            ),
            "packing": (
                getattr(self, "packing", False),
                "how Unsloth separates packed rows can't be verified before a training",
            ),
            "launch": (self.launch is not None, "finery runs Unsloth in one process"),
            "lora.target_modules": (
                bool(self._embeddings()),
                f"Unsloth trains {' and '.join(self._embeddings())} in full instead of an adapter",
            ),
        }
        for setting, (wrong, why) in refused.items():
            if wrong:
                fix = f"remove {setting}, or {INSTEAD.format(self._method())}"
                raise UsageError(f"{setting}: {why}", where=setting, fix=fix)

    def run(self, job: Job) -> Model:
        """Import Unsloth before the modules that it patches, then train as TRL's step does."""
        from finery_unsloth.machine import make_ready

        make_ready(job.scratch / "unsloth", INSTEAD.format(self._method()))
        return super().run(job)

    def prepare(self, dtype: "torch.dtype", longest: int, job: Job) -> "Prepared":
        """The model, loaded and patched by Unsloth."""
        from finery_unsloth.loading import prepare

        return prepare(self, dtype, longest, job)

    def _method(self) -> str:
        return type(self).__name__.lower()

    def _embeddings(self) -> list[str]:
        wanted = [] if self.lora is None else self.lora.target_modules
        names = [wanted] if isinstance(wanted, str) else wanted
        return [name for name in names if name.rpartition(".")[2] in EMBEDDINGS]


class Sft(Fast, steps.Sft, packages=PACKAGES, installs=INSTALLS):
    """Fine-tune a model on the answers of rows, with Unsloth: faster, in less memory, on a GPU.

    It takes the settings of `trl.sft`, and the two are interchangeable. Rows, their order, their
    checks, checkpoints and outputs are the same; loading and kernels are Unsloth's
    (`FastLanguageModel`). It needs a GPU that multiplies bf16, and `pip install 'finery[unsloth]'`.
    This project never ran it on a GPU.
    """


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
