"""The engine of exported classifiers: ONNX Runtime on the CPU."""

from typing import ClassVar

from finery_encoder.engine import EncoderEngine


class OnnxEngine(EncoderEngine):
    """Gives the most likely class of each field, and how probable the answer is, without torch."""

    packages: ClassVar[tuple[str, ...]] = ("onnxruntime", "numpy", "tokenizers")
    local = False  # tens of megabytes
