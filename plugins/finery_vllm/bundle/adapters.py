"""Which adapters vLLM can serve, according to its source (vllm/lora, vllm/config/lora.py).

It refuses some adapters when they are loaded, and silently answers like the base for others, so
finery checks them first. Weights aren't loaded: names and shapes come from the headers of the
files.

Adapters on one server also need the same base, tokenizer and chat template.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from finery import Model, StepError
from finery.advanced import some_of
from finery_local.facts import ADAPTER_WEIGHTS, ModelFiles
from finery_local.safetensors_file import shapes, tensors_of
from finery_transformers.loading import base_of
from finery_vllm.folder import ends_of
from finery_vllm.server import LORA_RANKS, largest_rank

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finery_transformers.frozen.template import Kept


PLAIN_STARTS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Ways to begin a training that leave the base's weights as they are."""
OTHER_WEIGHTS = {
    "use_dora": "it is a DoRA, whose magnitudes vLLM doesn't know",
    "lora_bias": "its matrices have biases (lora_bias)",
    "alora_invocation_tokens": "it is an activated LoRA (aLoRA)",
    "layer_replication": "it repeats layers (layer_replication)",
    "use_bdlora": "it is a block-diagonal LoRA (BD-LoRA)",
    "use_qalora": "it is a QALoRA",
    "target_parameters": "it tunes parameters outside linear layers (target_parameters)",
    "trainable_token_indices": "it trains tokens' embeddings (trainable_token_indices)",
}
"""Settings of PEFT that vLLM refuses or ignores → what they mean."""
OUTPUT_LAYERS = ("lm_head", "embed_tokens", "embed_in", "embed_out", "wte")
"""Layers at the ends of models, whose adapters vLLM serves for few architectures."""
MERGE_FIX = (
    "merge it into its base: `merge: true`, which then serves this model alone; or train it as a "
    "plain LoRA"
)
_MATRIX = re.compile(r"base_model\.model\.(.+)\.lora_[AB]\.weight")
_SHOWN = 3


def check_adapter(adapter: Model, name: str) -> None:
    """`StepError` with all reasons why vLLM can't serve an adapter together with its base.

    name: of the adapter in the recipe.
    """
    config = ModelFiles(adapter).adapter_config
    reasons = [*_config_faults(config)]
    if adapter.meta.get("merge") == "dequantized":
        reasons.append(
            "it was trained on the base's 4-bit weights, and vLLM would add it to the 16-bit ones"
        )
    if reasons := [*reasons, *_name_faults(adapter)]:
        raise StepError(
            f"vLLM can't serve the adapter '{name}' with its base: {reasons[0]}",
            details=reasons[1:],
            fix=MERGE_FIX,
        )


def _config_faults(config: Mapping[str, Any]) -> Iterator[str]:
    kind = config.get("peft_type")
    if kind != "LORA":
        yield f"it isn't a LoRA but {kind or 'of an unknown kind'}"
    if saved := config.get("modules_to_save"):
        yield f"it contains complete layers (modules_to_save: {', '.join(saved)})"
    for setting, meaning in OTHER_WEIGHTS.items():
        if config.get(setting):
            yield meaning
    if config.get("bias", "none") != "none":
        yield f"it trains biases (bias: {config['bias']})"
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in PLAIN_STARTS:
        yield (
            f"it began with init_lora_weights: {start}, as PiSSA, OLoRA, CorDA and LoftQ do, which "
            "changes the base's weights"
        )
    if (rank := largest_rank(config)) > LORA_RANKS[-1]:
        yield f"its rank is {rank}, and vLLM's largest is {LORA_RANKS[-1]}"


def _name_faults(adapter: Model) -> Iterator[str]:
    """The faults of its matrices' names, which decide where vLLM adds them."""
    names = sorted(shapes(adapter.file(ADAPTER_WEIGHTS)))
    strange = [name for name in names if _MATRIX.fullmatch(name) is None]
    if strange:
        yield f"it holds tensors that aren't matrices of a LoRA: {some_of(strange, _SHOWN)}"
    layers = sorted({m[1] for name in names if (m := _MATRIX.fullmatch(name))})
    if not names:
        yield "its file holds no tensors"
    if ends := [layer for layer in layers if layer.rpartition(".")[2] in OUTPUT_LAYERS]:
        yield f"it tunes the ends of the model: {some_of(ends, _SHOWN)}"
    # Empty unless the base is a Hugging Face folder.
    base_layers = {tensor.rpartition(".")[0] for tensor in tensors_of(base_of(adapter))}
    absent = [layer for layer in layers if layer not in {*base_layers, *ends}]
    if base_layers and absent:
        ending = f".{absent[0].rpartition('.')[2]}"
        similar = [name for name in base_layers if name.endswith(ending)]
        yield (
            f"its base has no layer {some_of(absent, _SHOWN)}: the base's layers have other names, "
            f"e.g. {min(similar or base_layers)}, so vLLM would answer as the base"
        )


SEPARATE_BUNDLES_FIX = "export one bundle for each, and serve them on two ports"


