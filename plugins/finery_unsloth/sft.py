"""Supervised fine-tuning with Unsloth."""

from finery_trl.steps import sft
from finery_unsloth.fast import PACKAGES, Fast


class Sft(Fast, sft.Sft, packages=PACKAGES):
    """Fine-tune a model on the answers of rows, with Unsloth: faster, in less memory, on a GPU.

    It takes the settings of `trl.sft`, and the two can stand for each other. Rows, their order,
    their proof, checkpoints and what is shipped are the same; model and kernels are Unsloth's
    (`FastLanguageModel`). Needs a GPU that multiplies bf16, and `pip install 'finery[unsloth]'`.
    It was never run on a GPU in this project.
    """
