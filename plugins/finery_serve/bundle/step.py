"""`llama.bundle`: a folder that a colleague can run, and the texts of its files."""

import re
import shlex
from typing import NamedTuple

import msgspec

from finery import Bundle, File, Job, Look, Model, Step, setting, takes
from finery_gguf.llama import FORMATS, PACKAGE, Gguf
from finery_serve.guide import (
    NAME,
    fill,
    json_text,
    model_facts,
    notes_of,
    read_schema,
    request_for,
    write_bundle,
    yaml_text,
)
from finery_serve.llama import CONTEXT, RUN, SLOTS, Options, options_for, server_arguments
from finery_transformers.formats import require_format
from finery_transformers.frozen.template import ClientFacts

PORT = 8080
ADDRESS = f"http://127.0.0.1:{PORT}/v1"
IN_CONTAINER = "/bundle"
ORIGINS, LOCAL_PAGES = "LLAMA_ARG_CORS_ORIGINS", "localhost"
"""The variable by which llama.cpp knows whose web pages may read answers, and its value."""
_PLAIN = re.compile(r"[\w.,:/@%+=-]+")
"""Arguments that need no quotes."""


class Facts(NamedTuple):
    """The facts that the files of a bundle state.

    template: its name in the bundle, if that has one.
    """

    options: Options
    template: str | None
    image: str


def compose(facts: Facts) -> str:
    """`compose.yaml`: the same in a container, reached only from this machine."""
    arguments = _arguments(facts, IN_CONTAINER)
    service = {
        "image": facts.image,
        "command": [*arguments, "--host", "0.0.0.0", "--port", str(PORT)],
        "volumes": [f"./:{IN_CONTAINER}:ro"],
        "ports": [f"127.0.0.1:{PORT}:{PORT}"],
        "environment": ["LLAMA_API_KEY", f"{ORIGINS}=${{{ORIGINS}:-{LOCAL_PAGES}}}"],
        "restart": "unless-stopped",
    }
    comments = (
        "# docker compose up. With LLAMA_API_KEY set, requests must send that key.\n"
        "# The container sees only this folder. If its files are links, as in build/, copy it\n"
        "# first with `finery export` or `cp -rL`.\n"
    )
    return f"{comments}{yaml_text({'services': {'model': service}})}"


def llama_swap(facts: Facts) -> str:
    """`llama-swap.yaml`: an entry for https://github.com/mostlygeek/llama-swap."""
    arguments = _arguments(facts, "${folder}")
    command = "llama-server --host 127.0.0.1 --port ${PORT} " + " ".join(map(_word, arguments))
    config = {
        "macros": {"folder": "/path/to/this/folder"},
        "models": {facts.options.name: {"cmd": command}},
    }
    return f"# Set `folder` to the path of this bundle.\n{yaml_text(config)}"


def _arguments(facts: Facts, folder: str) -> list[str]:
    """The arguments of llama-server, with the bundle's files in a folder."""
    options = facts.options
    inside = msgspec.structs.replace(
        options,
        model=f"{folder}/{options.model}",
        adapter=options.adapter and f"{folder}/{options.adapter}",
    )
    return server_arguments(inside, f"{folder}/{facts.template}" if facts.template else None)


def _word(argument: str) -> str:
    """An argument for llama-swap, which splits the command like a shell.

    In double quotes if it has blanks or a macro, whose value may have some: llama-swap replaces
    macros first. On Windows, it doesn't read single quotes.
    """
    if _PLAIN.fullmatch(argument):
        return argument
    return '"' + re.sub(r'(["\\])', r"\\\1", argument) + '"'


IMAGE = "ghcr.io/ggml-org/llama.cpp:server-b11176"
TEMPLATE, SCHEMA = "chat_template.jinja", "schema.json"


class LlamaBundle(Step, seeded=False, sections=("export",), packages=(PACKAGE,)):
    """Write a folder that serves a GGUF with llama.cpp as it was trained and evaluated.

    It has the GGUF; `run.sh`, the exact command of llama-server; `compose.yaml`, the same in a
    container; `llama-swap.yaml`, an entry for llama-swap; `client.py`, a client with the openai
    package, which sends `request.json`; and a README for the person who gets it. Requests without
    sampling settings are answered greedily. `serve.check` with `bundle:` starts it and compares its
    prompts and answers with those of the training.

    Raises DataError for a file that isn't a JSON Schema.
    """

    gguf: Model = takes(help="The GGUF to serve, or an adapter of one, which `--lora` applies.")
    name: str = setting(
        pattern=NAME,
        help="The model's name in the API, which clients send as `model`.",
    )
    context: int | None = setting(
        None, ge=64,
        help="Longest conversation with its answer, in tokens. [default: the model's, at most "
        f"{CONTEXT}]",
    )  # fmt: skip
    slots: int = setting(SLOTS, ge=1, help="Requests that are answered at once.")
    system: str = setting(
        "",
        help="A system message for the client and the README. The one that all training rows have "
        "is in the exported chat template and needn't be sent.",
    )
    prompt: str = setting(
        "",
        help="The question that the client and the README ask. [default: that of a training row]",
    )
    schema: File | None = setting(
        None, help="A JSON Schema that answers must follow, e.g. that of eval.json, for the client."
    )
    image: str = setting(
        IMAGE,
        pattern=r"^[^\s:@]+(:\d+/[^\s:@]+)?[:@][^\s/]+$",
        help="The container image of compose.yaml, with a tag or digest. For GPUs, name one of "
        "llama.cpp's other images, e.g. `:server-cuda-b11176`.",
    )

    def check(self) -> None:
        """Raise `UsageError` for a model that isn't a GGUF, if that is known."""
        require_format(self.gguf, "llama.bundle", "gguf", FORMATS)

    def examine(self, look: Look) -> None:
        """Raise `DataError` for a file that isn't a JSON Schema."""
        read_schema(self.schema)

    def run(self, job: Job) -> Bundle:
        """Write the files and copy the GGUF."""
        gguf = Gguf.of(self.gguf, vocab_only=True)
        options = options_for(gguf, self.gguf, self.name, self.context, self.slots)
        schema = read_schema(self.schema)
        facts = Facts(options, TEMPLATE if options.template is not None else None, self.image)
        clients = ClientFacts.of(self.gguf.meta)
        request = request_for(
            self.name, clients, prompt=self.prompt, system=self.system, schema=schema
        )
        arguments = shlex.join(server_arguments(options, facts.template))
        run = fill(
            "finery_serve.bundle/run.sh.jinja", name=self.name, port=PORT, arguments=arguments
        )
        texts = {RUN: run, "compose.yaml": compose(facts), "llama-swap.yaml": llama_swap(facts)}
        if options.template is not None:
            texts[TEMPLATE] = options.template
        if schema is not None:
            texts[SCHEMA] = json_text(schema)
        stated = [
            *model_facts(self.gguf.meta),
            f"Context: {options.context} tokens for a conversation with its answer",
            f"Requests answered at once: {options.slots}",
        ]
        write_bundle(
            job.out, texts, request,
            readme="finery_serve.bundle/readme.md.jinja", title=self.name, address=ADDRESS,
            key="LLAMA_API_KEY", notes=notes_of(clients), facts=stated, template=facts.template,
            system=self.system, has_schema=schema is not None,
        )  # fmt: skip
        for source in filter(None, (gguf.path, gguf.adapter)):
            job.progress(0, 1, f"copying {source.name}")
            job.copy(source, source.name)
        about = {"format": "llama", "name": self.name, "file": gguf.path.name, "run": f"sh {RUN}"}
        return Bundle(job.out, meta=about | clients.meta())
