"""Prints the memory of the usual models and methods, by finery's own estimate.

python benchmarks/gpu/sizes.py            the Markdown table in docs/howto/gpu.md

Each training has four rows of 1,024 tokens in memory, half of them with loss, on a GPU in 16 bits.
"""

import sys

from finery_trl.estimate.memory import Adapter, Architecture, Load, memory

GIB = 2**30
ROWS, TOKENS, LEARNED = 4, 1024, 512
MODELS = {
    "Qwen3-0.6B": Architecture(28, 1024, 3072, 16, 8, 128, 151_936, True),
    "Qwen3-1.7B": Architecture(28, 2048, 6144, 16, 8, 128, 151_936, True),
    "Qwen3-4B": Architecture(36, 2560, 9728, 32, 8, 128, 151_936, True),
    "Qwen3-8B": Architecture(36, 4096, 12288, 32, 8, 128, 151_936, False),
    "Llama-3.1-8B": Architecture(32, 4096, 14336, 32, 8, 128, 128_256, False),
    "Qwen3-14B": Architecture(40, 5120, 17408, 40, 8, 128, 151_936, False),
    "Qwen3-32B": Architecture(64, 5120, 25600, 64, 8, 128, 151_936, False),
}
LORA = Adapter(16)
HEAD = (
    "Model", "LoRA", "LoRA, checkpointing", "QLoRA", "QLoRA, checkpointing",
    "all weights, checkpointing", "DPO, QLoRA, checkpointing",
)  # fmt: skip


def table() -> str:
    """The table, in GiB."""
    lines = [HEAD, ("---", *["--:"] * (len(HEAD) - 1))]
    lines += [(name, *map(_gib, _totals(model))) for name, model in MODELS.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _totals(model: Architecture) -> list[float]:
    """Bytes of each training in `HEAD`."""
    plain = Load(ROWS, TOKENS, LEARNED, 2, checkpointing=False, device="cuda")
    saving = plain._replace(checkpointing=True)
    pairs = saving._replace(rows=2 * ROWS)
    parts = [
        memory(model, LORA, plain),
        memory(model, LORA, saving),
        memory(model, LORA, plain, quantized=True),
        memory(model, LORA, saving, quantized=True),
        memory(model, None, saving),
        memory(model, LORA, pairs, quantized=True),
    ]
    return [part.total for part in parts]


def _gib(size: float) -> str:
    gib = size / GIB
    return f"{gib:.1f}" if gib < 10 else f"{gib:.0f}"


if __name__ == "__main__":
    print(table())
    sys.exit(0)
