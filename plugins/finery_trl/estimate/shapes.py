"""The likely sizes of a model of which only the number of parameters is known."""

import math

from finery_trl.estimate.memory import Architecture

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
    """The sizes of the well-known model that is closest in size, with layers added or removed."""
    nearest = min(SHAPES, key=lambda shape: abs(math.log(shape.parameters() / parameters)))
    beside = nearest.parameters() - nearest.linear_parameters()
    layer = nearest.linear_parameters() / nearest.layers
    return nearest._replace(layers=max(1, round((parameters - beside) / layer)))
