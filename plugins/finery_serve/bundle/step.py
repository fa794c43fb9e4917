"""`llama.bundle`: a folder that a colleague can run, and the texts of its files."""

import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from finery import Bundle, DataError, Job, Model, OneFile, Step, setting, takes
from finery_gguf.llama import PACKAGE, Gguf
from finery_serve.llama import CONTEXT, RUN, SLOTS, Options, options_for, written
from finery_transformers.formats import require_format
from finery_transformers.frozen.template import system_of

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
    added: str


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


IMAGE = "ghcr.io/ggml-org/llama.cpp:server-b11176"
TEMPLATE, SCHEMA = "chat_template.jinja", "schema.json"


class LlamaBundle(Step, seeded=False, sections=("export",), packages=(PACKAGE,)):
    """Write a folder that serves a GGUF with llama.cpp as it was trained and evaluated.

    It has the GGUF; `run.sh`, the exact command of llama-server; `compose.yaml`, the same in a
    container; `llama-swap.yaml`, an entry for llama-swap; `client.py`, a client with the openai
    package; and a README for the person who gets it. Requests without sampling settings are
    answered greedily. `serve.check` with `bundle:` starts it and compares its prompts and answers
    with those of the training.

    Raises DataError for a file that isn't a JSON Schema.
    """

    gguf: Model = takes(help="The GGUF to serve.")
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
    prompt: str = setting("Hello", help="The question that the client and the README ask.")
    schema: OneFile | None = setting(
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
        require_format(self.gguf, "llama.bundle", "gguf", ["gguf"])

    def check_files(self) -> None:
        """Raise `DataError` for a file that isn't a JSON Schema."""
        if self.schema is not None:
            read_schema(self.schema.path)

    def run(self, job: Job) -> Bundle:
        """Write the files and copy the GGUF."""
        source = self.gguf.file(str(self.gguf.meta["file"]))
        gguf = Gguf(source, vocab_only=True)
        options = options_for(gguf, self.gguf, self.name, self.context, self.slots)
        schema = read_schema(self.schema.path) if self.schema else None
        meta = self.gguf.meta
        names = {"Base model": "base", "Weights": "quantization", "Licence": "license"}
        facts = Facts(
            options=options,
            template=TEMPLATE if options.template is not None else None,
            image=self.image,
            system=self.system,
            prompt=self.prompt,
            schema=SCHEMA if schema is not None else None,
            about={text: str(meta[key]) for text, key in names.items() if meta.get(key)},
            added=system_of(self.gguf),
        )
        texts = {
            RUN: run_script(facts),
            "compose.yaml": compose(facts),
            "llama-swap.yaml": llama_swap(facts),
            "client.py": client(facts),
            "README.md": readme(facts),
        }
        if options.template is not None:
            texts[TEMPLATE] = options.template
        if schema is not None:
            texts[SCHEMA] = json.dumps(schema, ensure_ascii=False, indent=2) + "\n"
        for name, text in texts.items():
            (job.out / name).write_text(text, encoding="utf-8")
        (job.out / RUN).chmod(0o755)
        job.progress(0, 1, f"copying {source.name}")
        job.copy(source, source.name)
        about = {"format": "llama", "name": self.name, "file": source.name, "run": f"sh {RUN}"}
        return Bundle(job.out, meta=about | ({"system": facts.added} if facts.added else {}))


def read_schema(path: Path) -> dict[str, Any]:
    """A JSON Schema. `DataError` for a file that isn't one."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(schema, dict):
            raise ValueError("a schema is an object")
        Draft202012Validator.check_schema(schema)
    except (ValueError, SchemaError) as error:
        reason = error.message if isinstance(error, SchemaError) else str(error)
        raise DataError(
            f"not a JSON Schema: {reason}", where=str(path), fix="correct the file"
        ) from None
    return schema
