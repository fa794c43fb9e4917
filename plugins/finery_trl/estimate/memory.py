"""Estimates the memory and time of a training by arithmetic.

Memory is the total at the peak of an optimizer step, between the forward and backward pass:
weights, trainable weights with their gradients and the two moments of AdamW, activations for the
backward pass, and logits, or a tile of them on a GPU. The division into these parts is that of
ZeRO (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054, section 3). Activations are counted
tensor by tensor, in the manner of Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198,
section 4), for the block of a Llama: RMSNorm, rotary positions, gated MLP, and an attention that
keeps no matrix of scores.

`benchmarks/memory.py` compares these figures with the memory of real trainings.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from finery_trl.model.loading import matched
from finery_trl.settings import ALL_LINEAR

MLP = ("gate_proj", "up_proj", "down_proj")
FULL_BYTES = 4
"""Of a trainable weight, its gradient and each moment of AdamW, all in fp32."""
QUANTIZED_BYTES = {False: 0.5 + 4 / 64, True: 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Of a 4-bit weight with its scales, one per 64 weights, in fp32 or quantized to 8 bits
(Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 3)."""
MOMENTS = 2
"""States of AdamW for each trainable weight."""
ADAMW = "adamw_torch_fused"
QUANTIZED_STATE_BYTES = 1 + 4 / 256
"""Of a state in 8 bits with its scale, one per 256 weights, in fp32."""
LEAST_QUANTIZED, LEAST_PAGED = 4096, 100_000
"""Weights of the smallest tensor whose states bitsandbytes quantizes, and whose states it pages
(`Optimizer2State` and `get_state_buffer` of bitsandbytes/optim/optimizer.py)."""
LOGIT_BYTES = 12
"""Of a logit at the start of the backward pass: log-probability and two gradients, in fp32."""
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""Of the logits that TRL has at once on a GPU (`TOKEN_CHUNK_SIZE` of trl/kernels/chunked_logprob.py
and `_CHUNKED_LOGPROB_CHUNK_SIZE` of trl/trainer/utils.py), in the forward and backward pass."""
FRAGMENTATION = 0.1
"""Of activations, which come and go: what torch's allocator holds on a GPU in unusable pieces."""
RUNTIME_BYTES = {"cpu": 0.75e9, "cuda": 0.8e9}
"""Of Python and its libraries; on a GPU, of the context and the workspace of cuBLAS."""


