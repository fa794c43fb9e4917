"""Write a 16-bit GGUF in another type, and measure how fast a file answers on this machine.

The library of the wheel writes it, or the user's llama-quantize.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finery import StepError, outside_key
from finery.advanced import cpu_count
from finery_gguf.importance import Importance
from finery_gguf.llama import Context, Gguf, library, listening
from finery_gguf.pace import Pace
from finery_gguf.programs import QUANTIZE, user_program
from finery_serve.processes import run_program

FILE_TYPES = {
    "f16": 1, "q8_0": 7, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18, "iq4_xs": 30, "bf16": 32,
}  # fmt: skip
"""Quantisation → `llama_ftype` of llama.h."""
TYPES_USING_IMATRIX = ("q4_k_m", "q5_k_m", "iq4_xs")
"""Those that an importance matrix is for. More bits round so finely that it changes nothing."""
TYPES_NEEDING_IMATRIX = ("iq4_xs",)
"""Those of them that need one."""


def quantise(
    source: Path, target: Path, quantization: str, *, flags: Mapping[str, bool] = {},
    importance: Importance | None = None,
) -> list[str]:  # fmt: skip
    """Write `source` (16 or 32 bits a weight) to `target` in another type; return the warnings.

    The user's llama-quantize does it, or else the library. flags: boolean metadata to set in the
    target, e.g. `tokenizer.ggml.add_bos_token`.
    """
    own = user_program(QUANTIZE)
    if own is None:
        return quantise_by_library(source, target, quantization, flags, importance)
    command = [str(own.path)]
    for key, value in flags.items():
        command += ["--override-kv", f"{key}=bool:{str(value).lower()}"]
    with TemporaryDirectory(dir=target.parent) as folder:
        if importance is not None:
            importance.write(Path(folder) / "imatrix.dat")
            command += ["--imatrix", str(Path(folder) / "imatrix.dat")]
        command += [str(source), str(target), quantization.upper(), str(cpu_count())]
        ran = run_program(command)
    lines = [line.strip() for line in (ran.stdout + ran.stderr).splitlines() if line.strip()]
    if ran.returncode != 0:
        raise StepError(
            f"{own.path.name} can't quantise to {quantization}", where=str(own.path),
            details=lines[-5:],
        )  # fmt: skip
    return [line for line in lines if "not divisible" in line or "warning" in line.lower()]


def quantise_by_library(
    source: Path, target: Path, quantization: str, flags: Mapping[str, bool] = {},
    importance: Importance | None = None,
) -> list[str]:  # fmt: skip
    """As `quantise`, by the library of the wheel."""
    ffi, c = library().ffi, library().c
    options = c.llama_model_quantize_default_params()
    options.nthread = cpu_count()
    options.ftype = FILE_TYPES[quantization]
    overrides = ffi.new("struct llama_model_kv_override[]", len(flags) + 1)  # the last one ends it
    for item, (key, value) in zip(overrides, flags.items(), strict=False):
        item.tag = c.LLAMA_KV_OVERRIDE_TYPE_BOOL
        item.key = key.encode()
        item.val_bool = value
    if flags:
        options.kv_overrides = overrides
    columns = {} if importance is None else importance.columns
    matrix = ffi.new("struct llama_model_imatrix_data[]", len(columns) + 1)
    memory: list[Any] = []  # C reads it, and an entry without a name ends the matrix
    for item, (name, values) in zip(matrix, columns.items(), strict=False):
        text, numbers = ffi.new("char[]", name.encode()), ffi.from_buffer("float[]", values)
        memory += [text, numbers]
        item.name, item.data, item.size = text, numbers, len(values)
    if columns:
        options.imatrix = matrix
    chosen = ffi.new("llama_model_quantize_params *", options)
    with listening() as heard:
        status = c.llama_model_quantize(os.fsencode(source), os.fsencode(target), chosen)
    del memory  # C read it until here
    if status != 0:
        raise StepError(f"llama.cpp can't quantise to {quantization}", details=heard[-5:])
    return heard


SPEED_TOKENS = 64
"""Tokens that are drawn at most."""
SPEED_SECONDS = 5.0
"""Time after which no more are drawn."""
_SPEED_PROMPT = (
    "Where is my parcel? It should have arrived last week, and nobody answers the phone."
)
_SPEED_CONTEXT = 512


@outside_key
def tokens_per_second(path: Path, adapter: Path | None = None) -> float:
    """The speed of one answer after its prompt, by the library of the wheel."""
    gguf = Gguf(path, on_gpu=bool(library().gpus()), adapter=adapter)
    prompt = gguf.encode(_SPEED_PROMPT) or [0]
    context = Context(gguf, _SPEED_CONTEXT, 1, Pace(cpu_count()))
    context.read(0, prompt, 0)
    context.advance([context.sample(-1, None)])  # the first one fills caches
    began, drawn = time.perf_counter(), 0
    while drawn < SPEED_TOKENS and time.perf_counter() - began < SPEED_SECONDS:
        context.advance([context.sample(0, None)])
        drawn += 1
    return drawn / (time.perf_counter() - began)
