"""The packages that `gguf.export` needs, and hints for words of other tools."""

import re
from collections.abc import Mapping
from typing import Any

from finery import Hints, Preflight
from finery_gguf.export import Export
from finery_gguf.llama import PACKAGE

_BY_BITS = {
    "2": "q4_k_m", "3": "q4_k_m", "4": "q4_k_m", "5": "q5_k_m", "6": "q6_k", "8": "q8_0",
    "16": "bf16", "32": "bf16",
}  # fmt: skip
"""Bits a weight → the type with the same number, or the nearest one."""
_SETTINGS = {
    "quantisation": "quantization", "quantizations": "quantization", "quant": "quantization",
    "quants": "quantization", "quantization_method": "quantization", "outtype": "quantization",
    "type": "quantization", "types": "quantization",
    "importance_matrix": "imatrix", "calibration": "imatrix", "calibration_rows": "imatrix",
    "calibration_data": "imatrix", "imatrix_file": "imatrix", "imatrix_rows": "imatrix",
    "chunks": "imatrix_tokens", "max_tokens": "imatrix_tokens",
}  # fmt: skip


def _value(setting: str, value: Any) -> str | None:
    if not setting.startswith("quantization"):
        return None
    bits = re.fullmatch(
        r"(?:int|fp|q|iq|nf|bf|f|w)?_?(\d+)(?:[-_ ]?bits?)?(?:_\w+)?", str(value).lower()
    )
    if bits is None or bits[1] not in _BY_BITS:
        return None
    return f"write {_BY_BITS[bits[1]]}; `finery schema gguf.export` lists the types"


EXPORT = Hints(
    settings=_SETTINGS,
    called=("gguf", "export.gguf", "llama.cpp", "llama.export", "gguf.quantize"),
    value=_value,
)


class ExportPreflight(Preflight[Export]):
    """Says what converts, quantises and proves."""

    def packages(self) -> Mapping[str, str]:
        """What reads the model, and llama.cpp."""
        needed = ("torch", "transformers", "peft", "gguf", PACKAGE)
        return dict.fromkeys(needed, "finery[gguf]")