class Chat(NamedTuple):
    """How a server turns messages into prompts.

    template: frozen, see `finery_transformers.frozen`. tools: whether it writes tools. ends: token
    ids that end an answer. system: what begins a conversation without a system message; None if
    clients must send the right one.
    """

    tokenizer: "PreTrainedTokenizerBase"
    template: str
    arguments: dict[str, Any]
    tools: bool
    ends: list[int]
    system: str | None


def chat_of(model: Model, keep: Collection["Kept"] = (), *, system: bool = True) -> Chat:
    """The tokenizer and chat template that a model was trained with. Arguments: as for exports."""
    from finery_transformers.frozen.template import frozen_template

    frozen = frozen_template(model, keep=keep, system=system)
    tokenizer = frozen.for_serving()
    ends = ends_of(model, frozen.trained._replace(tokenizer=tokenizer))
    default = frozen.system if system else None
    return Chat(tokenizer, frozen.source, frozen.arguments, frozen.tools, ends, default)


def chats_of(models: Mapping[str, Model]) -> dict[str, Chat]:
    """That of each model. If one was trained with tools, those of all write tools.

    A server has one template. Without tools in a request, it writes the prompts of each training.
    It begins conversations with the system message of the training only if all have the same.
    """
    chats = {name: chat_of(model) for name, model in models.items()}
    tools, systems = ({getattr(c, name) for c in chats.values()} for name in ("tools", "system"))
    if len(tools) == len(systems) == 1:
        return chats
    keep: tuple[Kept, ...] = ("tools",) if len(tools) > 1 else ()
    same = len(systems) == 1
    return {name: chat_of(model, keep, system=same) for name, model in models.items()}


def check_bases(models: Mapping[str, Model]) -> Model:
    """The base of all adapters. `StepError` if they have several, also of two revisions."""
    bases = {name: _base(name, model) for name, model in models.items()}
    (first_name, base), *other_bases = bases.items()
    for name, other_base in other_bases:
        if _identity(other_base) != _identity(base):
            raise StepError(
                f"the adapters '{first_name}' and '{name}' have different base models",
                details=[
                    f"{n}: on {_model_label(b)}"
                    for n, b in ((first_name, base), (name, other_base))
                ],
                fix=f"train both on the same step; or {SEPARATE_BUNDLES_FIX}",
            )
    return base


def check_chats(chats: Mapping[str, Chat]) -> Chat:
    """What all adapters share of them. `StepError` where they differ, since the server has one."""
    from finery.rows.difference import text_difference

    (first_name, chat), *other_chats = chats.items()
    for name, other_chat in other_chats:
        both = f"the adapters '{first_name}' and '{name}'"
        if other_chat.arguments != chat.arguments:
            raise StepError(
                f"{both} were trained with different arguments of the chat template",
                details=[
                    f"{n}: {', '.join(f'{k}: {v!r}' for k, v in c.arguments.items()) or 'none'}"
                    for n, c in ((first_name, chat), (name, other_chat))
                ],
                fix=f"a server has one chat template: train both with the same, or "
                f"{SEPARATE_BUNDLES_FIX}",
            )
        if other_chat.template != chat.template:
            raise StepError(
                f"{both} were trained with different chat templates",
                details=text_difference((first_name, name), chat.template, other_chat.template),
                fix=f"a server has one chat template: train both with the same, or "
                f"{SEPARATE_BUNDLES_FIX}",
            )
        if _vocabulary(other_chat.tokenizer) != _vocabulary(chat.tokenizer):
            raise StepError(
                f"{both} have different tokenizers",
                fix=f"train both with the tokenizer of their base, or {SEPARATE_BUNDLES_FIX}",
            )
    return chat._replace(ends=sorted({end for each in chats.values() for end in each.ends}))


def check_vocabulary(chat: Chat, base: Model, name: str) -> None:
    """`StepError` if a tokenizer has tokens for which the base has no embeddings."""
    size = ModelFiles(base).text_config.get("vocab_size")
    largest_token = max(chat.tokenizer.get_vocab().values(), default=0)
    if isinstance(size, int) and largest_token >= size:
        raise StepError(
            f"the tokenizer of the adapter '{name}' has token {largest_token}, but its base has "
            f"only {size} embeddings",
            fix="train it without additional tokens, or merge it: `merge: true`",
        )


def _base(name: str, model: Model) -> Model:
    base = model.refs.get("base")
    if model.format != "adapter" or not isinstance(base, Model):
        raise StepError(
            f"'{name}' is a whole model, not an adapter",
            fix="list only adapters: their base is served too; or list this model alone",
        )
    return base


def _identity(model: Model) -> bytes:
    """The content of a model: the digest of one in the store, else what identifies its files."""
    content = model.digest or [model.meta.get("files") or str(model.path.resolve()), model.meta]
    return msgspec.json.encode(content, order="deterministic")


def _model_label(model: Model) -> str:
    """A model as people know it: its repository and revision, else its digest."""
    repo = model.meta.get("repo")
    if repo:
        return f"{repo} at revision {model.runtime.get('revision', 'unknown')}"
    name = (
        model.meta.get("base") or model.meta.get("name") or model.meta.get("file") or model.format
    )
    return f"{name}, {model.digest[:12] or model.path}"


def _vocabulary(tokenizer: "PreTrainedTokenizerBase") -> Sequence[Any]:
    return sorted(tokenizer.get_vocab().items())
