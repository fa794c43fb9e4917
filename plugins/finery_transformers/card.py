"""What model cards say about a trained model: how it learned, and the Python that asks it."""

import json
from collections.abc import Mapping, Sequence
from pprint import pformat
from typing import Any

from finery_transformers.frozen.template import shared_tools

LEARNED = {
    "answers": " by supervised fine-tuning on answers",
    "preferences": " by preference training on pairs of answers",
    "ratings": " by training on rated answers",
    "text": " by continued pre-training on text",
    "rewards": " by reinforcement learning from rewards",
    "teacher": " by distillation from a teacher",
}
"""The kind of training data that a step type declares → its name in the card."""
MEASURED = {
    "epochs": "epochs", "steps": "optimizer steps", "best_step": "weights from step",
    "tokens": "tokens in the rows", "loss_tokens": "tokens with loss",
    "eval_loss": "validation loss", "eval_preference_accuracy": "validation accuracy",
    "trainable_parameters": "trained parameters", "parameters": "parameters of the model",
}  # fmt: skip
"""Facts about a trained model → their names in the card. None: a loss that isn't a number."""
LINE = 96
"""Characters of a line of code."""


def number(value: Any) -> str:
    """A count with separators, or a measure."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def base_arguments(source: str, revision: str = "", gguf: str = "") -> list[str]:
    """The arguments that load the model under an adapter, as Python. gguf: the file in `source`."""
    arguments = [json.dumps(source)]
    arguments += [f"revision={json.dumps(revision)}"] if revision else []
    arguments += [f"gguf_file={json.dumps(gguf)}"] if gguf else []
    # transformers multiplies the packed weights of a GGUF in fp32 and would cast back and forth.
    return [*arguments, f"dtype=torch.{'float32' if gguf else 'bfloat16'}"]


def loading_code(
    place: str, clients: Mapping[str, Any], meta: Mapping[str, Any],
    base: Sequence[str] | None = None, *, subfolder: str = "", note: str = "",
) -> str:  # fmt: skip
    """A block of Python that loads a model and asks it as it was trained and evaluated.

    place: a line that assigns the repository or folder, e.g. `repo = "org/name"`. clients: see
    `client_facts`. meta: of the model. base: see `base_arguments`; None for a whole model. note: a
    comment on the base.
    """
    where = place.partition(" ")[0] + (f", subfolder={json.dumps(subfolder)}" if subfolder else "")
    lines = ["import torch"]
    lines += ["from peft import PeftModel"] if base is not None else []
    lines += ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", place]
    if base is None:
        lines.append(f"model = AutoModelForCausalLM.from_pretrained({where}, dtype=torch.bfloat16)")
    else:
        lines += [f"# {note}"] if note else []
        lines += ["base = AutoModelForCausalLM.from_pretrained("]
        lines += [*(f"    {argument}," for argument in base), ")"]
        lines += [f"model = PeftModel.from_pretrained(base, {where})"]
    turns = ['{"role": "user", "content": "…"}']
    if system := clients.get("system"):
        message = {"role": "system", "content": system}
        turns = [json.dumps(message, ensure_ascii=False), *turns]
    lines += [f"tokenizer = AutoTokenizer.from_pretrained({where})", ""]
    lines += [f"messages = [{', '.join(turns)}]"]
    if tools := shared_tools(clients):
        lines.append(f"tools = {pformat(tools, sort_dicts=False, width=LINE)}")
    elif clients.get("tools_differ"):
        lines.append("# the training rows offer different tools: pass fitting ones as tools=[…]")
    kwargs = meta.get("chat_template_kwargs") or {}
    more = "".join(f", {name}={value!r}" for name, value in kwargs.items() if name.isidentifier())
    lines += [
        "inputs = tokenizer.apply_chat_template(",
        f"    messages,{' tools=tools,' if tools else ''} add_generation_prompt=True,",
        f'    return_tensors="pt", return_dict=True{more}',
        ")",
    ]
    ends = json.dumps([*(meta.get("ends") or ())], ensure_ascii=False)
    lines += [f"ends = tokenizer.convert_tokens_to_ids({ends})"] if meta.get("ends") else []
    lines += [
        "answer = model.generate(",
        "    **inputs, max_new_tokens=256, do_sample=False"
        + (", eos_token_id=ends" if meta.get("ends") else ""),
        ")",
        'answer = answer[0, inputs["input_ids"].shape[1] :]',
        "print(tokenizer.decode(answer, skip_special_tokens=True))",
    ]
    return "\n".join(["```python", *lines, "```"])
