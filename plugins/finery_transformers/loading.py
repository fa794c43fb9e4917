"""Load a `Model` of any format with transformers: a folder, a GGUF or an adapter.

Nothing here uses the network. Code from the model's folder runs only if the model's
`meta["trust_remote_code"]` is true.
"""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import Model, StepError, outside_key
from finery_transformers.chat import TEMPLATE_FILE, PromptTemplate
from finery_transformers.hardware import accelerator, explained, not_loaded, record_config
from finery_transformers.imports import import_peft, quick_gguf
from finery_transformers.precision import auto_dtype, dtype_of
from finery_transformers.wrapping import with_text_tools

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBED_TOKENS = 16
GIVE_TEMPLATE = (
    "train an instruct model, or give the model a template with `chat_template:` "
    "(a chat template turns messages into a prompt)"
)


def load_tokenizer(model: Model) -> "PreTrainedTokenizerBase":
    """The tokenizer that `model` was trained with, with its chat template and a padding token.

    An adapter's own tokenizer takes precedence over its base's. `StepError` without a tokenizer or
    a chat template.
    """
    tokenizer = _tokenizer(model)
    if tokenizer.chat_template and (written := tools_as(model)) != "template":
        tokenizer.chat_template = with_text_tools(tokenizer, written)
    if not tokenizer.chat_template:
        raise StepError("the model has no chat template", fix=GIVE_TEMPLATE)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise StepError(
                "the model's tokenizer has neither a padding nor an end-of-sequence token",
                fix="set eos_token in its tokenizer_config.json",
            )
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked, so any token works
    return tokenizer


def load_template(model: Model) -> PromptTemplate:
    """What turns messages into the tokens of a model, see `load_tokenizer`."""
    return PromptTemplate(load_tokenizer(model), template_arguments(model))


