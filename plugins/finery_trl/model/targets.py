"""Checks `target_modules` against the layers of a model before it is loaded."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from finery import UsageError, outside_key
from finery.advanced import nearest
from finery_trl.settings import ALL_LINEAR, TARGET_MODULES

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from finery_trl.settings import Training

MAMBA = frozenset(("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"))
"""Model types with a layer that computes with the weights of `OUTPUT` directly, past an adapter, so
that PEFT refuses one there."""
OUTPUT = "out_proj"


@outside_key
def check_targets(step: "Training") -> None:
    """Raise `UsageError` if `target_modules`, or a name in it, matches no layer of the model.

    Reads only the model's configuration.
    """
    if step.lora is None or step.lora.target_modules == ALL_LINEAR:
        return
    from finery_transformers.loading import load_skeleton

    skeleton = load_skeleton(step.model)
    targets, layers = step.lora.target_modules, layers_of(skeleton)
    if isinstance(targets, str):
        unknown = [] if matched(targets, layers) else [targets]
    else:
        unknown = [name for name in targets if not matched([name], layers)]
    if unknown:
        raise _unmatched(unknown, layers, pattern=isinstance(targets, str))
    refused = [layer for layer in matched(targets, layers) if layer.rpartition(".")[2] == OUTPUT]
    if refused and skeleton.config.model_type in MAMBA:
        raise UsageError(
            f"target_modules: '{OUTPUT}' of a Mamba layer can't have an adapter",
            where=TARGET_MODULES,
            details=[f"it matches {refused[0]}"],
            fix=f"remove it, or set target_modules: {ALL_LINEAR}, which leaves it out",
        )


def exclude_unadaptable(config: "LoraConfig", model: "PreTrainedModel") -> None:
    """Have all-linear leave out the layers of Mamba blocks that can't have an adapter."""
    if config.target_modules == ALL_LINEAR and model.config.model_type in MAMBA:
        config.exclude_modules = [OUTPUT]


def matched(targets: str | Sequence[str], layers: Iterable[str]) -> list[str]:
    """The layers, given by their paths, that `target_modules` matches.

    As in PEFT, a name matches layers with this path or a path that ends with `.name`, and a string
    matches full paths. `ALL_LINEAR` isn't resolved here, since it depends on the model's classes.
    """
    if isinstance(targets, str):
        return [layer for layer in layers if re.fullmatch(targets, layer)]
    ends = tuple(f".{name}" for name in targets)
    return [layer for layer in layers if f".{layer}".endswith(ends)]


def layers_of(model: "PreTrainedModel") -> dict[str, bool]:
    """Each layer that can get an adapter → whether it is a linear layer in the model's blocks."""
    import torch
    from transformers.pytorch_utils import Conv1D

    linear = (torch.nn.Linear, Conv1D)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return {
        name: isinstance(layer, linear) and layer is not head
        for name, layer in model.named_modules()
        if isinstance(layer, (*linear, torch.nn.Embedding))
    }


def _unmatched(unknown: Sequence[str], layers: dict[str, bool], *, pattern: bool) -> UsageError:
    names = sorted({layer.rpartition(".")[2] for layer, linear in layers.items() if linear})
    named = ", ".join(f"'{name}'" for name in unknown)
    if pattern:
        problem = f"target_modules: the pattern {named} matches the full path of no layer"
        is_name = unknown[0] in names
        fix = f"write it as a list: [{unknown[0]}]" if is_name else rf"e.g. '.*\.{names[0]}'"
    else:
        problem = f"target_modules: the model has no layer {named}"
        close = nearest(unknown[0], names)
        fix = f"did you mean '{close}'?" if close else f"name layers of the model, or {ALL_LINEAR}"
    return UsageError(
        problem, where=TARGET_MODULES, details=[f"it has: {', '.join(names)}"], fix=fix
    )
