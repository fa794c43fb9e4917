"""Faster answers on a CPU: packed weights and plain attention. Imports torch.

On a CPU, torch passes a layer's weights to oneDNN (in fp32 to MKL) unpacked, and they are
rearranged into blocks for every product. With the few rows of a step of generation, that takes as
long as the product. torch's compiler packs weights once, with the same operators that are used
here.

torch's fused attention handles many queries at once. For a single one, in bf16, plain products of
the query heads that share keys and values take about half the time.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel


ROWS = 16
"""For how many rows the layout is chosen. It suits other numbers too."""
PROBED_TOKENS = 16
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest difference of logits, relative to the largest logit: rounding, not another function."""


class PackedLinear(nn.Module):
    """A linear layer that keeps only packed weights: [..., inputs] to [..., outputs]."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
        self.bias = layer.bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The product, in the dtype of the weights."""
        return torch.ops.mkldnn._linear_pointwise(  # type: ignore[no-any-return]
            values, self.packed, self.bias, "none", [], ""
        )

    def unpacked(self) -> nn.Linear:
        """The layer as it was, to the last bit."""
        outputs, inputs = self.packed.shape
        with torch.device("meta"):
            layer = nn.Linear(inputs, outputs, bias=False, dtype=self.packed.dtype)
        layer.weight = nn.Parameter(self.packed.to_dense(), requires_grad=False)
        layer.bias = self.bias
        return layer


def pack(model: "PreTrainedModel") -> bool:
    """Pack the weights of a model on the CPU that only answers. Whether it was done.

    Nothing changes on other devices, where torch or the CPU lacks the operators, and for models
    that use a layer's weights in another way than by calling the layer: each model answers a few
    tokens with both kinds of layers. Only one layer at a time is in memory twice.
    """
    if model.device.type != "cpu" or not is_supported(model.dtype):
        return False
    before = _logits(model)
    _replace(model, nn.Linear, PackedLinear)
    if _agree(model, before):
        return True
    _replace(model, PackedLinear, PackedLinear.unpacked)
    return False


def _replace(model: "PreTrainedModel", kind: type[nn.Module], by: Callable[[Any], Any]) -> None:
    """Replace the layers of a kind, but not those of other dtypes than the model's."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is kind and _dtype(layer) is model.dtype:
                setattr(parent, name, by(layer))


def _dtype(layer: Any) -> torch.dtype:
    weights: torch.Tensor = layer.packed if isinstance(layer, PackedLinear) else layer.weight
    return weights.dtype


def is_supported(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in a dtype on this machine."""
    operators: Any = torch.ops.mkldnn
    backend: Any = torch.backends.mkldnn  # untyped
    if not backend.is_available() or not hasattr(operators, "_linear_pointwise"):
        return False
    if dtype is torch.bfloat16:
        return bool(operators._is_mkldnn_bf16_supported())
    return dtype is torch.float32


def _agree(model: "PreTrainedModel", before: torch.Tensor) -> bool:
    try:
        after = _logits(model)
    except (RuntimeError, AttributeError, TypeError):  # it reads weights that are no longer there
        return False
    largest = float(before.abs().max())
    return bool((after - before).abs().max() <= TOLERANCE[model.dtype] * largest)


def _logits(model: "PreTrainedModel") -> torch.Tensor:
    """Of a few tokens, in fp32."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(min(PROBED_TOKENS, vocabulary))[None]
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()  # type: ignore[no-any-return]


NAME = "finery_answers"
UNUSUAL = ("position_bias", "softcap", "output_attentions")
"""Arguments that the plain products don't know."""


def install(model: "PreTrainedModel") -> bool:
    """Make a model that answers on a CPU use it. Whether it does: only in place of `sdpa`."""
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' shapes: [B, heads, T, size] in, [B, T, heads, size] out."""
    usual = mask is None or (mask.dtype is torch.bool and mask.shape[1] == 1)
    if query.shape[2] > 1 or not usual or any(more.get(name) for name in UNUSUAL):
        return sdpa_attention_forward(module, query, key, value, mask, **more)
    rows, heads, _, size = query.shape
    scale = more.get("scaling") or 1 / math.sqrt(size)
    grouped = query.reshape(rows, key.shape[1], -1, size)
    scores = (grouped @ key.transpose(2, 3)).float() * scale
    if mask is not None:
        scores = scores.masked_fill_(~mask, -math.inf)
    weights = scores.softmax(dim=-1).to(value.dtype)
    return (weights @ value).reshape(rows, 1, heads, -1), None
