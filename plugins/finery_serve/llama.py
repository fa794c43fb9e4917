"""Serve a GGUF, or a bundle of `llama.bundle`, with llama.cpp's server."""

from collections.abc import Iterator
from contextlib import contextmanager

from finery import Artifact, Model, cpu_count
from finery_gguf.llama import Gguf
from finery_gguf.prompts import model_template
from finery_gguf.server import start
from finery_serve.options import Options, read_run
from finery_serve.servers import Running, Serving
from finery_transformers.loading import template_arguments
from finery_transformers.wrapping import with_fixed_arguments

SLOTS = 4
CONTEXT = 8192
"""Tokens of a slot, unless the model has fewer."""
RUN = "run.sh"


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


def served_template(gguf: Gguf, model: Model) -> str | None:
    """The chat template that a server needs, if the file's own gives other prompts.

    An export has all of it in the file. For any other GGUF, the step's `chat_template`,
    `chat_template_kwargs` and `tools_as` are written into a copy.
    """
    if "chat_template_digest" in model.meta:
        return None
    source = model_template(gguf, model).source
    fixed = with_fixed_arguments(source, template_arguments(model))
    return None if fixed == gguf.chat_template else fixed
