"""A LoRA adapter as a GGUF of its own, which llama.cpp applies to its base as it loads both.

The classes of llama.cpp's converter say where a layer's weights are in a GGUF and how they are
reordered there. The second factor of an adapter has the rows of the layer's weights, so it is
reordered in the same way. A comparison of logits then verifies the result.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from finery import Job, Model, StepError
from finery.advanced import cpu_count, percent, size
from finery.rows import Row
from finery_gguf.convert import convert_adapter
from finery_gguf.llama import Context, Gguf
from finery_gguf.pace import Pace
from finery_transformers.chat import TEMPLATE_FILE
from finery_transformers.frozen.proof import samples_of

if TYPE_CHECKING:
    from finery_transformers.frozen.template import FrozenTemplate

ADAPTER_FILE = "adapter.gguf"
MERGE_FIX = "remove `adapter: true`: the export then merges the adapter into a complete GGUF"
PROMPTS = 16
"""Prompts whose next token is compared."""
MAX_PROMPT_TOKENS = 512
"""Tokens of such a prompt; of a longer one, the last are compared."""
MIN_CORRELATION = 0.9
"""The smallest correlation of what an adapter changes in logits, in the training and in llama.cpp.
A random model has more than 0.999 if the training's side is computed in fp32, and 0.99 in bf16."""


def refuse(reason: str) -> StepError:
    """The error for an adapter that llama.cpp can't apply."""
    return StepError(
        f"llama.cpp can't apply this adapter: {reason}", where="adapter", fix=MERGE_FIX
    )


def base_gguf(adapter: Model, base_setting: Model | None) -> Model:
    """The GGUF that an adapter changes: the given one, else the model that it was trained on.

    `StepError` if that isn't a GGUF, or if the given one is of another model.
    """
    from finery_transformers.loading import base_of

    under = base_of(adapter)
    base = base_setting or under
    if base.format != "gguf":
        raise StepError(
            f"the adapter was trained on a model of the format '{under.format}', so its base must "
            "be exported, too",
            where="base",
            fix="base: a step with gguf.export of that model"
            if base_setting is None
            else MERGE_FIX,
        )
    source = base.meta.get("exported_from")
    if base_setting is not None and source and under.digest and source != under.digest:
        raise StepError(
            "`base` was exported from another model than the adapter was trained on",
            where="base",
            fix="export the model that the training names as its `model`",
        )
    return base


def write_adapter(
    model: Model, base: Model, frozen: "FrozenTemplate", names: Mapping[str, Any], job: Job,
    rows: Iterable[Row],
) -> tuple[Gguf, float]:  # fmt: skip
    """Write the adapter and its chat template to `job.out`, and compare it with the training.

    names: metadata of the GGUF. rows: whose prompts are compared. Returns the base with the
    adapter, and how much of the adapter's effect on logits is the same as in the training. Raises
    `StepError` for an adapter that llama.cpp can't apply or applies differently.
    """
    from finery_transformers.loading import base_of, default_dtype, load_adapter, load_model

    job.progress(0, 1, "loading the adapter")
    tuned = load_adapter(load_model(base_of(model), default_dtype()), model)
    factors, alpha = _factors(tuned, model)
    plain = tuned.get_base_model()
    plain.config.architectures = [type(plain).__name__]
    vars(plain.config).pop("quantization_config", None)  # of the file, not of the loaded model
    target = job.out / ADAPTER_FILE
    convert_adapter(factors, plain.config, target, alpha=alpha, names=names, job=job)
    (job.out / TEMPLATE_FILE).write_text(frozen.source, encoding="utf-8")
    file = base.file(str(base.meta["file"]))
    gguf = Gguf(file, adapter=target)
    samples = islice(chain(samples_of(rows), frozen.samples()), PROMPTS)
    prompts = [ids[-MAX_PROMPT_TOKENS:] for s in samples if (ids := frozen.trained_tokens(s))]
    correlation, same = _compare_logits(tuned, gguf, Gguf(file), prompts)
    if correlation < MIN_CORRELATION:
        raise refuse(
            f"what it changes in the logits correlates by only {correlation:.2f} with the training"
        )
    base_size = file.stat().st_size
    job.log(
        f"the adapter changes logits as in the training: correlation {correlation:.4f}, the same "
        f"first token after {percent(same)} of {len(prompts)} prompts"
    )
    job.log(
        f"{ADAPTER_FILE}: {size(target.stat().st_size)} beside {size(base_size)} of its base, "
        "which all adapters of that base share"
    )
    return gguf, correlation


def _factors(tuned: Any, model: Model) -> tuple[dict[str, Any], float]:
    """(name of a layer and factor → tensor, alpha) of a PEFT model.

    Every layer has the same alpha: if a layer is scaled differently, its second factor is.
    """
    from peft.tuners.lora import LoraLayer

    config = tuned.peft_config["default"]
    for name in ("use_dora", "modules_to_save", "lora_bias", "trainable_token_indices"):
        if getattr(config, name, None):
            raise refuse(f"it was trained with {name}")
    if model.meta.get("merge") == "dequantized":
        raise refuse("it was trained for a base in 4 bits (merge: dequantized)")
    factors: dict[str, Any] = {}
    alpha = 0.0
    modules: Any = tuned.get_base_model().named_modules()
    layers: list[Any] = [pair for pair in modules if isinstance(pair[1], LoraLayer)]
    for name, layer in layers:
        if "default" not in layer.lora_A:
            raise refuse(f"it changes {name}, which isn't a linear layer")
        lora_a, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        strength = layer.scaling["default"] * lora_a.shape[0]
        alpha = alpha or strength
        factors[f"{name}.a"] = lora_a.detach().float().contiguous()
        factors[f"{name}.b"] = (second.detach().float() * (strength / alpha)).contiguous()
    return factors, alpha


def _compare_logits(
    tuned: Any, gguf: Gguf, plain: Gguf, prompts: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """(correlation of the changes in logits, share of prompts with the same most likely token).

    gguf, plain: the base with and without the adapter. The base's quantization changes logits too,
    but the same with and without the adapter.
    """
    import torch

    context, without = (Context(g, MAX_PROMPT_TOKENS, 1, Pace(cpu_count())) for g in (gguf, plain))
    products = torch.zeros(3, dtype=torch.float64)
    same = 0
    for ids in prompts:
        logits = []
        for session in (context, without):
            session.read(0, ids, 0)
            logits.append(torch.from_numpy(session.logits(-1).copy()))
        with torch.no_grad():
            tensor = torch.tensor([list(ids)], device=tuned.device)
            trained = tuned(input_ids=tensor, use_cache=False).logits[0, -1].float().cpu()
            with tuned.disable_adapter():
                base_logits = tuned(input_ids=tensor, use_cache=False).logits[0, -1].float().cpu()
        length = min(len(trained), len(logits[0]))  # one of them may pad the vocabulary
        ours, theirs = (logits[0] - logits[1])[:length], (trained - base_logits)[:length]
        ours, theirs = (change.double() for change in (ours, theirs))
        products += torch.stack([ours @ theirs, ours @ ours, theirs @ theirs])
        same += int(trained[:length].argmax() == logits[0][:length].argmax())
    both, session, other_norm = products.tolist()
    correlation = (
        both / (session * other_norm) ** 0.5
        if session and other_norm
        else float(session == other_norm)
    )
    return correlation, same / max(len(prompts), 1)
