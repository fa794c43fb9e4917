"""Reads the activations that weights are multiplied by, while llama.cpp evaluates a batch.

llama.cpp offers every node of its graph to a callback. The C API has no function for the inputs of
a node, so this reads ggml's own struct, once a check has shown that this build lays it out in the
same way.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import StepError
from finery_gguf.llama import PACKAGE, Library, library

if TYPE_CHECKING:
    import numpy


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
