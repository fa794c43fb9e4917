"""Models and data sets from the Hugging Face hub."""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types `hub.dataset` and `hub.model`."""
    return {
        "hub.dataset": "finery_hub.dataset:HubDataset",
        "hub.model": "finery_hub.model:HubModel",
    }
