"""Finds out what loading a module imports, in a fresh interpreter."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator

HEAVY = frozenset({
    "accelerate", "bitsandbytes", "datasets", "gguf", "httpx", "huggingface_hub", "jax",
    "llama_cpp", "llguidance", "llmcompressor", "mlx", "numpy", "onnxruntime", "openai", "pandas",
    "peft", "plotly", "polars", "pyarrow", "ray", "reasoning_gym", "requests", "safetensors",
    "scipy", "sentence_transformers", "sklearn", "spacy", "sqlalchemy", "tensorflow", "tokenizers",
    "torch", "transformers", "trl", "unsloth", "vllm",
})  # fmt: skip
"""Packages that take long to import. A step type is loaded by every command that sees a recipe
with it, so its module imports them only inside the functions that use them."""
HEAVY_FIX = "import it inside the function that uses it"

_LOAD = """
import importlib, json, runpy, sys
modules, heavy = json.load(sys.stdin)
for index, module in enumerate(modules):
    try:
        if module.endswith(".py"):
            runpy.run_path(module)
        else:
            importlib.import_module(module)
    except BaseException as error:
        print(json.dumps([index, [], f"{type(error).__name__}: {error}"]))
        sys.exit()
    loaded = sorted({name.partition(".")[0] for name in sys.modules} & set(heavy))
    if loaded:
        print(json.dumps([index, loaded, ""]))
        sys.exit()
"""


def problems_of_loading(modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(module, what is wrong) of those that import something heavy, or can't be imported.

    modules: their names, or paths of files. They are loaded in one fresh interpreter, and in a
    further one after each problem.
    """
    rest = list(modules)
    while rest:
        loading = subprocess.run(
            [sys.executable, "-c", _LOAD],
            input=json.dumps([rest, sorted(HEAVY)]),
            capture_output=True,
            text=True,
        )
        report = loading.stdout.strip().rpartition("\n")[2]
        if loading.returncode or not report:
            if loading.returncode:
                yield rest[0], f"loading it ends Python with exit code {loading.returncode}"
            return
        index, heavy, error = json.loads(report)
        what = f"can't be imported: {error}" if error else f"imports {', '.join(heavy)} when loaded"
        yield rest[index], what
        rest = rest[index + 1 :]
