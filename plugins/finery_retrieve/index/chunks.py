"""The chunks of an index on disk, a line each, and the control tokens in their texts.

A `<|im_end|>` in a document would end the user's turn there, and what follows could pass for
another turn. Tokenizers recognise such tokens wherever they are, so a space is put into them: they
stay readable, and become plain text tokens. The pattern covers the tokens of the usual chat
templates, and those of code, images and reserved places in the usual vocabularies. It is the same
for every model, so a prompt is, too. Other tokens that a vocabulary may have are left as they are.
"""

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from finery.rows import Row

FORMAT = "retrieve"
"""`meta["format"]` of an index that `Retriever` can search."""
CHUNKS_FILE, OFFSETS_FILE = "chunks.jsonl", "offsets.npy"
PLACE_FIELDS = ("line", "page")


class Chunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A text to retrieve.

    place: `{"line": 12}` or `{"page": 3}`, where it begins in its source. tokens: of its text as
    prompts contain it; None in an index without `tokenizer`.
    """

    id: str
    text: str
    source: str = ""
    heading: str = ""
    place: dict[str, int] = {}
    tokens: int | None = None

    @property
    def searched(self) -> str:
        """The text that finds it: its own, below its headings if it lacks the last of them."""
        last_heading = self.heading.rpartition(" > ")[2]
        return self.text if last_heading in self.text else f"{self.heading}\n{self.text}"

    @classmethod
    def of(cls, row: Row, text: str) -> "Chunk":
        """The chunk of a row, as `docs.files` makes them; other rows need have only a text."""
        place = {name: row[name] for name in PLACE_FIELDS if type(row.get(name)) is int}  # no bool
        source, heading = (str(row.get(name) or "") for name in ("source", "heading"))
        return cls(str(row["id"]), text, source, heading, place)


class ChunkWriter:
    """Writes chunks one by one, as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets = [0]

    def __enter__(self) -> Self:
        self._out = (self._folder / CHUNKS_FILE).open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._out.close()
        if error is None:
            import numpy as np

            np.save(self._folder / OFFSETS_FILE, np.asarray(self._offsets, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, chunk: Chunk) -> None:
        """Write the next chunk."""
        self._offsets.append(
            self._offsets[-1] + self._out.write(msgspec.json.encode(chunk) + b"\n")
        )


class Chunks:
    """Reads chunks by number. May be used from several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> Chunk:
        start, stop = int(self._offsets[number]), int(self._offsets[number + 1])
        lines = self._lines  # stays open while it is read, whatever other threads do
        return msgspec.json.decode(os.pread(lines.fileno(), stop - start, start), type=Chunk)

    def __iter__(self) -> Iterator[Chunk]:
        with (self._folder / CHUNKS_FILE).open("rb") as lines:
            for line in lines:
                yield msgspec.json.decode(line, type=Chunk)

    def number(self, id: str) -> int | None:
        """The number of the chunk with an id."""
        return self._numbers.get(id)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {chunk.id: number for number, chunk in enumerate(self)}

    @cached_property
    def _offsets(self) -> Any:
        import numpy as np

        return np.load(self._folder / OFFSETS_FILE, mmap_mode="r")

    @cached_property
    def _lines(self) -> BinaryIO:
        return (self._folder / CHUNKS_FILE).open("rb")


_NAMES = (
    "bos|eos|pad|unk|sep|cls|mask|start_of_turn|end_of_turn|turn|start_of_image|end_of_image"
    "|image_soft_token|begin_of_text|end_of_text|fim_prefix|fim_middle|fim_suffix|think"
    "|tool_call|tool_response|tool_output|tools|function_call|arg_key|arg_value|image|sop"
    "|end_of_utterance|start_of_audio|end_of_audio|audio_soft_token|im_start|im_end|eop"
    r"|fake_token_around_image|global-img|row_\d+_col_\d+"  # SmolVLM
    r"|unused_?\d+|reserved_?\d+|extra_id_\d+|(?:SPECIAL|special)_\d+"
    "|repo_?name|file_?sep|filename|gh_stars|issue_(?:start|comment|closed)|empty_output"
    "|jupyter_(?:start|text|code|output|script)|commit_(?:before|msg|after)|fim[-_](?:pad|prefix"
    "|middle|suffix)|pr(?:_[a-z_]+)?|code_to_intermediate|intermediate_to_code"  # StarCoder, SmolLM
)
CONTROL = re.compile(
    r"<\|[^<>|\s]{1,60}\|?>"  # <|im_end|>, <|eot_id|>; Gemma 4's <|turn>
    r"|<[^<>|\s]{1,60}\|>"  # Gemma 4's <turn|>
    r"|<｜[^<>｜]{1,60}｜>"  # DeepSeek's
    rf"|</?(?:s|{_NAMES})>"
    r"|<<?/?SYS>>?"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|IMG"
    r"|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|PREFIX|MIDDLE|SUFFIX|CALL_ID|THINK|CLS|SEP|PAD|UNK"
    r"|[gs]?MASK|UNUSED_TOKEN_\d+|control_\d+)\]"
)


def escape_control_tokens(text: str) -> str:
    """The text with a space after the first character of each control token."""
    return CONTROL.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)


def has_control_tokens(text: str) -> bool:
    """Whether `escape_control_tokens` changes the text."""
    return ("<" in text or "[" in text) and CONTROL.search(text) is not None