class Architecture(NamedTuple):
    """The sizes of a decoder with gated MLPs, in numbers of elements."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool

    def linears(self) -> dict[str, tuple[int, int]]:
        """Linear layer of a block → (inputs, outputs)."""
        h, q, kv = self.hidden, self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h),
            "gate_proj": (h, self.intermediate), "up_proj": (h, self.intermediate),
            "down_proj": (self.intermediate, h),
        }  # fmt: skip

    def paths(self) -> dict[str, tuple[int, int]]:
        """Linear layer of any block → (inputs, outputs), named as the modules of a Llama."""
        return {
            f"model.layers.{number}.{'mlp' if name in MLP else 'self_attn'}.{name}": size
            for number in range(self.layers)
            for name, size in self.linears().items()
        }

    def linear_parameters(self) -> int:
        """Weights in the linear layers of all blocks."""
        return self.layers * sum(a * b for a, b in self.linears().values())

    def parameters(self) -> int:
        """All weights: the blocks, the embedding, the output matrix unless tied, and the norms."""
        embedding = self.vocabulary * self.hidden * (1 if self.tied else 2)
        norms = (2 * self.layers + 1) * self.hidden
        return self.linear_parameters() + embedding + norms

    def tensors(self) -> list[int]:
        """The number of weights in each tensor except the embedding."""
        linears = [a * b for a, b in self.linears().values()] * self.layers
        output = [] if self.tied else [self.vocabulary * self.hidden]
        return [*linears, *output, *[self.hidden] * (2 * self.layers + 1)]


class Adapter(NamedTuple):
    """A LoRA adapter: its rank, its linear layers as in PEFT, and whether it uses DoRA."""

    r: int
    targets: str | Sequence[str] = ALL_LINEAR
    dora: bool = False

    def parameters(self, model: Architecture) -> int:
        """Its weights: A (inputs x r) and B (r x outputs) per layer (Hu et al. 2021, section 4.1,
        https://arxiv.org/abs/2106.09685), and the magnitudes of DoRA (outputs)."""
        return sum(self.tensors(model))

    def tensors(self, model: Architecture) -> list[int]:
        """The number of weights in each of its tensors."""
        layers = self.covered(model)
        pairs = [self.r * size for layer in layers for size in layer]
        return pairs + [outputs for _, outputs in layers if self.dora]

    def covered(self, model: Architecture) -> list[tuple[int, int]]:
        """(inputs, outputs) of each layer that gets it."""
        layers = model.paths()
        names = layers if self.targets == ALL_LINEAR else matched(self.targets, layers)
        return [layers[name] for name in names]


class Load(NamedTuple):
    """The batch that a training processes at once.

    rows: sequences in memory. tokens: of the longest, with padding. answers: positions with logits
    per sequence. width: bytes of an activation (2 or 4). device: `cpu` or `cuda`. offloading:
    whether activations wait in main memory, which happens only on a GPU.
    """

    rows: int
    tokens: int
    answers: int
    width: int
    checkpointing: bool = False
    device: str = "cpu"
    offloading: bool = False


class Memory(NamedTuple):
    """Bytes by purpose."""

    weights: float
    trained: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    fragmentation: float
    runtime: float

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return sum(self)


def memory(
    model: Architecture,
    adapter: Adapter | None,
    load: Load,
    *,
    quantized: bool = False,
    double_quantized: bool = True,
    has_reference: bool = False,
    teacher: Architecture | None = None,
    optim: str = ADAMW,
) -> Memory:
    """The peak memory of a training, in bytes.

    adapter: None if all weights are trained. has_reference: whether a preference training keeps a
    frozen copy of what it trains: of the model in the compute dtype, or of the adapter in fp32.
    teacher: a model that is loaded too, in the compute dtype.
    optim: as in the settings.
    """
    frozen = _frozen(model, load.width, quantized, double_quantized)
    count = model.parameters() if adapter is None else adapter.parameters(model)
    # Autocast multiplies with 16-bit copies of the trainable weights.
    cast = load.width * count if load.width < FULL_BYTES else 0
    activation_bytes = activations(model, adapter, load)
    on_gpu = load.device == "cuda"
    copy = FULL_BYTES * count if adapter is not None else frozen
    beside = load.width * teacher.parameters() if teacher is not None else 0.0
    beside += copy if has_reference else 0
    return Memory(
        weights=(frozen if adapter is not None else 0) + beside,
        trained=FULL_BYTES * count + cast,
        gradients=FULL_BYTES * count,
        optimizer=states(model, adapter, optim, pages=on_gpu),
        activations=activation_bytes,
        logits=tiled_logits(model, adapter, load)
        if on_gpu
        else LOGIT_BYTES * load.rows * min(load.answers, load.tokens) * model.vocabulary,
        fragmentation=FRAGMENTATION * activation_bytes if on_gpu else 0,
        runtime=RUNTIME_BYTES[load.device],
    )


def states(model: Architecture, adapter: Adapter | None, optim: str, *, pages: bool) -> float:
    """Bytes of the states of AdamW.

    pages: whether there is main memory to move them to. Those don't count, since they leave when
    the GPU is full. bitsandbytes keeps embeddings and small tensors in fp32.
    """
    pages = pages and optim.startswith("paged")
    bits8 = optim.endswith("8bit")
    tensors = model.tensors() if adapter is None else adapter.tensors(model)
    total = sum(_states(size, bits8, pages) for size in tensors)
    if adapter is None:
        total += _states(model.vocabulary * model.hidden, False, pages)
    return total


def _states(size: int, bits8: bool, pages: bool) -> float:
    """Bytes of the states of a tensor with so many weights. The scales of 8 bits aren't paged."""
    quantized = bits8 and size >= LEAST_QUANTIZED
    width = QUANTIZED_STATE_BYTES if quantized else FULL_BYTES
    if pages and size >= LEAST_PAGED:
        width = QUANTIZED_STATE_BYTES - 1 if quantized else 0
    return MOMENTS * width * size


def tiled_logits(model: Architecture, adapter: Adapter | None, load: Load) -> float:
    """Bytes of what replaces the logits of all positions on a GPU: TRL computes the loss in tiles.

    One tile, its part of the output matrix, the input of that layer at positions with loss and its
    gradient in fp32, and the gradient of the whole matrix in fp32 if it is trained.
    """
    positions = load.rows * min(load.answers, load.tokens)
    vocabulary = min(TILE_VOCABULARY, model.vocabulary)
    tile = min(TILE_TOKENS, positions) * vocabulary + vocabulary * model.hidden
    inputs = positions * model.hidden * (load.width + FULL_BYTES)
    matrix = FULL_BYTES * model.vocabulary * model.hidden if adapter is None else 0
    return load.width * tile + inputs + matrix


def _frozen(model: Architecture, width: int, quantized: bool, double: bool) -> float:
    """Bytes of frozen weights. QLoRA quantizes only the linear layers of blocks."""
    if not quantized:
        return width * model.parameters()
    linear = model.linear_parameters()
    return QUANTIZED_BYTES[double] * linear + width * (model.parameters() - linear)


def activations(model: Architecture, adapter: Adapter | None, load: Load) -> float:
    """Bytes of the forward pass that the backward pass needs.

    With gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174), these are the
    input of each block, and all activations of one block with their gradients. If activations wait
    in main memory (`OffloadActivations` of trl/models/activation_offloading.py), the GPU has those
    of one block with their gradients, and without checkpointing, those that several layers take:
    the inputs of attention and of the MLP, which TRL moves only once and keeps for the others.
    """
    tokens = load.rows * load.tokens
    block = tokens * block_bytes(model, adapter, load.width)
    if load.offloading and load.device == "cuda":
        shared = 0 if load.checkpointing else 2 * tokens * model.hidden * load.width
        return model.layers * shared + 2 * block
    if load.checkpointing:
        inputs = tokens * model.hidden * (load.width if adapter is not None else FULL_BYTES)
        return model.layers * inputs + 2 * block
    return model.layers * block


def block_bytes(model: Architecture, adapter: Adapter | None, width: int) -> float:
    """Bytes that a block keeps per token until the backward pass.

    Each of two norms: its input in fp32 and the input of the linear layers. Attention: queries,
    keys and values of all heads, its output, and a copy of that output for `o_proj`. MLP: both
    branches, the activation, and their product. An adapter adds r numbers per layer. If norms are
    trained and the residual stream is fp32, norms also keep their output, and each linear layer
    casts its own copy.
    """
    h, q, i = model.hidden, model.heads * model.head_size, model.intermediate
    inside = width * (5 * q + 4 * i)
    if adapter is None:
        copies = 5 * width if width < FULL_BYTES else 0
        return inside + h * (4 * FULL_BYTES + copies)
    covered = len(adapter.covered(model)) / model.layers
    return inside + 2 * h * (FULL_BYTES + width) + width * adapter.r * covered


def tokens_per_second(rates: Sequence[tuple[float, float]], parameters: float) -> float | None:
    """The expected speed of a model, from (parameters, tokens/s) of past trainings.

    The work per token is proportional to the parameters (Kaplan et al. 2020,
    https://arxiv.org/abs/2001.08361, section 2.1), so a rate is scaled by their ratio. The result
    is the median over the trainings nearest in size, None without any.
    """
    if not rates:
        return None
    distance = {p: abs(math.log(p / parameters)) for p, _ in rates}
    nearest = min(distance.values())
    fitting = sorted(r * p / parameters for p, r in rates if distance[p] == nearest)
    return fitting[len(fitting) // 2]


SHAPES = (
    Architecture(30, 576, 1536, 9, 3, 64, 49152, tied=True),  # SmolLM2-135M
    Architecture(32, 960, 2560, 15, 5, 64, 49152, tied=True),  # SmolLM2-360M
    Architecture(28, 1024, 3072, 16, 8, 128, 151936, tied=True),  # Qwen3-0.6B
    Architecture(16, 2048, 8192, 32, 8, 64, 128256, tied=True),  # Llama-3.2-1B
    Architecture(28, 2048, 6144, 16, 8, 128, 151936, tied=True),  # Qwen3-1.7B
    Architecture(36, 2560, 9728, 32, 8, 128, 151936, tied=True),  # Qwen3-4B
    Architecture(36, 4096, 12288, 32, 8, 128, 151936, tied=False),  # Qwen3-8B
    Architecture(40, 5120, 17408, 40, 8, 128, 151936, tied=False),  # Qwen3-14B
    Architecture(64, 5120, 25600, 64, 8, 128, 151936, tied=False),  # Qwen3-32B
    Architecture(80, 8192, 28672, 64, 8, 128, 128256, tied=False),  # Llama-3.3-70B
)
"""Sizes of well-known models, from their config.json."""


def of_size(parameters: float) -> Architecture:
    """The sizes of the well-known model nearest in size, with layers added or taken away."""
    nearest = min(SHAPES, key=lambda shape: abs(math.log(shape.parameters() / parameters)))
    beside = nearest.parameters() - nearest.linear_parameters()
    layer = nearest.linear_parameters() / nearest.layers
    return nearest._replace(layers=max(1, round((parameters - beside) / layer)))
