"""`llama.bundle`: a folder that a colleague can run, and the texts of its files."""

import re
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from finery import Bundle, File, Job, Look, Model, Step, setting, takes
from finery_gguf.llama import FORMATS, PACKAGE, Gguf
from finery_serve.guide import (
    REQUEST,
    json_text,
    model_facts,
    notes_of,
    read_schema,
    readme,
    request_for,
    write_client,
    write_texts,
    yaml_text,
)
from finery_serve.llama import CONTEXT, RUN, SLOTS, Options, options_for, server_arguments
from finery_transformers.formats import require_format
from finery_transformers.frozen.template import client_facts

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


def run_script(facts: Facts) -> str:
    """`run.sh`: the command of llama-server. A key is demanded beyond this machine."""
    arguments = shlex.join(server_arguments(facts.options, facts.template))
    return f"""\
#!/bin/sh
# Serves {facts.options.name} with llama.cpp. SERVE_HOST and SERVE_PORT say where, LLAMA_SERVER
# names the program.
# Without a key, only web pages of this machine may read answers.
set -eu
cd "$(dirname "$0")"
host="${{SERVE_HOST:-127.0.0.1}}"
case "$host" in
127.0.0.1 | localhost | ::1) ;;
*) : "${{LLAMA_API_KEY:?set LLAMA_API_KEY, since other machines can reach SERVE_HOST=$host}}" ;;
esac
[ -n "${{LLAMA_API_KEY:-}}" ] || export {ORIGINS}="${{{ORIGINS}:-{LOCAL_PAGES}}}"
port="${{SERVE_PORT:-{PORT}}}"
exec "${{LLAMA_SERVER:-llama-server}}" {arguments} --host "$host" --port "$port" "$@"
"""


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
GUIDE = """\
With [llama.cpp](https://github.com/ggml-org/llama.cpp) installed, so that `llama-server` is on the
PATH:

```sh
sh run.sh
```

`SERVE_PORT=9000 sh run.sh` uses another port. The server can be reached only from this machine. To
open it to others, give it a key: `SERVE_HOST=0.0.0.0 LLAMA_API_KEY=… sh run.sh`. Web pages of other
origins can't read its answers without a key, unless `LLAMA_ARG_CORS_ORIGINS` names them. More
options of llama-server can follow, e.g. `sh run.sh --n-gpu-layers 99`.

With Docker instead: `docker compose up`. The container sees only this folder. If the files in it
are links, as in a `build/` folder of finery, copy it first with `finery export` or `cp -rL`. With
[llama-swap](https://github.com/mostlygeek/llama-swap), copy the entry in `llama-swap.yaml` into
your configuration, and set `folder` in it.
"""
"""How to start the server."""


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
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}$",
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
        clients = client_facts(self.gguf)
        request = request_for(
            self.name, clients, prompt=self.prompt, system=self.system, schema=schema
        )
        write_client(job.out, request, ADDRESS, "LLAMA_API_KEY")
        texts = {
            RUN: run_script(facts),
            "compose.yaml": compose(facts),
            "llama-swap.yaml": llama_swap(facts),
            "README.md": readme(
                self.name,
                _about(options, self.gguf.meta),
                GUIDE,
                request,
                ADDRESS,
                [*_notes(facts, self.system, schema is not None), *notes_of(clients)],
            ),
        }
        if options.template is not None:
            texts[TEMPLATE] = options.template
        if schema is not None:
            texts[SCHEMA] = json_text(schema)
        write_texts(job.out, texts)
        for source in filter(None, (gguf.path, gguf.adapter)):
            job.progress(0, 1, f"copying {source.name}")
            job.copy(source, source.name)
        about = {"format": "llama", "name": self.name, "file": gguf.path.name, "run": f"sh {RUN}"}
        return Bundle(job.out, meta=about | clients)


def _about(options: Options, meta: Mapping[str, Any]) -> str:
    facts = [
        *model_facts(meta),
        f"Context: {options.context} tokens for a conversation with its answer",
        f"Requests answered at once: {options.slots}",
    ]
    return (
        "A fine-tuned language model with the command that serves it as it was trained and "
        "evaluated.\n\n" + "\n".join(f"- {fact}" for fact in facts)
    )


def _notes(facts: Facts, system: str, schema: bool) -> list[str]:
    """What users of the model must do to get the answers that were evaluated."""
    instead = f", but `{facts.template}` replaces it" if facts.template else ""
    notes = [
        "Answers are greedy (temperature 0) unless a request says otherwise. The model was "
        "evaluated like that.",
        f"The chat template is in the GGUF{instead}. Don't give the server another one.",
    ]
    notes += [f"The client sends this system message: {system}"] if system else []
    enforced = f"Answers are JSON by `{SCHEMA}`. `{REQUEST}` has the server enforce that."
    return [*notes, enforced] if schema else notes
