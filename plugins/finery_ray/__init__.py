"""Ray: steps as jobs of a cluster, submitted with Ray's Jobs API.

In go tasks, out come the events of their jobs. Files travel through the shared store, so the nodes
share no folder with the machine of the build.
"""

from finery import hookimpl


@hookimpl
def finery_executors() -> dict[str, str]:
    """The executor of this plugin."""
    return {"ray": "finery_ray.executor:RayExecutor"}
