"""Small models for rehearsals: the same architecture, tokenizer and chat template, few weights.

Input: the files of a model, whose weights may be missing. Output: files of a model with two layers.
"""

import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from finery import Job, Model
from finery_local.gguf_file import gguf_facts

LAYERS, WIDTH, MULTIPLE = 2, 256, 64
"""`MULTIPLE`: of the width, since quantisations have blocks."""
WEIGHT = re.compile(r"\.(safetensors|bin)$")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_LIMITS = {
    512: "intermediate_size n_inner ffn_dim moe_intermediate_size shared_expert_intermediate_size",
    4: "num_experts num_local_experts n_routed_experts",
    2: "num_experts_per_tok top_k_experts moe_topk",
    1: "n_group topk_group",
}
"""Highest value in a narrow model → settings of a `config.json`."""


def small_settings(settings: Mapping[str, Any], *, narrow: bool) -> dict[str, Any]:
    """The settings of a `config.json` for a model of the same kind with two layers.

    If there are several kinds of layers, one of each remains. narrow: also with few heads, of the
    same size, and few experts.
    """
    small = {name: v for name, v in settings.items() if name != "quantization_config"}
    layers = next((settings[name] for name in _LAYERS if settings.get(name)), 0)
    kinds = settings.get("layer_types") or []
    kept = sorted({kinds.index(kind) for kind in kinds})
    kept = kept if len(kept) > 1 else [*range(min(LAYERS, layers))]
    for name, value in small.items():
        if isinstance(value, list) and len(value) == layers > 1:
            small[name] = [value[index] for index in kept]
        elif name in _LAYERS and value:
            small[name] = min(value, len(kept))
        elif name == "first_k_dense_replace" and value:
            small[name] = 1
        elif name.endswith("_config") and isinstance(value, dict):
            small[name] = small_settings(value, narrow=narrow and name == "text_config")
    return {**small, **dict(_narrow_settings(small))} if narrow else small


def _narrow_settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    width = next((settings[name] for name in _WIDTHS if settings.get(name)), 0)
    heads = next((settings[name] for name in _HEADS if settings.get(name)), 0)
    if not isinstance(heads, int) or not heads or width <= WIDTH:
        return
    size = settings.get("head_dim") or width // heads
    few = max(2, WIDTH // size // 2 * 2)
    while few * size % MULTIPLE:
        few += 2
    groups = settings.get("num_key_value_heads")
    if groups:
        yield "num_key_value_heads", few if groups == heads else 1 if groups == 1 else few // 2
    yield from ((name, few * size) for name in _WIDTHS if settings.get(name))
    yield from ((name, few) for name in _HEADS if settings.get(name))
    for most, names in _LIMITS.items():
        limited = [name for name in names.split() if isinstance(settings.get(name), int)]
        yield from ((name, min(settings[name], most)) for name in limited)


def small_model(step: Any, job: Job) -> Model:
    """A small model in `job.out`. step: one with `light_files`."""
    files, times, refs = step.light_files(job), 0.0, {}
    if isinstance(files, Path):
        gguf_facts(files)  # raises what the whole file would
        file = job.out / files.name
        times = _write_small_gguf(files, file)
        facts = {**step.about(), **gguf_facts(file), "file": file.name}
    else:
        for name in files.names:
            job.copy(files.root / name, name)
        trusted = {"trust_remote_code": step.trust_remote_code}
        if step.base is None:
            times = _write_small_folder(files.root, job.out, trusted)
        else:
            _write_small_adapter(files.root, job.out, step.base)
        names = frozenset(p.relative_to(job.out).as_posix() for p in job.out.rglob("*.*"))
        folder = type(files)(job.out, names, files.title)
        model = folder.model(job, base=step.base, about=step.about(), **trusted)
        facts, refs = {n: v for n, v in model.meta.items() if n != "files"}, model.refs
        if hasattr(step, "path") and not any(map(WEIGHT.search, os.listdir(files.root))):
            times = 0.0  # a build here isn't possible, so its space doesn't matter
    runtime = {"times_smaller": times} if times else {}
    small: Model = step.with_template(Model(job.out, meta=facts, refs=refs, runtime=runtime))
    return small


def _write_small_folder(folder: Path, out: Path, trusted: Mapping[str, Any]) -> float:
    """Write a small model like the one in `folder`; how many times as large that one is."""
    import torch
    import transformers

    auto: Any = transformers.AutoModelForCausalLM
    config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, **trusted)
    architecture = getattr(transformers, (config.architectures or [""])[0], None)
    make = architecture._from_config if architecture else partial(auto.from_config, **trusted)
    dtype = getattr(config, "dtype", None) or torch.float32
    for narrow in (True, False):
        small = type(config).from_dict(small_settings(config.to_dict(), narrow=narrow))
        torch.manual_seed(0)
        try:
            model = make(small, dtype=dtype)
            break
        except Exception:  # whatever the class refuses: two layers of the whole width
            if not narrow:
                raise
    model.save_pretrained(out)
    settings = {n: v for n, v in config.to_dict().items() if n != "quantization_config"}
    with torch.device("meta"):  # which has no weights
        large = make(type(config).from_dict(settings), dtype=dtype)
    return float(large.num_parameters() / model.num_parameters())


def _write_small_adapter(folder: Path, out: Path, base: Any) -> None:
    """Write a new adapter with the configuration of the one in `folder`."""
    from peft import PeftConfig, get_peft_model

    from finery_transformers.loading import load_model

    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    get_peft_model(load_model(base), config).save_pretrained(str(out))


def _write_small_gguf(source: Path, out: Path) -> float:
    """Write the first layers of a GGUF with all that isn't in a layer, e.g. its tokenizer.

    Returns how many times as large all tensors are.
    """
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    count = f"{architecture}.block_count"
    layers, writer = reader.fields[count].contents(), gguf.GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        value, (kind, *inner) = field.contents(), field.types
        if inner and len(value) == layers:
            value = value[:LAYERS]
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, LAYERS if name == count else value, kind, *inner[-1:])
    small = [
        tensor for tensor in reader.tensors
        if not tensor.name.startswith("blk.") or int(tensor.name.split(".")[1]) < LAYERS
    ]  # fmt: skip
    for tensor in small:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return float(sum(t.n_bytes for t in reader.tensors) / sum(t.n_bytes for t in small))
