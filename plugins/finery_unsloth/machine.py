"""Checks that Unsloth can run on this machine, and imports it before the modules it patches."""

import importlib.util
import os
from importlib.metadata import version
from pathlib import Path

from finery import StepError

NEEDED = "Unsloth needs a GPU that multiplies bf16"
AMPERE = 8
"""The first CUDA compute capability with hardware for bf16; older ones emulate it."""


def make_ready(folder: Path, instead: str) -> None:
    """Import Unsloth. Call this before transformers, PEFT or TRL are imported.

    folder: for the code that Unsloth generates. instead: the alternative that errors name.
    `StepError` if Unsloth isn't installed, finds no usable GPU, or doesn't fit the installed
    packages; nothing is loaded then.
    """
    _check_installed(instead)
    _check_gpu(instead)
    # Otherwise it reports its use by downloads from the hub, and writes into the current folder.
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(folder)
    try:
        import unsloth  # type: ignore[import-not-found]  # noqa: F401
    except (ImportError, NotImplementedError, RuntimeError) as error:
        raise StepError(
            f"Unsloth {version('unsloth')} can't be imported: {error}",
            fix=f"pip install 'finery[unsloth]' into a separate environment, or {instead}",
        ) from error
    check_patched(instead)


def check_patched(instead: str) -> None:
    """Raise `StepError` if Unsloth left TRL's trainers unpatched, which it only logs."""
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_trainer import SFTTrainer

    for trainer in (SFTTrainer, DPOTrainer):
        if not trainer.__name__.startswith("Unsloth"):
            raise StepError(
                f"Unsloth {version('unsloth')} doesn't support TRL {version('trl')}: it left "
                f"{trainer.__name__} unpatched",
                fix=f"pip install 'finery[unsloth]' into a separate environment, or {instead}",
            )


def _check_installed(instead: str) -> None:
    missing = [n for n in ("unsloth", "unsloth_zoo") if importlib.util.find_spec(n) is None]
    if missing:
        raise StepError(
            f"not installed: {' and '.join(missing)}",
            fix="on a machine with a GPU, pip install 'finery[unsloth]' into a separate "
            f"environment; elsewhere {instead}",
        )


def _check_gpu(instead: str) -> None:
    """Raise `StepError` without a GPU that Unsloth runs on and that multiplies bf16."""
    import torch

    if not torch.cuda.is_available():
        raise StepError(
            f"{NEEDED}, but torch {torch.__version__} finds no CUDA device on this machine",
            fix=f"build on a machine with one, or {instead}",
        )
    name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    if major < AMPERE:
        raise StepError(
            f"{NEEDED}, but {name} (compute capability {major}.{minor}) doesn't",
            fix=f"build on a machine with a newer one, or {instead}",
        )
