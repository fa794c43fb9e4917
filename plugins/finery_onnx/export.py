"""`onnx.export`: a classifier as a graph for ONNX Runtime, and the engine that answers with it."""

import json
import warnings
from pathlib import Path
from typing import ClassVar, Literal

from finery import Job, Model, Promise, Step, StepError, UsageError, setting, takes
from finery.advanced import size
from finery.rows.similar import question_text
from finery_encoder.engine import EncoderEngine
from finery_encoder.network import INPUTS, ONNX, TOKENIZER, Answers, load

OPSET = 17
TOLERANCE = 1e-3
"""Largest difference between logits of the graph and of the model, if no logit exceeds 1."""
PROBES = ("a", "Is it “naïve”? – 日本語 🙂", "one two three " * 40, "four five six " * 4_000)
"""Texts of several lengths. The last one fills every window."""


PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "onnx", "onnxruntime")


class Export(
    Step,
    isolated=True,
    seeded=False,
    sections=("export",),
    packages=PACKAGES,
    installs=dict.fromkeys(PACKAGES, "finery[onnx]"),
):
    """Export a classifier of `encoder.classify` to ONNX, which answers without torch.

    The folder has the encoder with its linear layers as one graph (`model.onnx`), the tokenizer
    (`tokenizer.json`), and the classes, windows and temperatures (`classifier.json`). It needs
    onnxruntime, tokenizers and numpy. finery verifies that the graph gives the logits of the model
    for texts of several lengths. With int8, the model is another one, so evaluate it separately.
    `serve.bundle` ships it with a server.

    Raises StepError for a graph with other logits, and for one of more than 2 GB.
    """

    model: Model = takes(help="The classifier, a step of `encoder.classify`.")
    quantization: Literal["none", "int8"] = setting(
        "none",
        help="none: float32, the same answers as the model; int8: weights of matrices and "
        "embeddings in 8 bits, a quarter of the size. Activations are rounded when they are "
        "multiplied.",
    )

    def check(self) -> None:
        """Raise `UsageError` for a model that isn't a classifier on an encoder."""
        found = self.model.meta.get("format", "encoder")
        if found != "encoder":
            name = self.model.ref or "model"
            raise UsageError(
                f"onnx.export expects a classifier on an encoder, but '{name}' has the format "
                f"'{found}'",
                where="model",
                fix="name a step of encoder.classify; language models are exported by gguf.export",
            )

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format, its quantisation, and the step type that ships it."""
        facts = {"format": "onnx", "bundle": "serve.bundle", "quantization": self.quantization}
        return {"": Promise(Model, facts)}

    def run(self, job: Job) -> Model:
        """Write the graph, compare it with the model, and quantise it."""
        example = json.loads(self.model.meta["training_example"])["messages"]
        texts = (question_text(example), *PROBES)
        job.progress(0, 1, "writing the graph")
        _write(self.model.path, texts, job.out)
        expected = [*Answers(self.model.path).logits(texts)]
        worst = _difference(expected, job.out, texts)
        limit = TOLERANCE * max(1.0, *(abs(x) for row in expected for x in row))
        if not worst <= limit:  # or not a number
            raise StepError(
                f"the graph gives other logits than the model: they differ by {worst:.2g}, and the "
                f"limit is {limit:.2g}",
                fix="ship the model itself with serve.bundle; torch can't convert this "
                "architecture",
            )
        job.log(f"{len(texts)} texts have the logits of the model, to {worst:.1g}")
        if self.quantization == "int8":
            job.progress(0, 1, "quantising")
            _quantise(job.out / ONNX, job.scratch / ONNX)
            worst = _difference(expected, job.out, texts)
            job.log(f"int8: logits differ from those of the model by at most {worst:.2g}")
        written = (job.out / ONNX).stat().st_size
        job.log(f"{ONNX}: {size(written)}")
        own = {"trainable_parameters", "dtype"}
        meta = {name: fact for name, fact in self.model.meta.items() if name not in own}
        facts = {"file": ONNX, "size": written, "exported_from": self.model.digest}
        return Model(job.out, meta={**meta, **self.outputs()[""].meta, **facts})


def _write(folder: Path, texts: tuple[str, ...], out: Path) -> None:
    """Write the network of a classifier as a graph for any number and length of windows."""
    import torch

    classifier, network, tokenizer = load(folder)
    (window,), *_ = classifier._replace(windows=1).encode(tokenizer, texts[:1])
    ids = torch.tensor([window, window])
    mask = torch.ones_like(ids)
    mask[1, -1] = 0  # padding is possible
    axes = {0: "windows", 1: "tokens"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing; the caller compares what was made
        # The other exporter (dynamo) makes an equally fast graph, in ten times the time.
        torch.onnx.export(
            network, (ids, mask), str(out / ONNX), dynamo=False, opset_version=OPSET,
            input_names=[*INPUTS], output_names=["logits"],
            dynamic_axes={**dict.fromkeys(INPUTS, axes), "logits": {0: "windows"}},
        )  # fmt: skip
    fast = tokenizer.backend_tokenizer
    fast.no_truncation()
    fast.no_padding()
    fast.save(str(out / TOKENIZER))
    classifier.write(out)


def _difference(expected: list[list[float]], folder: Path, texts: tuple[str, ...]) -> float:
    """The largest difference of any logit of the texts."""
    import numpy as np

    return float(np.abs(np.array(expected) - np.array([*Answers(folder).logits(texts)])).max())


def _quantise(file: Path, scratch: Path) -> None:
    """Round the weights of a graph, except those of the linear layers at its end.

    Each output of a matrix has a scale of its own: with one a matrix, the answers are much worse.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file.replace(scratch)
    quantize_dynamic(
        scratch, file, per_channel=True, weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gather"],
    )  # fmt: skip
    scratch.unlink()


class OnnxEngine(EncoderEngine):
    """Gives the most likely class of each field, and how probable the answer is, without torch."""

    packages: ClassVar[tuple[str, ...]] = ("onnxruntime", "numpy", "tokenizers")
    local = False  # tens of megabytes
