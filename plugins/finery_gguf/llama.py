"""A thin layer over llama.cpp: open a GGUF, tokenise, evaluate, sample.

It uses the C API, which `llama-cpp-py-sync` ships as a prebuilt library with cffi bindings. That
package's high-level class ignores chat templates and evaluates each prompt from the start.
"""

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from finery import Model, StepError

if TYPE_CHECKING:
    import numpy

    from finery_gguf.pace import Pace

PACKAGE = "llama-cpp-py-sync"
CHUNK = 512
"""Tokens evaluated in one call. Constant, since the last digits of logits depend on it."""

ALL_LAYERS = 999
"""More than any model has, so that llama.cpp holds all of them on the GPU."""
ADAPTER = "gguf-adapter"
"""The format of a model that is a LoRA adapter as GGUF, for the GGUF in `refs["base"]`."""
FORMATS = ("gguf", ADAPTER)
_WARN, _ERROR, _CONTINUED = 3, 4, 5  # enum ggml_log_level
_complaints: deque[str] = deque(maxlen=10_000)  # llama.cpp's warnings since `listening` began


class Library:
    """The loaded library: `c` holds its functions, `ffi` makes C values."""

    def __init__(self) -> None:
        try:
            bindings: Any = import_module("llama_cpp_py_sync._cffi_bindings")
            self.ffi: Any = bindings.get_ffi()
            self.c: Any = bindings.get_lib()
        except (ImportError, RuntimeError) as error:
            raise StepError(
                f"llama.cpp can't be loaded: {error}", fix="pip install 'finery[gguf]'"
            ) from error
        self._keep = self.ffi.callback("void(enum ggml_log_level, const char *, void *)", self._log)
        self.c.llama_log_set(self._keep, self.ffi.NULL)
        self.c.llama_backend_init()
        self._level = 0

    def gpus(self) -> list[str]:
        """The names of the GPUs that this build can use; empty for a build without them."""
        if not self.c.llama_supports_gpu_offload():
            return []
        devices = [self.c.ggml_backend_dev_get(i) for i in range(self.c.ggml_backend_dev_count())]
        kinds = (self.c.GGML_BACKEND_DEVICE_TYPE_GPU, self.c.GGML_BACKEND_DEVICE_TYPE_IGPU)
        return [
            self.ffi.string(self.c.ggml_backend_dev_description(device)).decode("utf-8", "replace")
            for device in devices
            if self.c.ggml_backend_dev_type(device) in kinds
        ]

    def _log(self, level: int, text: Any, _: Any) -> None:
        self._level = self._level if level == _CONTINUED else level
        if self._level in (_WARN, _ERROR):
            _complaints.append(self.ffi.string(text).decode("utf-8", "replace").strip())


@cache
def library() -> Library:
    """llama.cpp, loaded and silent. `StepError` if it isn't installed."""
    return Library()


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collect llama.cpp's warnings inside the `with`. The list is filled at its end."""
    heard: list[str] = []
    _complaints.clear()
    try:
        yield heard
    finally:
        heard.extend(line for line in _complaints if line)


class _Owners:
    """Who reads a model of llama.cpp, which is freed after the last of them.

    A model and its contexts may be garbage of one cycle, whose parts Python frees in any order.
    """

    def __init__(self, model: Any) -> None:
        self._library = library()
        self._model = model
        self._count = 0

    def add(self, pointer: Any, free: Callable[[Any], None] | None = None) -> Any:
        """A pointer to be freed with its owner, by itself or, without `free`, with the model."""
        self._count += 1
        return self._library.ffi.gc(pointer, lambda freed: self._remove(freed, free))

    def _remove(self, pointer: Any, free: Callable[[Any], None] | None) -> None:
        if free is not None:
            free(pointer)
        self._count -= 1
        if not self._count:
            self._library.c.llama_model_free(self._model)  # its adapters, too


