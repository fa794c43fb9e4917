"""Cascades: a small model answers if it is sure enough, else the next one, with a bounded error.

Input: models from the cheapest to the dearest, and calibration rows that none of them has seen.
Output: a model of the format `cascade`, which has the thresholds, and the engine that asks one
model after the other. `serve.bundle` ships it.
"""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step type `cascade.model`."""
    return {"cascade.model": "finery_cascade.model:CascadeModel"}


@hookimpl
def finery_engines() -> Mapping[str, str]:
    """The engine for models of the format `cascade`."""
    return {"cascade": "finery_cascade.engine:CascadeEngine"}


@hookimpl
def finery_views() -> dict[str, str]:
    """The view of cascades."""
    return {"Model/cascade": "finery_cascade.view:CascadeView"}
