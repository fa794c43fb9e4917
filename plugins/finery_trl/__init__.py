"""Training with TRL: SFT, DPO, KTO, GRPO, distillation, pre-training; of adapters or whole models.

The trainings take rows and a model, and produce a model with its tokenizer and training curve.
In `on_policy` and the step types on it, the model writes the answers that it learns from.
`finery plan` estimates their memory and time. Only `finery_trl.settings`, `.steps`, `.model`,
`.preflight` and `.view`, with the modules in them, and `.train.resuming`, are public for other
plugins.

For the trainers and models of other plugins: `finery_trl.view.model:CurveView` shows any model that
contains a `curve.json` (see `finery_trl.view.curves`), and `finery_trl.view.live:METRICS` shows the
metrics of a running training.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from finery import hookimpl

if TYPE_CHECKING:
    from finery.advanced import About


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {
        "trl.distill": "finery_trl.on_policy:Distill",
        "trl.dpo": "finery_trl.steps:Dpo",
        "trl.grpo": "finery_trl.on_policy:Grpo",
        "trl.kto": "finery_trl.steps:Kto",
        "trl.pretrain": "finery_trl.steps:Pretrain",
        "trl.sft": "finery_trl.steps:Sft",
    }


@hookimpl
def finery_views() -> dict[str, str]:
    """The view of models, with their training curves."""
    return {"Model": "finery_trl.view.model:CurveView"}


@hookimpl
def finery_notes() -> "Mapping[str, About]":
    """The kinds of notes of this plugin."""
    from finery_trl.advice import KINDS

    return KINDS


@hookimpl
def finery_worker_environment(alone: bool, here: bool) -> Mapping[str, str]:
    """Set how OpenMP threads wait and how torch allocates GPU memory, in every worker.

    Steps of all types share the cores, and those that load models share the GPUs.
    """
    from finery_trl.train.environment import allocator_environment, thread_environment

    return {**thread_environment(alone=alone, here=here), **allocator_environment()}
