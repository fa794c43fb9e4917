"""The importance matrix: how much each column of a weight counts on given texts.

It is the mean square of what the column is multiplied by. Quantisation then rounds with the least
error in the columns that count most, as introduced in llama.cpp (`llama-imatrix`, I. Kawrakow,
https://github.com/ggml-org/llama.cpp/pull/4861).

llama.cpp offers every node of its graph to a callback. The C API has no function for the inputs of
a node, so `Watcher` reads ggml's own struct, once a check has shown that this build lays it out in
the same way.
"""

import heapq
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blake3 import blake3

from finery import DataError, StepError
from finery.rows import Row, split_turns
from finery_gguf.llama import CHUNK, PACKAGE, Context, Gguf, Library, library
from finery_transformers.chat import PromptDiffers

if TYPE_CHECKING:
    import numpy

    from finery_gguf.pace import Pace
    from finery_transformers.frozen.template import FrozenTemplate


_LAYOUT = """
struct ggml_tensor {
    int type;
    void * buffer;
    int64_t ne[4];
    size_t nb[4];
    int op;
    int32_t op_params[16];
    int32_t flags;
    struct ggml_tensor * src[10];
    struct ggml_tensor * view_src;
    size_t view_offs;
    void * data;
    char name[64];
};
const char * ggml_get_name(const struct ggml_tensor *);
void * ggml_get_data(const struct ggml_tensor *);
const char * ggml_op_desc(const struct ggml_tensor *);
size_t ggml_nbytes(const struct ggml_tensor *);
"""
_BY_EXPERT = "MUL_MAT_ID"
_PRODUCTS = ("MUL_MAT", _BY_EXPERT)
_FLOAT = 0  # GGML_TYPE_F32
_LAYERS = "blk."
"""Prefixes of the weights of layers. Embeddings and the output layer are quantised without a
matrix, as by llama.cpp's llama-imatrix."""

Receive = Callable[[str, int, "numpy.ndarray[Any, Any]", "numpy.ndarray[Any, Any] | None"], None]
"""Takes a weight's name, its number of matrices, the activations as (sequences, matrices, tokens,
columns). Of experts, the activations are (1, tokens, experts used or 1, columns), and the last
argument says which of them each token goes to, as (tokens, experts used)."""


class Watcher:
    """The callback that llama.cpp calls for each node of its graph.

    callback: for `cb_eval` of a context. failure: an error in it, which ends the evaluation.
    """

    def __init__(self, receive: Receive) -> None:
        self.failure: BaseException | None = None
        self._receive = receive
        self._ours: Library = library()
        self._ffi, self._ggml = _ggml()
        self._checked = False
        self.callback = self._ours.ffi.callback(
            "bool(struct ggml_tensor *, bool, void *)", self._node
        )

    def _node(self, pointer: Any, is_query: bool, _: Any) -> bool:
        """First call: whether a node's inputs are wanted. Second call: whether to continue."""
        try:
            node = self._ffi.cast(
                "struct ggml_tensor *", int(self._ours.ffi.cast("size_t", pointer))
            )
            if not self._checked:
                self._check(node)
            if is_query:
                return self._is_wanted(node)
            self._read(node)
        except BaseException as error:  # it can't leave C
            self.failure = error
            return False
        return True

    def _check(self, node: Any) -> None:
        """Raise `StepError` if ggml's struct has another layout than the one read here."""
        ffi, ggml = self._ffi, self._ggml
        name = ffi.cast("size_t", ggml.ggml_get_name(node)) == ffi.cast("size_t", node.name)
        if not name or ggml.ggml_get_data(node) != node.data:
            raise StepError(
                f"the activations of this {PACKAGE} can't be read: its tensors have another layout",
                fix="remove `imatrix`, or install the version that finery is tested with: "
                f"pip install '{PACKAGE}==0.11739'",
            )
        self._checked = True

    def _is_wanted(self, node: Any) -> bool:
        """Whether it multiplies a layer's weights by activations."""
        if self._text(self._ggml.ggml_op_desc(node)) not in _PRODUCTS:
            return False
        weight, activations = node.src[0], node.src[1]
        return self._text(weight.name).startswith(_LAYERS) and activations.type == _FLOAT

    def _read(self, node: Any) -> None:
        weight, activations = node.src[0], node.src[1]
        experts = None
        values = self._array(activations, "float32")
        if self._text(self._ggml.ggml_op_desc(node)) == _BY_EXPERT:
            experts = self._array(node.src[2], "int32")[0, 0]
        self._receive(self._text(weight.name), int(weight.ne[2]), values, experts)

    def _array(self, tensor: Any, dtype: str) -> "numpy.ndarray[Any, Any]":
        """A tensor as it is in memory, its dimensions in numpy's order; valid in this call."""
        import numpy as np

        data = self._ffi.buffer(tensor.data, int(self._ggml.ggml_nbytes(tensor)))
        shape, steps = list(tensor.ne)[::-1], list(tensor.nb)[::-1]
        return np.ndarray(shape, dtype, data, strides=steps)

    def _text(self, characters: Any) -> str:
        return bytes(self._ffi.string(characters)).decode("utf-8", "replace")


