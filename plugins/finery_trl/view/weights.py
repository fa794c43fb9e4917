"""How much the weights of two models differ, without a library that trains."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

SUFFIX = ".safetensors"
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""dtypes that are compared, and how NumPy reads them; bf16 is the upper half of a float."""


class _Tensor(NamedTuple):
    path: Path
    dtype: str
    shape: list[int]
    offset: int


def weights_difference(before: Sequence[Path], after: Sequence[Path]) -> dict[str, Any]:
    """`tensors`: how many both models have in the same shape; `changed`: how many of them differ;
    `most`: the largest absolute difference. Empty if they have none.

    before, after: safetensors files of each model.
    """
    import numpy as np

    old, new = _tensors(before), _tensors(after)
    both = [name for name in old if name in new and old[name].shape == new[name].shape]
    changed, largest = 0, 0.0
    for name in both:
        old_values, two = _values(old[name]), _values(new[name])
        difference = float(np.max(np.abs(old_values - two), initial=0.0))
        changed += difference != 0
        largest = max(largest, difference)
    return {"tensors": len(both), "changed": changed, "most": largest} if both else {}


def _tensors(files: Sequence[Path]) -> Mapping[str, _Tensor]:
    """Name → the tensor, of those with numbers that are compared."""
    shapes = {}
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, facts in header.items():
            if facts["dtype"] in DTYPES:
                offset = 8 + length + facts["data_offsets"][0]
                shapes[name] = _Tensor(path, facts["dtype"], facts["shape"], offset)
    return shapes


def _values(tensor: _Tensor) -> "Array":
    import numpy as np

    count = int(np.prod(tensor.shape))
    values = np.fromfile(tensor.path, DTYPES[tensor.dtype], count, offset=tensor.offset)
    if tensor.dtype == "BF16":
        return (values.astype("<u4") << 16).view("<f4")
    return values.astype(np.float64 if tensor.dtype == "F64" else np.float32)
