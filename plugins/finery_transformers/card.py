"""What model cards say about a trained model, the card that it has from its training, and that of
a copy of it.

Format: https://huggingface.co/docs/hub/model-cards.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from pprint import pformat
from typing import Any, NamedTuple, Self

from finery import Model
from finery_transformers.frozen.template import ClientFacts

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
    "examples": "examples that the rows are split into",
    "epochs": "epochs", "steps": "optimizer steps", "best_step": "weights from step",
    "tokens": "tokens in the rows", "loss_tokens": "tokens with loss",
    "eval_loss": "validation loss", "eval_preference_accuracy": "validation accuracy",
    "trainable_parameters": "trained parameters", "parameters": "parameters of the model",
}  # fmt: skip
"""Facts about a trained model → their names in the card. None: a loss that isn't a number."""
LINE = 96
"""Characters of a line of code."""


class Base(NamedTuple):
    """How to load the model under an adapter.

    source: a repository on the Hub or a folder; empty if unknown. revision: of the repository.
    file: the GGUF file to load from there. on_hub: whether `source` is a repository.
    """

    source: str = ""
    revision: str = ""
    file: str = ""
    on_hub: bool = False

    @classmethod
    def stated_in(cls, meta: Mapping[str, Any]) -> Self:
        """The stated origin of a base."""
        repo, file = str(meta.get("repo") or ""), str(meta.get("file") or "")
        return cls(source=repo, file=file, on_hub=bool(repo))


def number(value: Any) -> str:
    """A count with separators, or a measure."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def training_facts(meta: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, value) of what is known of a training, for every card. config: as that of `card`."""
    for name, label in MEASURED.items():
        if meta.get(name) is not None:
            yield label, number(meta[name])
    if config:
        yield "LoRA", f"r {config.get('r')}, lora_alpha {config.get('lora_alpha')}"
        targets = config.get("target_modules")
        layers = ", ".join(targets) if isinstance(targets, list) else str(targets)
        yield "adapted layers", inline(layers)
    if isinstance(meta.get("quantization"), Mapping):
        yield "base during training", f"in 4 bits ({meta['quantization'].get('kind')})"


