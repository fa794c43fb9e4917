"""Embeds questions, as `finery_retrieve.embed` does inside finery."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finery_retrieve.serve.app.server import Refused, address_in, opener_for

if TYPE_CHECKING:
    import numpy as np

BASE_URL = "EMBEDDINGS_BASE_URL"
"""The environment variable that names another server of embeddings."""
SECONDS = 60.0
Secret = Callable[[str], str | None]
"""Gives an API key by the name of its environment variable."""


class Embedder(Protocol):
    """A model that embeds questions."""

    def embed(self, question: str) -> "np.ndarray":
        """The embedding, float32, of length 1. Raises `Refused`."""


def embedder(facts: Mapping[str, Any], folder: Path, secret: Secret) -> Embedder:
    """The embedding model of a bundle: behind an API, or in a folder.

    Raises `ImportError` if a package that it needs isn't installed.
    """
    return Remote(facts, secret) if "base_url" in facts else Local(facts, folder)


class Remote:
    """A model behind `/v1/embeddings`."""

    def __init__(self, facts: Mapping[str, Any], secret: Secret) -> None:
        self._facts = facts
        self._key = secret(facts["api_key"]) if facts["api_key"] else None
        address = address_in(BASE_URL) or str(facts["base_url"]).rstrip("/")
        self._url = f"{address}/embeddings"

    def embed(self, question: str) -> "np.ndarray":
        """See `Embedder`."""
        facts = self._facts
        body = {"model": facts["name"], "input": [facts["question_prefix"] + question]}
        body |= {"encoding_format": "float"} | facts["more"]
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        try:
            with opener_for(self._url).open(request, timeout=SECONDS) as response:
                return scaled(json.load(response)["data"][0]["embedding"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise Refused(502, f"the question can't be embedded: {error}") from error


class Local:
    """A folder with a model that transformers loads."""

    def __init__(self, facts: Mapping[str, Any], folder: Path) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        self._facts = facts
        self._one = threading.Lock()  # tokenizers can't be used by several threads at once
        with _quiet(logging):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        self._model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        positions = getattr(model.config, "max_position_embeddings", None)
        limits = [facts["longest"], self._tokenizer.model_max_length, positions]
        self._longest = min(n for n in limits if n is not None)

    def embed(self, question: str) -> "np.ndarray":
        """See `Embedder`. Too long a question is cut."""
        import torch

        facts, text = self._facts, self._facts["question_prefix"] + question
        text = text.lower() if facts["lower"] else text
        with self._one, torch.inference_mode():
            tokens = self._tokenizer(text, truncation=True, max_length=self._longest)["input_ids"]
            ids = torch.tensor([tokens], device=self._model.device)
            output = self._model(input_ids=ids, attention_mask=torch.ones_like(ids))
            states = output.last_hidden_state[0].float()
            pooled = states[0] if facts["pooling"] == "cls" else states.mean(dim=0)
            return scaled(pooled.tolist())


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Silence transformers' progress bars, since the app prints what it loads."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def scaled(values: Sequence[float]) -> "np.ndarray":
    """A vector scaled to length 1. `ValueError` if that isn't possible."""
    import numpy as np

    vector: np.ndarray = np.asarray(values, dtype=np.float64)
    length = float(np.linalg.norm(vector))
    if vector.ndim != 1 or not np.isfinite(length) or length == 0.0:
        raise ValueError("the embedding has a length of 0 or isn't finite")
    return (vector / length).astype("<f4")
