"""Writes the texts of a bundle for the people who get it: request, client, README, scripts."""

import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from finery import Artifact, Bundle, File
from finery_transformers.frozen.template import ClientFacts

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}$"
"""Pattern of a model's name in the API."""
REQUEST = "request.json"
SHORT = ("model", "messages", "temperature")
INLINE = 600
"""Parts and characters of a request that a command shows. It reads others from a file."""
README = "finery_serve/readme.md.jinja"
"""The README that those of all bundles extend. A block of it is a section."""


def request_for(
    name: str, clients: ClientFacts, *, prompt: str = "", system: str = "", schema: Any = None
) -> dict[str, Any]:
    """A request that gets the evaluated answer, with the question and the tools of a training row.

    name: of the model. clients: a system message in it isn't sent, since the chat template adds it.
    prompt, system: in place of those of the row. schema: what answers follow.
    """
    example = clients.example
    messages = example.get("messages") or [{"role": "user", "content": "Hello"}]
    if prompt:
        messages[-1]["content"] = prompt
    if system or clients.system:
        messages = messages[-1:]
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    request = {"model": name, "messages": messages, "temperature": 0}
    if tools := example.get("tools"):
        request["tools"] = tools
        request |= {"tool_choice": clients.tool_choice} if clients.tool_choice else {}
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
    return request_for(name, ClientFacts.of(artifact.meta), prompt=prompt)


def write_bundle(
    folder: Path,
    texts: Mapping[str, str],
    request: Mapping[str, Any],
    *,
    readme: str = README,
    **values: Any,
) -> None:
    """Write `request.json`, `client.py` and `README.md`, and further texts of a bundle.

    readme: its template. values: of the templates: `title`; `address`, the server's, with `/v1`;
    `key`, the variable with its key; `notes`, a list; `models`, the names that the client asks one
    after the other, if there are several; and what the README's own blocks take.
    """
    write_request(folder, request)
    filled = {"models": [request["model"]], "gives_probability": False, "abstain_below": None}
    filled |= {**values, "request": request, "curl": curl(values["address"], request, REQUEST)}
    client = fill("finery_serve/client.py.jinja", **filled)
    write_texts(folder, {**texts, "client.py": client, "README.md": fill(readme, **filled)})


def fill(template: str, /, **values: Any) -> str:
    """A template's text with its values. template: `package.folder/name`."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(read_template), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["dumps"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.get_template(template).render(values)


def read_template(name: str) -> str:
    """The text of a file of a package: `package.folder/name`."""
    package, _, path = name.partition("/")
    return files(package).joinpath(path).read_text(encoding="utf-8")


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


def requirement(package: str) -> str:
    """The line of requirements.txt for a package as it is installed.

    The index has no builds with a local version, such as torch 2.13.0+cpu.
    """
    return f"{package}=={version(package).partition('+')[0]}"


def files_of(artifact: Artifact) -> dict[str, Path]:
    """Name → path of each file of an artifact, in its folder or elsewhere."""
    if artifact.manifest is not None:
        names = {*artifact.manifest.files}
    else:  # not in a store
        paths = (path for path in artifact.path.rglob("*") if path.is_file())
        names = {path.relative_to(artifact.path).as_posix() for path in paths}
    return {name: artifact.file(name) for name in sorted(names | artifact.external.keys())}


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


def is_long(request: Mapping[str, Any]) -> bool:
    """Whether a command reads a request from a file, since it has tools, a schema or much text."""
    return len(request) > len(SHORT) or len(json.dumps(request, ensure_ascii=False)) > INLINE


def curl(address: str, request: Mapping[str, Any], file: str | Path, key: str | None = None) -> str:
    """A command that sends a request. file: with the same request, used if that is long."""
    lines = [f"curl {address}/chat/completions", "  -H 'Content-Type: application/json'"]
    lines += [f"  -H 'Authorization: Bearer {key}'"] if key else []
    body = f"@{file}" if is_long(request) else json.dumps(request, ensure_ascii=False)
    return " \\\n".join([*lines, f"  -d {shlex.quote(body)}"])


def notes_of(clients: ClientFacts) -> list[str]:
    """What clients must know about the system message and the tools of the training."""
    notes = []
    if clients.system:
        begins = "A conversation without a system message begins with that of the training"
        notes.append(f"{begins}: {clients.system}")
    if clients.tools_differ:
        notes.append(
            "The training rows offer different tools, so a request must send those that fit the "
            f"question. `{REQUEST}` has the question and the tools of one row."
        )
    elif names := tool_names(clients.tools):
        notes.append(
            f"All training rows offer the same tools: {names}. A request must send them as "
            f"`tools`, as `{REQUEST}` does."
        )
    return notes


def tool_names(tools: Sequence[Mapping[str, Any]] | None) -> str:
    """The names of tools, with commas."""
    return ", ".join(str(tool.get("function", tool).get("name")) for tool in tools or ())
