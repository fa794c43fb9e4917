"""The SentencePiece file that llama.cpp's converter reads, and transformers no longer saves."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "tokenizer.model"


def add_vocabulary(folder: Path, base: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Copy the file from the folder of a base, if it holds the tokenizer's own vocabulary.

    Also adds to tokenizer_config.json in `folder` which tokens are special, which the file doesn't
    say. Without the file, nothing changes: the converter then reads tokenizer.json.
    """
    if not (base / NAME).is_file() or not _is_of(base / NAME, tokenizer):
        return
    shutil.copyfile(base / NAME, folder / NAME)
    file = folder / "tokenizer_config.json"
    added = {
        str(number): {"content": token.content, "special": token.special}
        for number, token in tokenizer.added_tokens_decoder.items()
    }
    config = json.loads(file.read_text("utf-8")) | {"added_tokens_decoder": added}
    file.write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")


def _is_of(file: Path, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a file is SentencePiece's and has the tokenizer's pieces at their ids."""
    from sentencepiece import SentencePieceProcessor

    pieces: Any = SentencePieceProcessor()
    try:
        pieces.LoadFromFile(str(file))
    except (OSError, RuntimeError):  # some models have a file of another kind under this name
        return False
    texts = [pieces.IdToPiece(number) for number in range(pieces.GetPieceSize())]
    known: Any = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    plain = {number for number in range(len(texts)) if number not in tokenizer.added_tokens_decoder}
    return len(texts) <= len(known) and all(texts[number] == known[number] for number in plain)
