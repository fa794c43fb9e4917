"""What few plugins need: graphs and results, executors, proofs, budgets, GPUs, texts for people.

These names may change between minor versions; the changelog says so.
"""

from finery.util.references import exports

__all__, __getattr__ = exports(__file__, globals())


def __dir__() -> list[str]:
    return __all__
