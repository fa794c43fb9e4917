"""Slurm: steps as jobs of a cluster, submitted with submitit.

In go tasks, out come the events of their jobs, through folders in the store, which the nodes share
with the machine of the build.
"""

from finery import hookimpl


@hookimpl
def finery_executors() -> dict[str, str]:
    """The executor of this plugin."""
    return {"slurm": "finery_slurm.executor:SlurmExecutor"}
