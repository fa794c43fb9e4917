"""The plugin `rerank`, see `finery_retrieve.train`."""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step type of this plugin."""
    return {"rerank.train": "finery_retrieve.train.steps:RerankTrain"}
