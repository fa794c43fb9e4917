"""ONNX: classifiers on encoders as graphs for ONNX Runtime, which answers without torch.

Input: a model of the format `encoder`. Output: a model of the format `onnx`, verified to give the
same logits, and the engine that answers with it.
"""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types of this plugin."""
    return {"onnx.export": "finery_onnx.export:Export"}


@hookimpl
def finery_engines() -> Mapping[str, str]:
    """The engine of exported models."""
    return {"onnx": "finery_onnx.export:OnnxEngine"}
