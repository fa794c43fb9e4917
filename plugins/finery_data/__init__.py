"""Rows from files, and their split into train, validation and test."""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {
        "data.file": "finery_data.file:File",
        "data.split": "finery_data.split:Split",
    }
