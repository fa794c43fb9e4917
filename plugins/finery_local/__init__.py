"""Models that lie on this machine, or in a wheel on a package index."""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types `local.model` and `local.wheel`."""
    return {
        "local.model": "finery_local.model:LocalModel",
        "local.wheel": "finery_local.wheel:LocalWheel",
    }