def _ggml() -> tuple[Any, Any]:
    """cffi with ggml's struct, and the functions of the loaded library."""
    import llama_cpp_py_sync

    cffi: Any = import_module("cffi")  # untyped
    ffi = cffi.FFI()
    ffi.cdef(_LAYOUT)
    folder = Path(llama_cpp_py_sync.__file__).parent
    try:
        # The symbols of ggml are found through the library that depends on it.
        ggml: Any = ffi.dlopen(str(folder / "libllama.so"))
        ggml.ggml_get_name  # noqa: B018  (an attribute that is missing raises an error)
    except (OSError, AttributeError) as error:
        raise StepError(
            f"the functions of ggml weren't found in {PACKAGE}: {error}", fix="remove `imatrix`"
        ) from error
    return ffi, ggml


# -- the matrix ------------------------------------------------------------------------------------


_PROGRAM = "finery"
"""The name of the data set in the file."""


class Importance(NamedTuple):
    """columns: name of a weight → the mean square of the activations of each column, in float32;
    one expert after another. rows, tokens: what was evaluated.
    """

    columns: "dict[str, numpy.ndarray[Any, Any]]"
    rows: int
    tokens: int

    def facts(self) -> dict[str, Any]:
        """The entry of `meta`."""
        digest = blake3()
        for name, values in sorted(self.columns.items()):
            digest.update(name.encode())
            digest.update(values.tobytes())
        return {"rows": self.rows, "tokens": self.tokens, "digest": digest.hexdigest()[:16]}

    def write(self, file: Path) -> None:
        """Write it as `imatrix.dat`, the form that llama-quantize of every version reads."""
        chunks = [struct.pack("<i", len(self.columns))]
        for name, values in sorted(self.columns.items()):
            text = name.encode()
            chunks += [struct.pack("<i", len(text)), text, struct.pack("<ii", 1, len(values))]
            chunks.append(values.astype("<f4").tobytes())
        source = _PROGRAM.encode()
        chunks.append(struct.pack("<ii", self.rows, len(source)) + source)
        file.write_bytes(b"".join(chunks))


def importance_of(
    path: Path,
    texts: Sequence[Sequence[int]],
    *,
    pace: "Pace",
    progress: Callable[[int, int], None],
) -> Importance:
    """Evaluate texts one by one with a GGUF of 8 or more bits on the CPU.

    The first token of a text isn't counted. Models use it as a place to attend to when nothing else
    fits, with activations up to thousands of times as large as others (Sun et al. 2024,
    https://arxiv.org/abs/2402.17762). In a row of 27 tokens, it made a mean square of SmolLM2-135M
    4,000 times as large, and so outweighed all other tokens.

    texts: token ids, none empty, none longer than the context. pace: chooses the number of threads,
    which changes nothing else. progress: called with (done, total).
    """
    sums = _Sums()
    watcher = Watcher(sums.add)
    longest = max(map(len, texts))
    context = _Context(Gguf(path), longest, watcher, pace)
    for done, tokens in enumerate(texts):
        progress(done, len(texts))
        context.evaluate(tokens, sums)
    if not sums.squares:
        raise StepError(
            "llama.cpp evaluated the rows without multiplying by any weight of a layer",
            fix="remove `imatrix`, and report this as a bug in finery",
        )
    return Importance(sums.means(), len(texts), sum(map(len, texts)))