def loading_code(
    place: str, clients: ClientFacts, meta: Mapping[str, Any],
    base: Base | None = None, *, subfolder: str = "", note: str = "",
) -> str:  # fmt: skip
    """A block of Python that loads a model and asks it as it was trained and evaluated.

    place: a line that assigns the repository or folder, e.g. `repo = "org/name"`. clients: see
    `ClientFacts`. meta: of the model. base: None for a whole model. note: a comment on the base.
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
        lines.append(f"    {json.dumps(base.source or 'FOLDER_OF_THE_BASE')},")
        lines += [f"    revision={json.dumps(base.revision)},"] if base.revision else []
        lines += [f"    gguf_file={json.dumps(base.file)},"] if base.file else []
        # transformers multiplies the packed weights of a GGUF in fp32, and would cast each time.
        lines += [f"    dtype=torch.{'float32' if base.file else 'bfloat16'},", ")"]
        lines += [f"model = PeftModel.from_pretrained(base, {where})"]
    turns = ['{"role": "user", "content": "…"}']
    if clients.system:
        message = {"role": "system", "content": clients.system}
        turns = [json.dumps(message, ensure_ascii=False), *turns]
    lines += [f"tokenizer = AutoTokenizer.from_pretrained({where})", ""]
    lines += [f"messages = [{', '.join(turns)}]"]
    if tools := clients.tools:
        lines.append(f"tools = {pformat(tools, sort_dicts=False, width=LINE)}")
    elif clients.tools_differ:
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


def card(name: str, meta: Mapping[str, Any], config: Mapping[str, Any], base: Base) -> str:
    """The complete card. The same facts always give the same card.

    name: of the model. meta: what `Model.meta` says. config: PEFT's adapter_config.json, empty for
    a model with all its weights.
    """
    front = ["---", "library_name: peft" if config else "library_name: transformers"]
    if base.on_hub:  # JSON strings are YAML strings, too
        front.append(f"base_model: {json.dumps(base.source)}")
    if meta.get("license"):
        front.append(f"license: {json.dumps(str(meta['license']))}")
    front += ["pipeline_tag: text-generation", "tags: [finery]", "---"]
    parts = ["\n".join(front), f"# {name}", _about(meta, config, base)]
    rows = [("rows", number(meta["rows"]))] if "rows" in meta else []
    facts = [f"| {label} | {value} |" for label, value in (*rows, *training_facts(meta, config))]
    parts += ["## Training", "\n".join(["| | |", "| --- | --- |", *facts]), "## Loading"]
    if config and not base.source:
        file = f"the file `{inline(base.file)}`" if base.file else "the base model"
        parts.append(
            f"This adapter doesn't name a repository for its base. Get {file}, and write its "
            "folder below. `finery export STEP DIR --with-base` copies it along."
        )
    place, under = 'folder = "."  # this folder', base if config else None
    code = loading_code(place, ClientFacts.of(meta), meta, under)
    return "\n\n".join([*parts, code]) + "\n"


def _about(meta: Mapping[str, Any], config: Mapping[str, Any], base: Base) -> str:
    under = inline(base.source if base.on_hub else meta.get("base") or "")
    named = f" `{under}`" if under else " another model"
    if base.on_hub and base.revision:
        named += f" at revision `{inline(base.revision)}`"
    made = f"A LoRA adapter for{named}" if config else f"A fine-tuned version of{named}"
    how = LEARNED.get(str(meta.get("learned_from")), "")
    license = meta.get("license")
    return " ".join([
        f"{made}, made with finery{how}.",
        f"License of the base model: {inline(license)}." if license
        else "The license of the base model is not known to finery.",
    ])  # fmt: skip


def inline(value: Any) -> str:
    """A name from outside on one line, without what Markdown reads as the end of code or a cell."""
    return " ".join(str(value).replace("`", "'").replace("|", "/").split())


# -- copies for someone else -----------------------------------------------------------------------


ADAPTER_CONFIG = "adapter_config.json"


def complete_copy(
    title: str, adapter: Model, folder: Path, refs: Mapping[str, Path]
) -> Iterator[str]:
    """Name the base of an adapter in its copy in `folder`; yield what the user should know.

    The output in the store holds nothing of the machine that it was trained on. A copy that someone
    loads with PEFT must name the base: its repository with the commit, or its folder.

    refs: role → the copy of an artifact that the adapter refers to, if that was copied, too.
    """
    base = adapter.refs.get("base")
    path = folder / ADAPTER_CONFIG
    if not isinstance(base, Model) or not path.is_file():
        return
    under = _base(base, refs.get("base"))
    config = json.loads(path.read_text(encoding="utf-8"))
    if under.source:
        config["base_model_name_or_path"] = under.source
        config["revision"] = under.revision or None
        path.write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if "best_step" in adapter.meta:  # trained here, so the card is finery's
        text = card(title, adapter.meta, config, under)
        (folder / "README.md").write_text(text, encoding="utf-8")
    yield _advice(under)


def _base(base: Model, copied: Path | None) -> Base:
    under = Base.stated_in(base.meta)
    if copied is not None:
        return Base(source=str(copied.absolute()), file=under.file)
    if under.on_hub:
        return under._replace(revision=str(base.runtime.get("revision", "")))
    if base.external:  # a folder of the user's, or a file in one
        name = under.file or "config.json"
        return Base(source=str(base.file(name).absolute().parent), file=under.file)
    return under


def _advice(under: Base) -> str:
    if under.on_hub:
        at = f" at {under.revision[:12]}" if under.revision else ""
        return f"base: {under.source}{at}, from the Hub"
    if under.source:
        return (
            f"base: {under.source}, a folder of this machine. On another one, pass the base's "
            "folder to PEFT (see README.md)"
        )
    needed = f"the file {under.file}" if under.file else "the base"
    return f"the adapter works with {needed} only: add --with-base to copy it along"
