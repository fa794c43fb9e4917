"""Serve a GGUF, or a bundle of `llama.bundle`, with llama.cpp's server."""

from collections.abc import Iterator
from contextlib import contextmanager

from finery import Artifact, Model, cpu_count
from finery_gguf.llama import Gguf
from finery_gguf.server import start
from finery_serve.options import CONTEXT, RUN, SLOTS, Options, read_run
from finery_serve.servers import Running, Serving
from finery_serve.templates import served_template


@contextmanager
def serve_gguf(model: Artifact, serving: Serving) -> Iterator[Running]:
    """Serve a GGUF with the prompts of its training, and greedily unless a request says otherwise.

    Raises `StepError` if the server can't start, and `UsageError` for a port that is in use.
    """
    assert isinstance(model, Model)
    file = model.file(str(model.meta["file"]))
    gguf = Gguf(file, vocab_only=True)
    options = Options(
        context=min(CONTEXT, gguf.n_context or CONTEXT),
        slots=SLOTS,
        template=served_template(gguf, model),
    )
    with _served(file.name, model, options, serving) as running:
        yield running


@contextmanager
def serve_bundle(bundle: Artifact, serving: Serving) -> Iterator[Running]:
    """Serve a bundle as its `run.sh` does. Raises as `serve_gguf`, and `DataError` for its text."""
    options = read_run(bundle.file(RUN))
    with _served(options.model, bundle, options, serving) as running:
        yield running


@contextmanager
def _served(file: str, artifact: Artifact, options: Options, serving: Serving) -> Iterator[Running]:
    sampling = {"temperature": options.temperature, "repeat_penalty": options.repeat_penalty}
    with start(
        artifact.file(file),
        port=serving.port,
        host=serving.host,
        slots=serving.slots or options.slots,
        context=serving.context or options.context,
        api_key=serving.key,
        log=serving.log,
        alias=serving.name,
        threads=cpu_count(),
        template=options.template,
        sampling={name: value for name, value in sampling.items() if value is not None},
    ) as running:
        yield running