def load_model(model: Model, dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
    """The model as one plain transformers model in evaluation mode, on the CPU.

    dtype: of the weights; default `default_dtype()`. A GGUF is dequantised. An adapter is merged
    into its base, see `load_merged`.
    """
    dtype = default_dtype() if dtype is None else dtype
    if model.format == "adapter":
        return _merge(load_model(base_of(model), dtype), model)
    if model.format == "gguf":
        from transformers import GgufConfig

        return _load(model, dtype, quantization_config=GgufConfig(dequantize=True))
    return _load(model, dtype, use_safetensors=True)


def to_device(model: Any, log: Callable[[str], None] | None = None) -> None:
    """Move a loaded model to the GPU, if torch has one. `StepError` if it doesn't fit there.

    A model in fp16 that overflows there, as some do that were trained in bf16, gets fp32 weights.
    """
    import torch

    with explained(not_loaded):
        model.to(accelerator())
        if model.dtype is torch.float16 and not _is_finite(model):
            model.float()
            if log is not None:
                log("this model's values are too large for fp16: computing in fp32")


def _is_finite(model: Any) -> bool:
    """Whether the logits of a few tokens are finite."""
    import torch

    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(min(PROBED_TOKENS, vocabulary), device=model.device)[None]
    with torch.no_grad():
        return bool(model(input_ids=ids, use_cache=False).logits.isfinite().all())


def load_skeleton(model: Model) -> "PreTrainedModel":
    """The model without weights, from its configuration; for an adapter, its base."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if model.format == "adapter":
        return load_skeleton(base_of(model))
    where = _location(model)
    with _readable(model), quiet(), torch.device("meta"):
        config = AutoConfig.from_pretrained(**where)
        auto: Any = AutoModelForCausalLM  # untyped
        skeleton: PreTrainedModel = auto.from_config(
            config, trust_remote_code=where["trust_remote_code"]
        )
    return skeleton


def load_quantized(
    model: Model, dtype: "torch.dtype", scratch: Path, *, kind: str, double: bool
) -> "PreTrainedModel":
    """The model with its linear layers in 4 bits, by bitsandbytes, as QLoRA keeps it.

    dtype: of computations. scratch: a folder for a copy of the 16-bit weights, which all models but
    Hugging Face folders need. kind: `nf4` or `fp4`. double: whether the scales are quantised too
    (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).
    """
    from transformers import BitsAndBytesConfig

    _need_bitsandbytes()
    if model.format != "transformers":
        folder = scratch / "16-bit"
        with quiet():
            load_model(model, dtype).save_pretrained(str(folder))
        model = Model(folder, meta={"format": "transformers"})
    config: Any = BitsAndBytesConfig
    wanted = config(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=dtype,
    )
    return _load(model, dtype, use_safetensors=True, quantization_config=wanted)


def load_adapter(under: "PreTrainedModel", adapter: Model, *, trainable: bool = False) -> Any:
    """The PEFT model of an adapter on its base. `StepError` if they don't fit."""
    import_peft()
    from peft import PeftModel

    with _readable(adapter), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "already merged", of layers merged here
        return PeftModel.from_pretrained(
            under, str(adapter.path), is_trainable=trainable, local_files_only=True
        )


def _load(model: Model, dtype: "torch.dtype", **arguments: Any) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    # Dequantising shows a progress bar that can't be switched off.
    with _readable(model), quiet(), redirect_stderr(io.StringIO()):
        auto: Any = AutoModelForCausalLM  # its types don't know `output_loading_info`
        loaded: PreTrainedModel
        report: dict[str, Any]
        loaded, report = auto.from_pretrained(
            **_location(model), dtype=dtype, output_loading_info=True, **arguments
        )
    # transformers would draw weights that the files lack at random.
    if missing := sorted(report.get("missing_keys") or ()):
        raise StepError(
            f"the {model.format} model lacks {len(missing):,} of the weights that its "
            "configuration describes",
            details=[f"missing: {', '.join(missing[:4])}{', …' * (len(missing) > 4)}"],
            fix="copy or download the model again, or correct its config.json",
        )
    record_config(loaded.config)
    # Its folder must not be saved, and isn't a repository that PEFT could request.
    loaded.name_or_path = loaded.config._name_or_path = ""
    return loaded


@outside_key
def _need_bitsandbytes() -> None:
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise StepError(
            "quantization needs bitsandbytes, which isn't installed",
            fix="pip install 'finery[train]'",
        )


def load_merged(model: Model) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The model in the form that is shipped: one plain model in bf16, and its tokenizer.

    An adapter is merged into its base in 16 bits (a quantised base is dequantised to bf16 first).
    The arithmetic is fp32, and the sum is rounded once, to bf16. If adapters are stacked, each is
    merged into the rounded model that it was trained on.

    For a QLoRA adapter, `meta["quantization"]` says what it was trained on, and `meta["merge"]`
    what it is merged into: the base's 16-bit weights, or its dequantised 4-bit weights. The sum is
    never quantised again, which would lose most of what the adapter learned.
    """
    import torch

    return load_model(model, torch.bfloat16), load_tokenizer(model)


def default_dtype() -> "torch.dtype":
    """The dtype of `dtype: auto`, see `precision.auto_dtype`.

    In a build, the main process has decided it, since it is part of keys. Elsewhere, the GPU that
    torch uses does.
    """
    import torch

    name = os.environ.get("FINERY_AUTO_DTYPE")
    if not name and torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        name = dtype_of(torch.cuda.get_device_capability())
    names = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    return names[name or auto_dtype()]


def base_of(model: Model) -> Model:
    """The base model of an adapter."""
    base = model.refs.get("base")
    if not isinstance(base, Model):
        raise StepError("the adapter doesn't name its base model", fix="build it again")
    return base


def template_arguments(model: Model) -> dict[str, Any]:
    """Arguments of the chat template, e.g. `{"enable_thinking": False}`.

    From `meta["chat_template_kwargs"]` of the model, or of its nearest base that has them.
    """
    if "chat_template_kwargs" in model.meta or model.format != "adapter":
        return dict(model.meta.get("chat_template_kwargs", {}))
    return template_arguments(base_of(model))


def tools_as(model: Model) -> str:
    """How tools reach the prompts of a model: `template`, `text` or `signatures`.

    See `wrapping`.

    From `meta["tools_as"]` of the model, or of its nearest base that has it.
    """
    if "tools_as" in model.meta or model.format != "adapter":
        return str(model.meta.get("tools_as", "template"))
    return tools_as(base_of(model))


def given_template(model: Model) -> str | None:
    """The chat template next to the model's files, which replaces theirs; None without one."""
    file = model.file(TEMPLATE_FILE)
    return file.read_text(encoding="utf-8") if file.is_file() else None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings, since the build has its own."""
    from transformers.utils import logging as hf_logging

    logging: Any = hf_logging  # untyped
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def load_encoder(folder: Path) -> tuple[Any, Any]:
    """(encoder in float32, tokenizer). `StepError` if weights are missing: they would be random."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    with quiet():
        encoder, info = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32,
            output_loading_info=True,
        )  # fmt: skip
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise StepError(
            f"the model lacks {len(missing):,} of its weights, e.g. {missing[0]}",
            fix="download the model again",
        )
    return encoder, tokenizer


