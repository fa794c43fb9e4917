"""A text classifier on an encoder: its files, its network, and how it answers.

The folder has the encoder (config.json, model.safetensors, the tokenizer's files), `HEAD` with the
linear layer (`weight` [classes of all fields, width], `bias`), and `FACTS`, a `Classifier`. That of
`onnx.export` has the network as `ONNX`, `TOKENIZER` and `FACTS`.
`serve.bundle` ships this file, so it imports nothing of finery: its server answers with the code
that was evaluated.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FACTS, HEAD = "classifier.json", "head.safetensors"
ONNX, TOKENIZER = "model.onnx", "tokenizer.json"
"""Encoder and linear layer as a graph, in place of their weights; the tokenizer of tokenizers."""
INPUTS = ("input_ids", "attention_mask")
OBJECT, WHOLE = "object", "whole"
"""Forms of answers apart from lines `field: value`: a JSON object, one text."""
OVERLAP = 8
"""A window repeats the end of the one before it: an eighth of `max_length`."""


class Field(NamedTuple):
    """A field of the answer.

    classes: as they are written in the answer; in a JSON object or a list, as JSON.
    several: whether its value is a list with any number of classes.
    temperature: divides the logits, so that the probabilities are calibrated.
    """

    name: str
    classes: list[str]
    several: bool = False
    temperature: float = 1.0


class Classifier(NamedTuple):
    """What a classifier is, apart from its weights.

    form: of the answers. pooling: `mean` of the last states, or `cls`. normalise: whether the
    pooled vector is scaled to length 1. max_length: tokens of a window, with control tokens.
    windows: most windows of a text; further tokens are cut off. prefix: before each text.
    """

    form: str
    fields: list[Field]
    pooling: str
    normalise: bool
    max_length: int
    windows: int = 1
    prefix: str = ""
    lower: bool = False

    def write(self, folder: Path) -> None:
        """Write it into a model's folder."""
        facts = {**self._asdict(), "fields": [field._asdict() for field in self.fields]}
        text = json.dumps(facts, ensure_ascii=False, indent=1) + "\n"
        (folder / FACTS).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Classifier":
        """The classifier in a model's folder."""
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return cls(**facts | {"fields": [Field(**field) for field in facts["fields"]]})

    def encode(self, tokenizer: Any, texts: Sequence[str]) -> list[list[list[int]]]:
        """The windows of each text, each with its token ids.

        tokenizer: a fast one of transformers, or one of tokenizers.
        """
        texts = [self.prefix + text for text in texts]
        texts = [text.lower() for text in texts] if self.lower else texts
        fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
        fast.no_padding()
        stride = self.max_length // OVERLAP if self.windows > 1 else 0
        fast.enable_truncation(self.max_length, stride=stride)
        return [
            [first.ids, *(more.ids for more in first.overflowing)][: self.windows]
            for first in fast.encode_batch(texts)
        ]

    def answer(self, logits: Sequence[float]) -> tuple[str, float]:
        """The answer to a text by its logits, the mean of its windows', and its probability.

        The probability that the complete answer is right, taking its parts as independent.
        """
        values, probability = [], 1.0
        for field, part in zip(self.fields, self.split(logits), strict=True):
            scaled = [logit / field.temperature for logit in part]
            if field.several:
                chosen = [name for name, x in zip(field.classes, scaled, strict=True) if x > 0]
                values.append(f"[{', '.join(chosen)}]")
                probability *= math.prod(1 / (1 + math.exp(-abs(x))) for x in scaled)
            else:
                best = max(range(len(scaled)), key=scaled.__getitem__)
                values.append(field.classes[best])
                probability /= sum(math.exp(x - scaled[best]) for x in scaled)
        names = [field.name for field in self.fields]
        return _written(self.form, names, values), probability

    def split(self, logits: Sequence[float]) -> Iterator[Sequence[float]]:
        """The logits of each field."""
        start = 0
        for field in self.fields:
            yield logits[start : start + len(field.classes)]
            start += len(field.classes)


