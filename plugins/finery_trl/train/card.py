"""The model card of a trained model: README.md, with the front matter that the Hub reads.

Format: https://huggingface.co/docs/hub/model-cards.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from finery_transformers.card import LEARNED, MEASURED, base_arguments, loading_code, number

README = "README.md"
ENDS = "ends"
"""The entry in the model's `meta` with the tokens that end a turn."""


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
    front = ["---", "library_name: peft" if config else "library_name: transformers"]
    if base.on_hub:  # JSON strings are YAML strings, too
        front.append(f"base_model: {json.dumps(base.source)}")
    if meta.get("license"):
        front.append(f"license: {json.dumps(str(meta['license']))}")
    front += ["pipeline_tag: text-generation", "tags: [finery]", "---"]
    parts = ["\n".join(front), f"# {name}", _about(meta, config, base)]
    parts += ["## Training", "\n".join(_facts(meta, config)), "## Loading"]
    arguments = None
    if config:
        if not base.source:
            file = f"the file `{_inline(base.file)}`" if base.file else "the base model"
            parts.append(
                f"This adapter doesn't name a repository for its base. Get {file}, and write its "
                "folder below. `finery export STEP DIR --with-base` copies it along."
            )
        arguments = base_arguments(base.source or "FOLDER_OF_THE_BASE", base.revision, base.file)
    code = loading_code('folder = "."  # this folder', meta.get("prompts", {}), meta, arguments)
    return "\n\n".join([*parts, code]) + "\n"


def _about(meta: Mapping[str, Any], config: Mapping[str, Any], base: Base) -> str:
    under = _inline(base.source if base.on_hub else meta.get("base") or "")
    named = f" `{under}`" if under else " another model"
    if base.on_hub and base.revision:
        named += f" at revision `{_inline(base.revision)}`"
    made = f"A LoRA adapter for{named}" if config else f"A fine-tuned version of{named}"
    how = LEARNED.get(str(meta.get("learned_from")), "")
    license = meta.get("license")
    return " ".join([
        f"{made}, made with finery{how}.",
        f"License of the base model: {_inline(license)}." if license
        else "The license of the base model is not known to finery.",
    ])  # fmt: skip


def _inline(value: Any) -> str:
    """A name from outside on one line, without what Markdown reads as the end of code or a cell."""
    return " ".join(str(value).replace("`", "'").replace("|", "/").split())


def _facts(meta: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a table: what is known of the training."""
    yield "| | |\n| --- | --- |"
    counts = {"rows": "rows", "examples": "examples that the rows are split into"}
    for name, label in (counts | MEASURED).items():
        if name in meta:
            yield f"| {label} | {number(meta[name])} |"
    if config:
        yield f"| LoRA | r {config.get('r')}, lora_alpha {config.get('lora_alpha')} |"
        targets = config.get("target_modules")
        layers = ", ".join(targets) if isinstance(targets, list) else str(targets)
        yield f"| adapted layers | {_inline(layers)} |"
    if "quantization" in meta and isinstance(meta["quantization"], Mapping):
        yield f"| base during training | in 4 bits ({meta['quantization'].get('kind')}) |"
