"""Supervised fine-tuning with Unsloth."""

from finery_trl import steps
from finery_unsloth.fast import INSTALLS, PACKAGES, Fast


class Sft(Fast, steps.Sft, packages=PACKAGES, installs=INSTALLS):
    """Fine-tune a model on the answers of rows, with Unsloth: faster, in less memory, on a GPU.

    It takes the settings of `trl.sft`, and the two are interchangeable. Rows, their order, their
    checks, checkpoints and outputs are the same; loading and kernels are Unsloth's
    (`FastLanguageModel`). It needs a GPU that multiplies bf16, and `pip install 'finery[unsloth]'`.
    This project never ran it on a GPU.
    """
