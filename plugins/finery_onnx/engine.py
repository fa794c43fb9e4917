"""The engine of exported classifiers: ONNX Runtime on the CPU."""

from finery_encoder.engine import EncoderEngine


class OnnxEngine(EncoderEngine):
    """Gives the most likely class of each field, and how probable the answer is, without torch."""

    packages = ("onnxruntime", "numpy", "tokenizers")
    local = False  # tens of megabytes
