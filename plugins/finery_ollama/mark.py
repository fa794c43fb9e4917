"""A copy of a GGUF whose chat template Ollama doesn't take for one that it knows."""

import shutil
from mmap import ACCESS_READ, mmap
from pathlib import Path
from struct import pack, unpack_from

from finery import StepError
from finery_gguf.llama import Gguf
from finery_transformers.frozen.template import FROZEN_MARK

_NAME = b"tokenizer.chat_template"
_ENTRY = pack("<Q", len(_NAME)) + _NAME + pack("<I", 8)
"""The beginning of the template's entry in a GGUF's metadata: its name, and the type of a text."""
_ALIGNMENT = 32
"""The bytes of which the offsets of tensors are multiples, in a GGUF that doesn't say."""


def copy_marked(gguf: Gguf, target: Path) -> None:
    """Copy a GGUF, and begin its chat template with the mark of frozen ones, which writes nothing.

    The mark takes a multiple of the alignment, so all that comes after it is as before.
    """
    alignment = int(gguf.metadata("general.alignment") or _ALIGNMENT)
    written = "\n{{- '' }}"  # removes the white space before it
    missing = -len((FROZEN_MARK + written).encode()) % alignment
    mark = (FROZEN_MARK + " " * missing + written).encode()
    with gguf.path.open("rb") as source, target.open("wb") as copy:
        with mmap(source.fileno(), 0, access=ACCESS_READ) as content:
            size_at = content.find(_ENTRY) + len(_ENTRY)
            (size,) = unpack_from("<Q", content, size_at)
            copy.write(content[:size_at] + pack("<Q", size + len(mark)) + mark)
        source.seek(size_at + 8)
        shutil.copyfileobj(source, copy, 1 << 20)
    if Gguf(target, vocab_only=True).chat_template != f"{mark.decode()}{gguf.chat_template}":
        raise StepError(
            "the chat template can't be found in the GGUF's metadata", where=str(gguf.path),
            fix="export the GGUF with gguf.export, and name that step",
        )  # fmt: skip
