"""finery: a declarative, plugin-based build system for small fine-tuned language models.

This is what plugins may import, beside the row logic in `finery.rows`, the test kit in
`finery.testing`, `finery.views` for what artifacts look like, texts for people in
`finery.util.text`, the options of commands in `finery.cli.options`, `finery.execute.gpus`, and
`finery.execute.detached` for executors of clusters.
Everything else under `finery` may move from one version to the next.

The stub `__init__.pyi` lists the names, each on a line with the module that defines it. That module
is imported when the name is first used: commands start faster.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

with open(f"{__file__}i", encoding="utf-8") as _stub:
    _HOME = {line.split()[3]: line.split()[1] for line in _stub if line.startswith("from ")}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'finery' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
