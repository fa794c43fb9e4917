"""Writes the output of a training: weights, tokenizer, chat template, curve and model card."""

import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finery import Job, Model
from finery.rows import example_request
from finery_transformers.card import Base, card
from finery_transformers.formats import base_name
from finery_transformers.frozen.template import PROMPTS, facts_of_rows
from finery_transformers.loading import base_of
from finery_trl.rows.example import rows_in
from finery_trl.train.checkpoints import history_of, measured, step_of
from finery_trl.train.effective import USED, Used

if TYPE_CHECKING:
    from finery_trl.rows.example import Proven
    from finery_trl.rows.tokens import Tokens
    from finery_trl.settings import Training


MEASURED_AS = "training"
"""The entry in the model's `runtime` with what is measured."""
ADAPTER_CONFIG = "adapter_config.json"
SAMPLES = "samples.jsonl"
"""Answers of the model during the training, with their rewards."""
INHERITED = ("license", "architecture", "trust_remote_code", "tools_as")
"""Facts about a model that also hold for models trained from it."""


class Outcome(NamedTuple):
    """Facts about the model that only the training process knows.

    parameters: of the model without an adapter. trainable: trained parameters. accelerators: names
    of those that were used. measured: speed and memory. hardware: whether all kernels were
    deterministic, and the attention; neither is part of the model's identity. used: the settings
    that the trainer had, see `finery_trl.train.effective`.
    """

    parameters: int
    trainable: int
    accelerators: list[str]
    measured: dict[str, Any]
    hardware: dict[str, Any]
    used: Used


class Trained(NamedTuple):
    """The result of a training.

    checkpoint: the folder of the selected weights. last: the folder of the last checkpoint, with
    the whole history.
    """

    checkpoint: Path
    last: Path
    outcome: Outcome


def write_model(
    step: "Training", trained: Trained, tokens: "Tokens", examples: "Sequence[Proven]", job: Job
) -> Model:
    """Fill `job.out` from the selected checkpoint; return the `Model` with its facts."""
    under = base_of(step.model) if step.continues() else step.model
    if step.lora is not None:
        _write_adapter(trained.checkpoint, under, job.out)
    else:
        _write_whole(trained.checkpoint, job.out)
    tokens.tokenizer.save_pretrained(str(job.out))
    history = history_of(trained.last)
    curve = curve_of(history)
    _write_json(job.out / "curve.json", curve)
    samples = [{"step": e["step"], **sample} for e in history for sample in e.get("samples", ())]
    if samples:
        lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
        (job.out / SAMPLES).write_text("".join(lines), encoding="utf-8")
    meta = _facts(step, trained, tokens, examples, curve)
    path = job.out / ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    readme = card("Trained model", meta, config, Base.stated_in(under.meta))
    (job.out / "README.md").write_text(readme, encoding="utf-8")
    return Model(
        job.out,
        meta=meta,
        refs={"base": under} if step.lora is not None else {},
        runtime={MEASURED_AS: trained.outcome.measured, USED: trained.outcome.used},
    )


def curve_of(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A point for each optimizer step with a value, in order.

    Each has `step` and `epoch`, what was `measured` at this step, `watch`, a mapping of the metrics
    of the task, and why the training `stopped`. Step 0 is before the training.
    """
    points: dict[int, dict[str, Any]] = {}
    for entry in history:
        values: dict[str, Any] = {**measured(entry)}
        for name, key in (("watch", "watch"), ("watch_start", "watch"), ("stopped", "stopped")):
            values |= {key: entry[name]} if name in entry else {}
        if values.keys() - {"learning_rate"}:
            point = points.setdefault(entry["step"], {"step": entry["step"]})
            point.update(epoch=entry["epoch"], **values)
    return [points[step] for step in sorted(points)]


def _write_adapter(checkpoint: Path, base: Model, out: Path) -> None:
    shutil.copyfile(checkpoint / "adapter_model.safetensors", out / "adapter_model.safetensors")
    config = json.loads((checkpoint / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    # PEFT writes the folder of the base on this machine, and sets in arbitrary order.
    config["base_model_name_or_path"] = base.meta.get("repo")
    config["revision"] = None
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    _write_json(out / ADAPTER_CONFIG, config)


def _write_whole(checkpoint: Path, out: Path) -> None:
    """Save the weights, which were trained in 32 bits, in 16 bits."""
    import torch

    from finery_transformers.loading import load_model, quiet

    model = Model(checkpoint, meta={"format": "transformers"})
    with quiet():
        load_model(model, torch.bfloat16).save_pretrained(str(out))


def _facts(
    step: "Training",
    trained: Trained,
    tokens: "Tokens",
    examples: "Sequence[Proven]",
    curve: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "format": "transformers" if step.lora is None else "adapter",
        "base": base_name(step.model),
        "learned_from": type(step).__spec__.learns,
        "parameters": trained.outcome.parameters,
        "trainable_parameters": trained.outcome.trainable,
        "epochs": round(curve[-1]["epoch"], 4),  # fewer than the setting if it stopped early
        "steps": step_of(trained.last),
        "best_step": step_of(trained.checkpoint),
        "rows": rows_in(examples),
        **({} if rows_in(examples) == len(examples) else {"examples": len(examples)}),
        "tokens": sum(e.total_tokens for e in examples),
        "loss_tokens": sum(e.loss_tokens for e in examples),
        "chat_template": True,
    }
    best = next((p for p in curve if p["step"] == facts["best_step"]), {})
    for name in ("eval_loss", "eval_preference_accuracy"):
        if name in best:
            facts[name] = round(best[name], 6)
    if "watch" in best:
        facts["watch"] = best["watch"]
    if stopped := curve[-1].get("stopped"):
        facts["stopped"] = stopped
    facts |= _quantization(step)
    if trained.outcome.accelerators:
        facts["accelerated_by"] = trained.outcome.accelerators
    rows = chain.from_iterable(step.rows)
    facts[PROMPTS] = facts_of_rows(rows, step.model, switch=_switches(step), date=tokens.date)
    if example := example_request(chain.from_iterable(step.rows)):
        facts[PROMPTS]["training_example"] = example
    # A config's end of generation is often only that of a text, and not of a turn.
    facts["ends"] = sorted(map(str, tokens.tokenizer.convert_ids_to_tokens(sorted(tokens.ends))))
    if arguments := _arguments(step, tokens, facts[PROMPTS]):
        facts["chat_template_kwargs"] = arguments
    return facts | {k: step.model.meta[k] for k in INHERITED if k in step.model.meta}


def _switches(step: "Training") -> bool:
    """Whether thinking is switched off in the prompts of rows without it."""
    learn = step.learn()
    return learn is not None and learn.without_thinking == "switch"


def _arguments(step: "Training", tokens: "Tokens", used: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the chat template for prompts like those of the training.

    If thinking was switched off in the prompts of all rows, it is at inference.
    """
    if not _switches(step) or used["thinking"]:
        return {**tokens.template.arguments}
    return {**tokens.template.arguments, **(tokens.template.thinking_switch() or {})}


def _quantization(step: "Training") -> dict[str, Any]:
    """How the base was quantized, and what the adapter merges into; see `loading.load_merged`."""
    if step.quantization is not None:
        kind = {"kind": step.quantization, "double": step.double_quantization}
        return {"quantization": kind, "merge": step.merge}
    if step.continues():
        return {k: step.model.meta[k] for k in ("quantization", "merge") if k in step.model.meta}
    return {}


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
