"""finery: a declarative, plugin-based build system for small fine-tuned language models.

This is what plugins may import, beside the row logic in `finery.rows`, `finery.views` for what
artifacts look like, and the test kit in `finery.testing`. What few plugins need is in
`finery.advanced`, and may change between minor versions. Everything else under `finery` may move
from one version to the next.

The stub `__init__.pyi` lists the names, each on a line with the module that defines it.
"""

from finery.util.references import exports

__version__ = "0.1.0"
API = "1"
"""The version of what plugins may import, apart from releases. A plugin states those that it is for
in its entry point, `shop = "finery_shop [api-1]"`, and finery loads no plugin for others. A name of
the API that moves or goes works for a year more, with a `DeprecationWarning`."""
__all__, __getattr__ = exports(
    __file__, globals(), moved_to="finery.advanced", ends_with="0.2 (December 2027)"
)


def __dir__() -> list[str]:
    return [*__all__, "API", "__version__"]
