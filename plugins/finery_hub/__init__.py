"""Models from the Hugging Face hub."""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step type `hub.model`."""
    return {"hub.model": "finery_hub.model:HubModel"}