class Gguf:
    """An open GGUF: its metadata and tokenizer and, unless `vocab_only`, its weights."""

    SPECIAL: ClassVar[tuple[str, ...]] = ("bos", "eos", "unknown", "seperator", "padding", "mask")
    """Special tokens as GGUF's metadata spells them: `tokenizer.ggml.<name>_token_id`."""

    def __init__(
        self,
        path: Path,
        *,
        vocab_only: bool = False,
        on_gpu: bool = False,
        adapter: Path | None = None,
    ) -> None:
        """on_gpu: hold all layers on the GPU, if llama.cpp was built for it and finds one.

        adapter: a LoRA adapter to apply, also as GGUF. `StepError` if it doesn't fit.
        """
        self.path = path
        self.adapter = adapter
        self._library = library()
        ffi, c = self._library.ffi, self._library.c
        if not path.is_file():
            raise StepError("the GGUF file was not found", where=str(path))
        options = c.llama_model_default_params()
        options.vocab_only = vocab_only
        options.n_gpu_layers = ALL_LAYERS if on_gpu else 0
        with listening() as heard:
            model = c.llama_model_load_from_file(os.fsencode(path), options)
        if model == ffi.NULL:
            raise _not_loaded(path, heard)
        self.owners = _Owners(model)
        self.pointer: Any = self.owners.add(model)
        self._lora: Any = None
        if adapter is not None and not vocab_only:
            with listening() as heard:
                self._lora = c.llama_adapter_lora_init(self.pointer, os.fsencode(adapter))
            if self._lora == ffi.NULL:
                raise StepError(
                    "llama.cpp can't apply this adapter to its base", where=str(adapter),
                    details=heard[-5:],
                    fix="export it without `adapter: true`, merged into a complete GGUF",
                )  # fmt: skip
        self._vocab = c.llama_model_get_vocab(model)
        self.n_vocab = int(c.llama_vocab_n_tokens(self._vocab))
        self.adds_bos = bool(c.llama_vocab_get_add_bos(self._vocab))
        self.adds_eos = bool(c.llama_vocab_get_add_eos(self._vocab))
        self.bos = int(c.llama_vocab_bos(self._vocab))

    @classmethod
    def of(cls, model: Model, *, vocab_only: bool = False, on_gpu: bool = False) -> Self:
        """Open the GGUF of a model, with its adapter if the model is one."""
        path, adapter = files_of(model)
        return cls(path, vocab_only=vocab_only, on_gpu=on_gpu, adapter=adapter)

    def adapt(self, context: Any) -> None:
        """Apply the adapter, if there is one, in a context of llama.cpp."""
        ffi, c = self._library.ffi, self._library.c
        if self._lora is not None:
            adapters = ffi.new("struct llama_adapter_lora *[]", [self._lora])
            c.llama_set_adapters_lora(context, adapters, 1, ffi.new("float[]", [1.0]))

    def metadata(self, key: str) -> str | None:
        """A value of the file's metadata as text; None if it is missing."""
        ffi, c = self._library.ffi, self._library.c
        size = c.llama_model_meta_val_str(self.pointer, key.encode(), ffi.NULL, 0)
        if size < 0:
            return None
        buffer = ffi.new("char[]", size + 1)
        c.llama_model_meta_val_str(self.pointer, key.encode(), buffer, size + 1)
        return bytes(ffi.buffer(buffer, size)).decode("utf-8", "replace")

    @property
    def n_context(self) -> int:
        """The context that it was trained with, in tokens."""
        architecture = self.metadata("general.architecture")
        return self._whole_number(f"{architecture}.context_length") or 0

    @property
    def cache_bytes(self) -> int:
        """The memory of one token of a row, in bytes: its keys and values in 16 bits.

        More than it takes where layers share them or have none.
        """
        c = self._library.c
        heads = c.llama_model_n_head_kv(self.pointer)
        width = c.llama_model_n_embd(self.pointer) // max(c.llama_model_n_head(self.pointer), 1)
        architecture = self.metadata("general.architecture")
        widths = [
            self._whole_number(f"{architecture}.attention.{part_name}_length") or width
            for part_name in ("key", "value")
        ]
        return int(c.llama_model_n_layer(self.pointer) * heads * sum(widths) * 2)

    @property
    def parameters(self) -> int:
        """The number of its weights."""
        return int(self._library.c.llama_model_n_params(self.pointer))

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template in the metadata; None if it is missing."""
        return self.metadata("tokenizer.chat_template")

    def special_tokens(self) -> dict[str, str]:
        """Special tokens that a chat template may use: `bos_token`, `eos_token`, … → text."""
        names = {"unknown": "unk", "seperator": "sep", "padding": "pad"}
        texts = {}
        for kind in self.SPECIAL:
            token = self._whole_number(f"tokenizer.ggml.{kind}_token_id")
            if token is not None:
                texts[f"{names.get(kind, kind)}_token"] = self.token_text(token)
        return texts

    def _whole_number(self, key: str) -> int | None:
        """A whole number of the file's metadata; None if it is missing."""
        text = self.metadata(key)
        if text is None or re.fullmatch(r"-?\d{1,19}", text):
            return None if text is None else int(text)
        raise StepError(
            f"{key} must be a whole number, but is {text[:40]!r}",
            where=str(self.path),
            fix="copy or download the GGUF again",
        )

    def token_text(self, token: int) -> str:
        """A token's text in the vocabulary; for a special token, its text in a prompt.

        `StepError` for a token that isn't in the vocabulary, where llama.cpp would end the process.
        """
        if not 0 <= token < self.n_vocab:
            raise StepError(
                f"the GGUF's metadata names the token {token}, but its vocabulary has only "
                f"{self.n_vocab:,} tokens",
                where=str(self.path),
                fix="copy or download the GGUF again",
            )
        text = self._library.c.llama_vocab_get_text(self._vocab, token)
        return bytes(self._library.ffi.string(text)).decode("utf-8", "replace")

    def ends_generation(self, token: int) -> bool:
        """Whether an answer ends at this token (end of sequence, of turn, of message)."""
        return bool(self._library.c.llama_vocab_is_eog(self._vocab, token))

    def is_control(self, token: int) -> bool:
        """Whether the token is a control token, which plain text never produces."""
        return bool(self._library.c.llama_vocab_is_control(self._vocab, token))

    def piece(self, token: int) -> bytes:
        """What a token adds to an answer's text; nothing if it is a control token."""
        write = self._library.c.llama_token_to_piece
        return self._bytes(256, lambda to, room: write(self._vocab, token, to, room, 0, False))

    def encode(self, text: str) -> list[int]:
        """Token ids of a rendered prompt. Special tokens are recognised, but none is added."""
        ffi, c = self._library.ffi, self._library.c
        data = text.encode("utf-8", "replace")
        room = len(data) + 16
        buffer = ffi.new("llama_token[]", room)
        count = c.llama_tokenize(self._vocab, data, len(data), buffer, room, False, True)
        if count < 0:
            raise StepError("llama.cpp can't tokenise the prompt", where=str(self.path))
        return list(buffer[0:count])

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids that llama.cpp's server makes from a prompt.

        A model that asks for a BOS gets exactly one, whether or not the chat template writes it.
        """
        tokens = self.encode(text)
        if self.adds_bos and tokens[:1] != [self.bos]:
            return [self.bos, *tokens]
        return tokens

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The text of an answer. special: with the text of control tokens."""
        ids = self._library.ffi.new("llama_token[]", list(tokens))
        arguments, write = (self._vocab, ids, len(tokens)), self._library.c.llama_detokenize
        text = self._bytes(
            64 + 16 * len(tokens), lambda to, room: write(*arguments, to, room, True, special)
        )
        return text.decode("utf-8", "replace")

    def _bytes(self, room: int, write: Callable[[Any, int], int]) -> bytes:
        """What a function of llama.cpp writes into a buffer. It says how large that must be."""
        while True:
            buffer = self._library.ffi.new("char[]", room)
            size = write(buffer, room)
            if size >= 0:
                return bytes(self._library.ffi.buffer(buffer, size))
            room = -size


