"""finery: a declarative, plugin-based build system for small fine-tuned language models.

This is what plugins may import, beside the row logic in `finery.rows`, `finery.views` for what
artifacts look like, and the test kit in `finery.testing`. What few plugins need is in
`finery.advanced`, and may change between minor versions. Everything else under `finery` may move
from one version to the next.

The stub `__init__.pyi` lists the names, each on a line with the module that defines it.
"""

from finery.util.references import exports

__version__ = "0.1.0"
__all__, __getattr__ = exports(__file__, globals())


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