def _written(form: str, names: Sequence[str], values: Sequence[str]) -> str:
    """The answer with these values."""
    if form == WHOLE:
        return values[0]
    pairs = zip(names, values, strict=True)
    if form == OBJECT:
        return json.dumps({name: json.loads(v) for name, v in pairs}, ensure_ascii=False)
    return "\n".join(f"{name}: {value}" for name, value in pairs)


def network(encoder: Any, classifier: Classifier) -> Any:
    """A `torch.nn.Module` of an encoder, as `AutoModel` loads it, and a new linear layer.

    `forward(input_ids, attention_mask)`, both int64 [windows, tokens], returns the logits
    [windows, classes of all fields]. `pooled`, of the same arguments, returns what the linear layer
    `head` gets, [windows, width].
    """
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            outputs = sum(len(field.classes) for field in classifier.fields)
            self.head = torch.nn.Linear(encoder.config.hidden_size, outputs)

        def pooled(self, input_ids: Any, attention_mask: Any) -> Any:
            states = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state
            if classifier.pooling == "cls":
                vectors = states[:, 0]
            else:
                mask = attention_mask.unsqueeze(-1).to(states.dtype)
                vectors = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
            return torch.nn.functional.normalize(vectors) if classifier.normalise else vectors

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.head(self.pooled(input_ids, attention_mask))

    return Network()


def load(folder: Path) -> tuple[Classifier, Any, Any]:
    """(classifier, network in float32 for inference, tokenizer) of a model's folder."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    classifier = Classifier.read(folder)
    encoder = AutoModel.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    model = network(encoder, classifier)
    model.head.load_state_dict(load_file(folder / HEAD))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return classifier, model.eval(), tokenizer


class Answers:
    """Answers texts with the classifier in a model's folder, one window at a time.

    So an answer doesn't depend on other texts, whose padding would change the last digits.
    """

    def __init__(self, folder: Path, meta: Any = None) -> None:
        run = _by_onnxruntime if (folder / ONNX).exists() else _by_torch
        self.classifier, self._tokenizer, self._logits = run(folder)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The answer to each text."""
        return [answer for answer, _ in self.answered(texts)]

    def answered(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The answer to each text, and its probability."""
        return [self.classifier.answer(logits) for logits in self.logits(texts)]

    def logits(self, texts: Sequence[str]) -> Iterator[list[float]]:
        """The logits of each text: the mean of its windows'."""
        for windows in self.classifier.encode(self._tokenizer, texts):
            columns = zip(*(self._logits(ids) for ids in windows), strict=True)
            yield [math.fsum(column) / len(windows) for column in columns]


def _by_torch(folder: Path) -> tuple[Classifier, Any, Callable[[list[int]], list[float]]]:
    """(classifier, tokenizer, the logits of a window)."""
    import torch

    classifier, model, tokenizer = load(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)

    def logits(ids: list[int]) -> list[float]:
        tokens = torch.tensor([ids], device=device)
        with torch.inference_mode():
            values: list[float] = model(tokens, torch.ones_like(tokens))[0].tolist()
        return values

    return classifier, tokenizer, logits


def _by_onnxruntime(folder: Path) -> tuple[Classifier, Any, Callable[[list[int]], list[float]]]:
    """The same of a folder of `onnx.export`, on the CPU, without torch."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves other cores
    session = onnxruntime.InferenceSession(
        folder / ONNX, options, providers=["CPUExecutionProvider"]
    )

    def logits(ids: list[int]) -> list[float]:
        tokens = np.array([ids], dtype=np.int64)
        inputs = dict(zip(INPUTS, (tokens, np.ones_like(tokens)), strict=True))
        values: list[float] = session.run(None, inputs)[0][0].tolist()
        return values

    return Classifier.read(folder), Tokenizer.from_file(str(folder / TOKENIZER)), logits
