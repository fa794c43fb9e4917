"""Measures how fast a file answers on this machine. Loaded by name: it changes no output."""

import time
from pathlib import Path

from finery import cpu_count
from finery_gguf.llama import Context, Gguf, library
from finery_gguf.pace import Pace

TOKENS = 64
"""Tokens that are drawn at most."""
SECONDS = 5.0
"""Time after which no more are drawn."""
_PROMPT = "Where is my parcel? It should have arrived last week, and nobody answers the phone."
_SIZE = 512


def tokens_per_second(path: Path) -> float:
    """The speed of one answer after its prompt, by the library of the wheel."""
    gguf = Gguf(path, on_gpu=bool(library().gpus()))
    prompt = gguf.encode(_PROMPT) or [0]
    context = Context(gguf, _SIZE, 1, Pace(cpu_count()))
    context.read(0, prompt, 0)
    context.advance([context.sample(-1, None)])  # the first one fills caches
    began, drawn = time.perf_counter(), 0
    while drawn < TOKENS and time.perf_counter() - began < SECONDS:
        context.advance([context.sample(0, None)])
        drawn += 1
    return drawn / (time.perf_counter() - began)
