"""What a bundle has for the people who get it: a request, a client that sends it, and a README."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finery import Artifact, Bundle, File
from finery_transformers.frozen.template import client_facts, shared_tools

REQUEST = "request.json"
SHORT = ("model", "messages", "temperature")
INLINE = 600
"""Parts and characters of a request that a command shows. It reads others from a file."""
_CLIENT = '''\
"""Asks the model a question: pip install openai, then python client.py "…".

The rest of the request is in request.json.
"""

import json
import os
import sys
from pathlib import Path

from openai import OpenAI

MODELS = {models}
client = OpenAI(
    base_url=os.environ.get("BASE_URL", "{address}"),
    api_key=os.environ.get("{key}", "none"),
)
request = json.loads(Path(__file__).with_name("request.json").read_text(encoding="utf-8"))
if sys.argv[1:]:
    request["messages"][-1]["content"] = " ".join(sys.argv[1:])
for model in MODELS:
    choice = client.chat.completions.create(**{{**request, "model": model}}).choices[0]
    answer = choice.message
    calls = [f"{{c.function.name}}({{c.function.arguments}})" for c in answer.tool_calls or ()]
    name = f"{{model}}: " if len(MODELS) > 1 else ""
    print(name + "\\n".join(filter(None, [answer.content, *calls])))
{after}'''


def request_for(
    name: str, facts: Mapping[str, Any], *, prompt: str = "", system: str = "", schema: Any = None
) -> dict[str, Any]:
    """A request that gets the evaluated answer, with the question and the tools of a training row.

    name: of the model. facts: see `client_facts`; a system message in it isn't sent, since the chat
    template adds it. prompt, system: in place of those of the row. schema: what answers follow.
    """
    example = json.loads(facts.get("training_example") or "{}")
    messages = example.get("messages") or [{"role": "user", "content": "Hello"}]
    if prompt:
        messages[-1]["content"] = prompt
    if system or facts.get("system"):
        messages = messages[-1:]
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    request = {"model": name, "messages": messages, "temperature": 0}
    if tools := example.get("tools"):
        request["tools"] = tools
        request |= {k: facts[k] for k in ("tool_choice",) if facts.get(k)}
    if schema is not None:
        answer = {"name": "answer", "schema": schema, "strict": True}
        request["response_format"] = {"type": "json_schema", "json_schema": answer}
    return request


def request_to(artifact: Artifact, name: str, prompt: str = "") -> dict[str, Any]:
    """The request of a bundle's client, else one for a training row.

    name: of the model on the server. prompt: in place of that of the row.
    """
    if isinstance(artifact, Bundle) and (artifact.path / REQUEST).is_file():
        sent: dict[str, Any] = json.loads(artifact.file(REQUEST).read_text(encoding="utf-8"))
        return sent | {"model": name}
    return request_for(name, client_facts(artifact), prompt=prompt)


def write_client(
    folder: Path, request: Mapping[str, Any], address: str, key: str, models: Sequence[str] = (),
    after: str = "",
) -> None:  # fmt: skip
    """Write `request.json` and `client.py`.

    address: the server's, with `/v1`. key: the variable with its key. models: the names that the
    client asks one after the other, if there are several. after: code that prints more of `choice`.
    """
    write_request(folder, request)
    names = json.dumps([*models] or [request["model"]], ensure_ascii=False)
    client = _CLIENT.format(models=names, address=address, key=key, after=after)
    (folder / "client.py").write_text(client, encoding="utf-8")


def write_request(folder: Path, request: Mapping[str, Any]) -> Path:
    """Write `request.json`."""
    write_texts(folder, {REQUEST: json_text(request)})
    return folder / REQUEST


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the text files of a bundle. Shell scripts can be executed."""
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        if name.endswith(".sh"):
            (folder / name).chmod(0o755)


def read_schema(file: File | None) -> dict[str, Any] | None:
    """The JSON Schema in a file, if one is given. `DataError` if it isn't one."""
    from finery.rows.answers.answerschema import AnswerSchema

    return None if file is None else AnswerSchema(file.path).value


def json_text(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def yaml_text(value: Any) -> str:
    """YAML for people, in the order of the keys."""
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)


def model_facts(meta: Mapping[str, Any]) -> list[str]:
    """What a README states about a model: its base, weights and licence, as far as known."""
    names = {"Base model": "base", "Weights": "quantization", "Licence": "license"}
    return [f"{name}: {meta[key]}" for name, key in names.items() if meta.get(key)]


def readme(
    title: str, about: str, run: str, request: Mapping[str, Any], address: str, notes: Sequence[str]
) -> str:
    """`README.md`. about, run: what the model is, and how the server is started."""
    listed = "\n".join(f"- {note}" for note in notes)
    return f"""\
# {title}

{about.strip()}

## Run it

{run.strip()}

## Ask it

```sh
{curl(address, request, REQUEST)}
```

With Python: `pip install openai`, then `python client.py "your question"`, which sends
`{REQUEST}` with your question. Any client of the OpenAI API works. The address is
`{address}`, the model `{request["model"]}`.

## Note

{listed}
"""


def is_long(request: Mapping[str, Any]) -> bool:
    """Whether a command reads a request from a file, since it has tools, a schema or much text."""
    return len(request) > len(SHORT) or len(json.dumps(request, ensure_ascii=False)) > INLINE


def curl(address: str, request: Mapping[str, Any], file: str | Path, key: str | None = None) -> str:
    """A command that sends a request. file: with the same request, used if that is long."""
    lines = [f"curl {address}/chat/completions", "  -H 'Content-Type: application/json'"]
    lines += [f"  -H 'Authorization: Bearer {key}'"] if key else []
    body = f"@{file}" if is_long(request) else json.dumps(request, ensure_ascii=False)
    return " \\\n".join([*lines, f"  -d {shlex.quote(body)}"])


def notes_of(facts: Mapping[str, Any]) -> list[str]:
    """What clients must know about the system message and the tools of the training."""
    notes = []
    if system := facts.get("system"):
        notes.append(
            f"A conversation without a system message begins with that of the training: {system}"
        )
    if facts.get("tools_differ"):
        notes.append(
            "The training rows offer different tools, so a request must send those that fit the "
            f"question. `{REQUEST}` has the question and the tools of one row."
        )
    elif names := tool_names(shared_tools(facts)):
        notes.append(
            f"All training rows offer the same tools: {names}. A request must send them as "
            f"`tools`, as `{REQUEST}` does."
        )
    return notes


def tool_names(tools: Sequence[Mapping[str, Any]] | None) -> str:
    """The names of tools, with commas."""
    return ", ".join(str(tool.get("function", tool).get("name")) for tool in tools or ())
