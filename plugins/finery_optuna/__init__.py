"""Samplers of `matrix: {sample: …}` by Optuna: which variants of a recipe to build.

Input: the axes of a matrix, with ranges or lists of values, and a seed. Output: the points to
build. They are drawn before anything is built: no result has a part in them.
"""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_samplers() -> Mapping[str, str]:
    """The samplers of this plugin."""
    return {
        "optuna.qmc": "finery_optuna.samplers:quasi_random",
        "optuna.random": "finery_optuna.samplers:random",
    }