def _tokenizer(model: Model) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    if model.format == "adapter" and not model.file("tokenizer_config.json").exists():
        tokenizer = _tokenizer(base_of(model))
    else:
        with _readable(model), quiet():
            tokenizer = AutoTokenizer.from_pretrained(**_location(model))
    if (given := given_template(model)) is not None:
        tokenizer.chat_template = given
    return tokenizer


def _location(model: Model) -> dict[str, Any]:
    """The arguments of `from_pretrained` that locate the model."""
    if model.format == "prompted":
        raise StepError(
            "a prompted model has no weights of its own",
            fix="name its base, the `model:` of that step",
        )
    if model.format not in ("transformers", "gguf", "adapter"):
        raise StepError(
            f"a model of format '{model.format}' can't be loaded with transformers",
            fix="name a Hugging Face folder, a GGUF or an adapter",
        )
    location: dict[str, Any] = {
        "pretrained_model_name_or_path": str(model.path),
        "local_files_only": True,
        "trust_remote_code": model.meta.get("trust_remote_code") is True,
    }
    if model.format == "gguf":
        location["gguf_file"] = str(model.meta["file"])
    return location


def _merge(under: "PreTrainedModel", adapter: Model) -> "PreTrainedModel":
    """The base with the adapter added to its weights, in their dtype."""
    import_peft()
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    if adapter.meta.get("merge") == "dequantized":
        _round_to_4_bits(under, **adapter.meta["quantization"])
    tuned = load_adapter(under, adapter)
    _untie(tuned.get_base_model())
    with quiet(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "already merged", of layers merged here
        for layer in tuned.modules():
            if isinstance(layer, BaseTunerLayer):
                # In fp32. Peak memory is the 16-bit model and one layer in 32 bits. The experts of
                # a layer are one module with several tensors, of which PEFT wraps one at a time.
                name = getattr(layer, "parameter_name", "weight")
                weight = getattr(layer.get_base_layer(), name)
                stored = weight.dtype
                weight.data = weight.data.float()
                layer.merge()
                weight.data = weight.data.to(stored)
        merged: Any = tuned.merge_and_unload()
    merged.eval().requires_grad_(True)  # PEFT froze the parameters
    return merged  # type: ignore[no-any-return]


def _untie(model: Any) -> None:
    """Give the output layer weights of its own if an adapter changes it or the embedding.

    Many small models share these weights. In a training, the adapter changes one of the layers, but
    a sum in shared weights would change both.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [model.get_output_embeddings(), model.get_input_embeddings()]
    if not any(isinstance(layer, BaseTunerLayer) for layer in layers):
        return
    plain: list[Any] = [
        layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in layers
    ]
    head, embedding = plain
    if head is not None and head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False


def _round_to_4_bits(model: "PreTrainedModel", kind: str, double: bool) -> None:
    """Replace the weights of linear layers by their 4-bit form, dequantised.

    The output layer keeps its weights, since transformers doesn't quantise it either.
    """
    import torch

    _need_bitsandbytes()
    from bitsandbytes import functional

    quantize: Any = functional.quantize_4bit
    restore: Any = functional.dequantize_4bit
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear) and layer is not head:
            packed, state = quantize(layer.weight.data, quant_type=kind, compress_statistics=double)
            layer.weight.data = restore(packed, state).to(layer.weight.dtype)


@contextmanager
def _readable(model: Model) -> Iterator[None]:
    """Turn the loaders' errors about missing or broken files into a `StepError`."""
    from safetensors import SafetensorError

    try:
        with quick_gguf() if model.format == "gguf" else nullcontext():
            yield
    except (
        OSError, ValueError, KeyError, RuntimeError, SafetensorError, MemoryError, ImportError
    ) as error:  # fmt: skip
        other = not_loaded(error)
        if other is not None:
            raise other from error
        if isinstance(error, ImportError):
            raise
        names = sorted(p.name for p in model.path.iterdir()) if model.path.is_dir() else []
        name = model.meta.get("file") or ", ".join(names) or "none"
        raise StepError(
            f"the {model.format} model can't be loaded: {error}",
            fix=f"check its files: {name}",
        ) from error