class _Sums:
    """Sums of squares by weight and matrix (an expert, or the only one), and the tokens in them."""

    def __init__(self) -> None:
        self.squares: dict[str, numpy.ndarray[Any, Any]] = {}
        self.counts: dict[str, numpy.ndarray[Any, Any]] = {}
        self.skipped = 0
        """Tokens at the beginning of a batch that aren't counted."""

    def add(
        self,
        name: str,
        matrices: int,
        values: "numpy.ndarray[Any, Any]",
        experts: "numpy.ndarray[Any, Any] | None",
    ) -> None:
        """Add the activations of one product, see `activations.Receive`."""
        import numpy as np

        width = values.shape[-1]
        total = self.squares.setdefault(name, np.zeros((matrices, width)))
        count = self.counts.setdefault(name, np.zeros(matrices, np.int64))
        if experts is not None:
            squares = np.square(values[0, self.skipped :], dtype=np.float64)
            experts = experts[self.skipped :]
            tokens, used = experts.shape
            each = np.broadcast_to(squares, (tokens, used, width))
            np.add.at(total, experts.ravel(), each.reshape(-1, width))
            count += np.bincount(experts.ravel(), minlength=matrices)
        else:
            squares = np.square(values[..., self.skipped :, :], dtype=np.float64)
            grouped = squares.reshape(values.shape[0], matrices, -1, width)
            total += grouped.sum(axis=(0, 2))
            count += grouped.shape[0] * grouped.shape[2]

    def means(self) -> "dict[str, numpy.ndarray[Any, Any]]":
        """The mean squares. Experts that no token went to have 1, which weighs no column more."""
        import numpy as np

        means = {}
        for name, squares in self.squares.items():
            counts = self.counts[name][:, None]
            mean = np.where(counts > 0, squares / np.maximum(counts, 1), 1.0)
            means[name] = np.ascontiguousarray(mean.ravel(), np.float32)
        return means


class _Context(Context):
    """llama.cpp's memory of one text at a time, with a watcher of its graph."""

    def __init__(self, model: Gguf, size: int, watcher: Watcher, pace: "Pace") -> None:
        super().__init__(model, -(-size // CHUNK) * CHUNK, 1, pace, watcher=watcher.callback)
        self._watcher = watcher

    def evaluate(self, tokens: Sequence[int], sums: _Sums) -> None:
        """Evaluate one text from its beginning."""
        self.clear(0)
        for start in range(0, len(tokens), CHUNK):
            sums.skipped = int(start == 0)
            # Of all, else the last layer would see no other tokens.
            chunk = [(0, token, True) for token in tokens[start : start + CHUNK]]
            threads = self._pace.for_token()
            began = time.perf_counter()
            try:
                self._decode(chunk, threads)
            finally:
                if self._watcher.failure is not None:
                    raise self._watcher.failure
            self._pace.took(threads, (time.perf_counter() - began) / len(chunk))


MAX_TOKENS = 8192
"""Tokens of a row that are evaluated at most; more would take more memory than they are worth."""


class Calibration(NamedTuple):
    """texts: token ids of rows, none empty. given: the number of rows that they were chosen from.
    cut: how many of them were cut off.
    """

    texts: list[list[int]]
    given: int
    cut: int


def calibration(
    rows: Iterable[Row], frozen: "FrozenTemplate", *, tokens: int, context: int
) -> Calibration:
    """Prompts with their answers, as the model was trained on them, up to a number of tokens.

    Rows are taken in the order of their ids. These are hashes, so the rows are a random sample,
    and the same one for rows in another order. context: of the model, in tokens; longer rows are
    cut off.
    Raises `DataError` if there are no rows, and for rows without an answer or that the chat
    template refuses.
    """
    rows_given = 0

    def counted() -> Iterable[Row]:
        nonlocal rows_given
        for rows_given, row in enumerate(rows, 1):  # noqa: B007  (it is read below)
            yield row

    # Each row has at least one token, so these are enough.
    chosen = heapq.nsmallest(tokens, counted(), key=lambda row: str(row["id"]))
    if not chosen:
        raise DataError(
            "`imatrix` has no rows", where="imatrix", fix="check the step that makes them"
        )
    ends = frozen.trained.ends_of_turn()
    longest = min(context or MAX_TOKENS, MAX_TOKENS)
    texts: list[list[int]] = []
    cut, tokens_left = 0, tokens
    for row in chosen:
        text = _text(row, frozen, ends)
        cut += len(text) > longest
        texts.append(text[:longest])
        tokens_left -= len(texts[-1])
        if tokens_left <= 0:
            break
    return Calibration(texts, rows_given, cut)


def _text(row: Row, frozen: "FrozenTemplate", ends: set[int]) -> list[int]:
    """The token ids of a row's conversation up to the end of its last turn."""
    prompt, completion = split_turns(row)
    if not completion:
        raise DataError(
            f"row {row['id']} of `imatrix` has no answer",
            where="imatrix",
            fix="name the rows that the model was trained on, e.g. imatrix: split.train",
        )
    try:
        _, text_with_answer = frozen.trained.row_tokens(prompt, completion, ends, row.get("tools"))
    except PromptDiffers as error:  # e.g. without the thinking of earlier turns
        return frozen.trained.tokens(error.whole)
    except DataError as error:
        raise DataError(
            f"row {row['id']} of `imatrix`: {error.what}",
            where="imatrix", details=error.details, fix=error.fix,
        ) from error  # fmt: skip
    return text_with_answer
