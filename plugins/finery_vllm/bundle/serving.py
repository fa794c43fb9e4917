"""Serves a folder of `vllm.bundle` for `finery serve`."""

from collections.abc import Iterator
from contextlib import contextmanager

from finery import Artifact, UsageError
from finery_serve.servers import Running, Serving
from finery_vllm.server.start import start


@contextmanager
def serve_bundle(bundle: Artifact, serving: Serving) -> Iterator[Running]:
    """Serve a bundle: its base and adapters under the names that its `run.sh` gives them.

    Raises `StepError` if there is no vLLM or it can't start, and `UsageError` for a `vllm.model`.
    """
    if bundle.kind != "Bundle":
        raise UsageError(
            "a model that vLLM answers for in a build isn't a folder to serve",
            fix="export it with vllm.bundle, and serve the bundle",
        )
    with start(
        bundle.path,
        host=serving.host,
        port=serving.port,
        slots=serving.slots,
        context=serving.context,
        api_key=serving.key,
        log=serving.log,
    ) as server:
        yield server
