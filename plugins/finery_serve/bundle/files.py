"""The texts of a bundle's files."""

import json
import re
import shlex
from typing import Any, NamedTuple

from finery_serve.options import Options, written

PORT = 8080
IN_CONTAINER = "/bundle"
ORIGINS, LOCAL_PAGES = "LLAMA_ARG_CORS_ORIGINS", "localhost"
"""The variable by which llama.cpp knows whose web pages may read answers, and its value."""
_PLAIN = re.compile(r"[\w.,:/@%+=-]+")
"""Arguments that need no quotes."""
FORMAT = (
    "    response_format={",
    '        "type": "json_schema",',
    '        "json_schema": {"name": "answer", "schema": schema, "strict": True},',
    "    },",
)
"""Lines of `client.py` that have the server follow a schema."""


class Facts(NamedTuple):
    """The facts that the files of a bundle state.

    template, schema: names of files in the bundle, if it has them. about: lines of the README.
    added: the system message that the chat template adds; empty if it adds none.
    """

    options: Options
    template: str | None
    image: str
    system: str
    prompt: str
    schema: str | None
    about: dict[str, str]
    added: str = ""


def run_script(facts: Facts) -> str:
    """`run.sh`: the command of llama-server. A key is demanded beyond this machine."""
    arguments = shlex.join(written(facts.options, facts.template))
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
    template = f"{IN_CONTAINER}/{facts.template}" if facts.template else None
    arguments = written(facts.options, template)
    arguments[arguments.index("--model") + 1] = f"{IN_CONTAINER}/{facts.options.model}"
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
    return f"{comments}{_yaml({'services': {'model': service}})}"


def llama_swap(facts: Facts) -> str:
    """`llama-swap.yaml`: an entry for https://github.com/mostlygeek/llama-swap."""
    template = f"${{folder}}/{facts.template}" if facts.template else None
    arguments = written(facts.options, template)
    arguments[arguments.index("--model") + 1] = f"${{folder}}/{facts.options.model}"
    command = "llama-server --host 127.0.0.1 --port ${PORT} " + " ".join(map(_word, arguments))
    config = {
        "macros": {"folder": "/path/to/this/folder"},
        "models": {facts.options.name: {"cmd": command}},
    }
    return f"# Set `folder` to the path of this bundle.\n{_yaml(config)}"


def _word(argument: str) -> str:
    """An argument for llama-swap, which splits the command like a shell.

    In double quotes if it has blanks or a macro, whose value may have some: llama-swap replaces
    macros first. On Windows, it doesn't read single quotes.
    """
    if _PLAIN.fullmatch(argument):
        return argument
    return '"' + re.sub(r'(["\\])', r"\\\1", argument) + '"'


def client(facts: Facts) -> str:
    """`client.py`: a question with the openai package, with a JSON Schema if there is one."""
    modules = ["json", "os", "sys"] if facts.schema else ["os", "sys"]
    imports = [f"import {module}" for module in modules]
    imports += ["from pathlib import Path"] if facts.schema else []
    read = f'Path(__file__).with_name("{facts.schema}").read_text(encoding="utf-8")'
    system = f'{{"role": "system", "content": {_python(facts.system)}}}'
    lines = [
        '"""Asks the model a question: pip install openai, then python client.py "…"."""',
        "",
        *imports,
        "",
        "from openai import OpenAI",
        "",
        "client = OpenAI(",
        f'    base_url=os.environ.get("BASE_URL", "http://127.0.0.1:{PORT}/v1"),',
        '    api_key=os.environ.get("LLAMA_API_KEY", "none"),',
        ")",
        f'question = " ".join(sys.argv[1:]) or {_python(facts.prompt)}',
        *([f"schema = json.loads({read})"] if facts.schema else []),
        "answer = client.chat.completions.create(",
        f"    model={_python(facts.options.name)},",
        "    messages=[",
        *([f"        {system},"] if facts.system else []),
        '        {"role": "user", "content": question},',
        "    ],",
        "    temperature=0,",
        *(FORMAT if facts.schema else ()),
        ")",
        "print(answer.choices[0].message.content)",
    ]
    return "\n".join(lines) + "\n"


def readme(facts: Facts) -> str:
    """`README.md`, for the person who gets the bundle."""
    options = facts.options
    about = "".join(f"- {name}: {value}\n" for name, value in facts.about.items())
    return f"""\
# {options.name}

A fine-tuned language model with the command that serves it as it was trained and evaluated.

{about}- Context: {options.context} tokens for a conversation with its answer
- Requests answered at once: {options.slots}

## Run it

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
are links, as in a `build/` folder of finery, copy it first with `finery export` or `cp -rL`. With [llama-swap](https://github.com/mostlygeek/llama-swap),
copy the entry in `llama-swap.yaml` into your configuration, and set `folder` in it.

## Ask it

```sh
{_curl(facts)}
```

With Python: `pip install openai`, then `python client.py "your question"`. Any client of the OpenAI
API works. The address is `http://127.0.0.1:{PORT}/v1`, the model `{options.name}`.
{_notes(facts)}"""


def _notes(facts: Facts) -> str:
    """What users of the model must do to get the answers that were evaluated."""
    notes = [
        "- Answers are greedy (temperature 0) unless a request says otherwise. The model was "
        "evaluated like that.",
        "- The chat template is in the GGUF"
        + (f", but `{facts.template}` replaces it" if facts.template else "")
        + ". Don't give the server another one.",
    ]
    if facts.added:
        notes.append(
            "- A conversation without a system message begins with that of the training: "
            f"{facts.added}"
        )
    if facts.system:
        notes.append(f"- The client sends this system message: {facts.system}")
    if facts.schema:
        notes.append(
            f"- Answers are JSON by `{facts.schema}`. `client.py` has the server enforce that."
        )
    return "\n## Note\n\n" + "\n".join(notes) + "\n"


def _curl(facts: Facts) -> str:
    system = [{"role": "system", "content": facts.system}] if facts.system else []
    messages = [*system, {"role": "user", "content": facts.prompt}]
    body = json.dumps({"model": facts.options.name, "messages": messages}, ensure_ascii=False)
    return (
        f"curl http://127.0.0.1:{PORT}/v1/chat/completions "
        f"-H 'Content-Type: application/json' \\\n  -d {shlex.quote(body)}"
    )


def _python(text: str) -> str:
    """A text as a literal of Python, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _yaml(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
