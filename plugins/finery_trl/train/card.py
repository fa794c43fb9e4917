"""The model card of a trained model: README.md, with the front matter that the Hub reads.

Format: https://huggingface.co/docs/hub/model-cards.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pprint import pformat
from typing import Any, NamedTuple

from finery_transformers.frozen.template import shared_tools

README = "README.md"
ENDS = "ends"
"""The entry in the model's `meta` with the tokens that end a turn."""
LEARNED = {
    "answers": "supervised fine-tuning on answers",
    "preferences": "preference training on pairs of answers",
    "ratings": "training on rated answers",
    "text": "continued pre-training on text",
    "rewards": "reinforcement learning from rewards",
    "teacher": "distillation from a teacher",
}
"""The kind of training data that a step type declares → its name in the card."""


class Base(NamedTuple):
    """How to load the model under an adapter.

    source: a repository on the Hub or a folder; empty if unknown. revision: of the repository.
    file: the GGUF file to load from there. on_hub: whether `source` is a repository.
    """

    source: str = ""
    revision: str = ""
    file: str = ""
    on_hub: bool = False


def base_in(meta: Mapping[str, Any]) -> Base:
    """The stated origin of a base."""
    repo, file = str(meta.get("repo") or ""), str(meta.get("file") or "")
    return Base(source=repo, file=file, on_hub=bool(repo))


def card(name: str, meta: Mapping[str, Any], config: Mapping[str, Any], base: Base) -> str:
    """The complete card. The same facts always give the same card.

    name: of the model. meta: what `Model.meta` says. config: PEFT's adapter_config.json, empty for
    a model with all its weights.
    """
    parts = [_front(meta, config, base), f"# {name}", _about(meta, config, base)]
    parts += ["## Training", "\n".join(_facts(meta, config)), "## Loading"]
    parts += [*_loading(meta, config, base)]
    return "\n\n".join(parts) + "\n"


def _front(meta: Mapping[str, Any], config: Mapping[str, Any], base: Base) -> str:
    """The front matter. JSON strings are YAML strings, too."""
    lines = ["library_name: peft" if config else "library_name: transformers"]
    if base.on_hub:
        lines.append(f"base_model: {json.dumps(base.source)}")
    if meta.get("license"):
        lines.append(f"license: {json.dumps(str(meta['license']))}")
    return "\n".join(["---", *lines, "pipeline_tag: text-generation", "tags: [finery]", "---"])


def _about(meta: Mapping[str, Any], config: Mapping[str, Any], base: Base) -> str:
    under = _inline(base.source if base.on_hub else meta.get("base") or "")
    named = f" `{under}`" if under else " another model"
    if base.on_hub and base.revision:
        named += f" at revision `{_inline(base.revision)}`"
    made = f"A LoRA adapter for{named}" if config else f"A fine-tuned version of{named}"
    how = LEARNED.get(str(meta.get("learned_from")))
    license = meta.get("license")
    return " ".join([
        f"{made}, made with finery{f' by {how}' if how else ''}.",
        f"License of the base model: {_inline(license)}." if license
        else "The license of the base model is not known to finery.",
    ])  # fmt: skip


def _inline(value: Any) -> str:
    """A name from outside on one line, without what Markdown reads as the end of code or a cell."""
    return " ".join(str(value).replace("`", "'").replace("|", "/").split())


def _facts(meta: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a table: what is known of the training."""
    yield "| | |\n| --- | --- |"
    for name, label in {
        "rows": "rows", "examples": "examples that the rows are split into",
        "tokens": "tokens in these rows", "loss_tokens": "tokens with loss",
        "epochs": "epochs", "steps": "optimizer steps", "best_step": "weights from step",
        "eval_loss": "validation loss", "eval_preference_accuracy": "validation accuracy",
        "trainable_parameters": "trained parameters", "parameters": "parameters of the model",
    }.items():  # fmt: skip
        if name in meta:
            value = meta[name]
            yield f"| {label} | {f'{value:,}' if isinstance(value, int) else f'{value:g}'} |"
    if config:
        yield f"| LoRA | r {config.get('r')}, lora_alpha {config.get('lora_alpha')} |"
        targets = config.get("target_modules")
        layers = ", ".join(targets) if isinstance(targets, list) else str(targets)
        yield f"| adapted layers | {_inline(layers)} |"
    if "quantization" in meta and isinstance(meta["quantization"], Mapping):
        yield f"| base during training | in 4 bits ({meta['quantization'].get('kind')}) |"


def _loading(meta: Mapping[str, Any], config: Mapping[str, Any], base: Base) -> Iterator[str]:
    """The code that loads it, after what a reader must do first."""
    prompts = meta.get("prompts", {})
    chat = prompts.get("system"), shared_tools(prompts), meta.get(ENDS, ())
    if not config:
        yield _code([
            "from transformers import AutoModelForCausalLM, AutoTokenizer", "",
            'folder = "."  # this folder',
            "model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)",
        ], *chat)  # fmt: skip
        return
    if not base.source:
        what = f"the file `{_inline(base.file)}`" if base.file else "the base model"
        yield (
            f"This adapter doesn't name a repository for its base. Get {what}, and write its "
            "folder below. `finery export STEP DIR --with-base` copies it along."
        )
    arguments = [json.dumps(base.source or "FOLDER_OF_THE_BASE")]
    arguments += [f"revision={json.dumps(base.revision)}"] if base.revision else []
    arguments += [f"gguf_file={json.dumps(base.file)}"] if base.file else []
    # transformers multiplies the packed weights of a GGUF in fp32 and would cast back and forth.
    dtype = "float32" if base.file else "bfloat16"
    yield _code([
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer", "",
        'folder = "."  # this folder',
        "base = AutoModelForCausalLM.from_pretrained(",
        *(f"    {argument}," for argument in [*arguments, f"dtype=torch.{dtype}"]),
        ")",
        "model = PeftModel.from_pretrained(base, folder)",
    ], *chat)  # fmt: skip


def _code(lines: list[str], system: str | None, tools: Any, ends: Sequence[str]) -> str:
    """Python in a block. system, tools: those that all training rows had. ends: of a turn."""
    asked = '{"role": "user", "content": "…"}'
    if system:
        message = json.dumps({"role": "system", "content": system}, ensure_ascii=False)
        asked = f"{message}, {asked}"
    tokenizer = "tokenizer = AutoTokenizer.from_pretrained(folder)"
    chat = [
        f"messages = [{asked}]",
        *([f"tools = {pformat(tools, sort_dicts=False, width=96)}"] if tools else []),
        "inputs = tokenizer.apply_chat_template(",
        f"    messages,{' tools=tools,' if tools else ''} add_generation_prompt=True,",
        '    return_tensors="pt", return_dict=True',
        ")",
        f"ends = tokenizer.convert_tokens_to_ids({json.dumps(list(ends), ensure_ascii=False)})",
        "answer = model.generate(**inputs, max_new_tokens=256, eos_token_id=ends)",
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :]))',
    ]
    return "\n".join(["```python", "import torch", *lines, tokenizer, "", *chat, "```"])