def _not_loaded(path: Path, heard: Sequence[str]) -> StepError:
    """The error for a GGUF that can't be loaded. heard: the warnings of llama.cpp."""
    if any("out of memory" in line or "failed to allocate" in line for line in heard):
        return StepError(
            "not enough memory to load this GGUF", where=str(path), details=heard[-5:],
            fix="use a smaller quantization, or end other programs that use the GPU",
        )  # fmt: skip
    return StepError(
        "llama.cpp can't load this GGUF", where=str(path), details=heard[-5:],
        fix=f"a newer version of {PACKAGE} may support it: pip install -U {PACKAGE}",
    )  # fmt: skip


def files_of(model: Model) -> tuple[Path, Path | None]:
    """(file, adapter) of a model that is a GGUF, or an adapter of one."""
    file = model.file(str(model.meta["file"]))
    if model.format != ADAPTER:
        return file, None
    base = model.refs["base"]
    return base.file(str(base.meta["file"])), file


class Context:
    """A model's memory for several rows at once, of at most `size` tokens each.

    Each row has a separate cache, so the result for a row doesn't depend on other rows.
    """

    def __init__(
        self, model: Gguf, size: int, rows: int, pace: "Pace", multiple: int = 1,
        watcher: Any = None,
    ) -> None:  # fmt: skip
        """multiple: rows are evaluated in multiples of it, see `slots.multiple_of`.

        watcher: a callback that sees the activations, see `activations`.
        """
        self.rows = rows
        self._size = size
        self._multiple = multiple
        self._model = model
        self._pace = pace
        self._library = library()
        ffi, c = self._library.ffi, self._library.c
        options = c.llama_context_default_params()
        options.n_ctx = size * rows
        options.n_seq_max = rows
        options.kv_unified = False
        options.n_batch = options.n_ubatch = CHUNK
        # Flash attention splits a row's keys by threads: logits would depend on the core count.
        options.flash_attn_type = 0
        fix = "lower max_tokens or shorten the longest rows, or set FINERY_GGUF_SLOTS=1"
        if watcher is not None:
            options.op_offload = False  # activations on a GPU couldn't be read
            options.cb_eval = watcher
            fix = "give `imatrix` shorter rows"
        pointer = c.llama_init_from_model(model.pointer, options)
        if pointer == ffi.NULL:
            raise StepError(
                f"not enough memory for {rows} contexts of {size} tokens", where=str(model.path),
                fix=fix,
            )  # fmt: skip
        self._pointer: Any = model.owners.add(pointer, c.llama_free)
        model.adapt(self._pointer)
        self._memory = c.llama_get_memory(self._pointer)
        self._batch: Any = ffi.gc(c.llama_batch_init(CHUNK, 0, 1), c.llama_batch_free)
        self._lengths = [0] * rows
        self._prefixes: list[list[int] | None] = [None] * rows

    def read(self, row: int, tokens: Sequence[int], prefix: int) -> None:
        """Evaluate a prompt, whose last token can then be sampled at place -1.

        Its first `prefix` tokens are always evaluated separately, so that earlier prompts can't
        change the result, and are taken from this or another row that begins with them.
        """
        head = list(tokens[:prefix])
        if not (head and self._take(row, head)):
            self.clear(row)
            self._evaluate(row, head)
            self._prefixes[row] = head
        self._evaluate(row, tokens[prefix:])

    def advance(self, tokens: Sequence[int]) -> None:
        """Evaluate one more token for the first rows; their order is that of the places to sample.

        Rows after them are evaluated too, up to a multiple, and forget it.
        """
        count = len(tokens)
        idle = range(count, -(-count // self._multiple) * self._multiple)
        for row in idle:
            if self._lengths[row] >= self._size:
                self.clear(row)
        threads = self._pace.for_token()
        began = time.perf_counter()
        items = [(row, token, True) for row, token in enumerate(tokens)]
        self._decode(items + [(row, tokens[0], True) for row in idle], threads)
        self._pace.took(threads, time.perf_counter() - began)
        for row in idle:
            self._trim(row, self._lengths[row] - 1)

    def move(self, source: int, target: int) -> None:
        """Continue a row in the place of another."""
        self._copy(source, target)
        self._lengths[target], self._prefixes[target] = (
            self._lengths[source], self._prefixes[source],
        )  # fmt: skip

    def logits(self, place: int) -> "numpy.ndarray[Any, Any]":
        """The logits at a place, valid until the next evaluation."""
        import numpy as np

        logits = self._library.c.llama_get_logits_ith(self._pointer, place)
        view = self._library.ffi.buffer(logits, self._model.n_vocab * 4)
        return np.frombuffer(view, dtype=np.float32)

    def sample(
        self,
        place: int,
        sampler: "Sampler | None",
        allowed: "numpy.ndarray[Any, Any] | None" = None,
    ) -> int:
        """The next token of those allowed: the most likely one, or what the sampler draws."""
        if allowed is not None:
            self.logits(place)[~allowed] = float("-inf")
        if sampler is not None:
            c = self._library.c
            return int(c.llama_sampler_sample(sampler.pointer, self._pointer, place))
        return int(self.logits(place).argmax())

    def _take(self, row: int, head: list[int]) -> bool:
        """Begin a row with a prefix that it or another row has in memory; False if none has it.

        Also False for models that can't drop the tokens after a prefix (recurrent ones).
        """
        holders = [r for r in (row, *range(self.rows)) if self._prefixes[r] == head]
        if not holders:
            return False
        if holders[0] != row:
            self._copy(holders[0], row)
        self._prefixes[row] = head
        return self._trim(row, len(head))

    def _copy(self, source: int, target: int) -> None:
        self.clear(target)
        self._library.c.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def _trim(self, row: int, length: int) -> bool:
        """Forget what comes after `length` tokens; a row that can't forgets all: False."""
        if not self._library.c.llama_memory_seq_rm(self._memory, row, length, -1):
            self.clear(row)
            return False
        self._lengths[row] = length
        return True

    def clear(self, row: int) -> None:
        """Forget a row."""
        self._library.c.llama_memory_seq_rm(self._memory, row, -1, -1)
        self._lengths[row], self._prefixes[row] = 0, None

    def _evaluate(self, row: int, tokens: Sequence[int]) -> None:
        """Evaluate tokens after those of a row."""
        last_index = len(tokens) - 1
        for start in range(0, len(tokens), CHUNK):
            batch_tokens = [
                (row, token, start + i == last_index)
                for i, token in enumerate(tokens[start : start + CHUNK])
            ]
            self._decode(batch_tokens, self._pace.for_prompt())

    def _decode(self, items: Sequence[tuple[int, int, bool]], threads: int) -> None:
        """Evaluate (row, token, whether to sample after it) in one call."""
        c, batch = self._library.c, self._batch
        for i, (row, token, sampled) in enumerate(items):
            batch.token[i], batch.pos[i] = token, self._lengths[row]
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
            batch.logits[i] = sampled
            self._lengths[row] += 1
        batch.n_tokens = len(items)
        c.llama_set_n_threads(self._pointer, threads, threads)
        status = c.llama_decode(self._pointer, batch)
        if status != 0:
            raise StepError(f"llama.cpp failed to evaluate a prompt (status {status})")


class Sampler:
    """Draws tokens: temperature, then top-p, then a seeded draw (the order of transformers)."""

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self._library = library()
        c = self._library.c
        chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        self.pointer: Any = self._library.ffi.gc(chain, c.llama_sampler_free)
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_temp(temperature))
        if top_p < 1.0:
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_top_p(top_p, 1))
        c.llama_sampler_chain_add(chain, c.llama_sampler_init_dist(seed % 2**32))
