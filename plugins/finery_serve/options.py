"""The options of llama.cpp's server that finery uses: written to, and read from, a `run.sh`."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from finery import DataError

SLOTS = 4
CONTEXT = 8192
"""Tokens of a slot, unless the model has fewer."""
RUN = "run.sh"
"""The file of a bundle with the command."""

_NAMES = {
    "--model": "model", "-m": "model",
    "--ctx-size": "context", "-c": "context",
    "--parallel": "slots", "-np": "slots",
    "--temp": "temperature", "--temperature": "temperature",
    "--repeat-penalty": "repeat_penalty",
    "--chat-template-file": "template_file",
    "--alias": "name", "-a": "name",
}  # fmt: skip
_BESIDE = frozenset({"--host", "--port", "--api-key", "--threads", "-t", "--n-gpu-layers", "-ngl"})
"""Options with a value that change no prompt and no answer."""
_ALONE = frozenset({"--jinja", "--no-webui", "--no-ui"})
"""Options without a value that change nothing here."""
_COMMAND = re.compile(r"^\s*exec\s+(.+)$", re.MULTILINE)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options with which llama.cpp's server runs a model.

    context: tokens of each slot. template: the source of a chat template that replaces the one in
    the file. temperature, repeat_penalty: defaults for requests; None leaves them to the server.
    unread: further options, which finery doesn't know.
    """

    model: str = ""
    name: str = ""
    context: int
    slots: int = 1
    template: str | None = None
    temperature: float | None = 0.0
    repeat_penalty: float | None = 1.0
    unread: tuple[str, ...] = ()


def written(options: Options, template_file: str | None) -> list[str]:
    """The arguments of llama-server, without those of where it listens."""
    arguments = ["--model", options.model, "--alias", options.name, "--jinja"]
    arguments += ["--ctx-size", str(options.context * options.slots)]
    arguments += ["--parallel", str(options.slots)]
    if template_file is not None:
        arguments += ["--chat-template-file", template_file]
    for name, value in (
        ("--temp", options.temperature), ("--repeat-penalty", options.repeat_penalty)
    ):  # fmt: skip
        arguments += [name, f"{value:g}"] if value is not None else []
    return arguments


def read_run(script: Path) -> Options:
    """The options in the `exec` line of a `run.sh`. `DataError` if there is none that can be read.

    What the script doesn't say is left to the server.
    """
    text = re.sub(r"\\\n", " ", script.read_text(encoding="utf-8"))
    command = _COMMAND.search(text)
    try:
        words = shlex.split(command[1]) if command else []
    except ValueError:
        words = []
    if not words:
        raise DataError(
            "the script has no line `exec llama-server …` that can be read",
            where=str(script),
            fix="build the bundle again",
        )
    return read_arguments(words[1:], script)


def read_arguments(arguments: Sequence[str], file: Path) -> Options:
    """The options that arguments of llama-server set. file: the file that contains them.

    Files that they name are relative to its folder. `DataError` if they can't be read.
    """
    found, unread = _read(arguments)
    try:
        return _options(found, unread, file)
    except (KeyError, ValueError, OSError) as error:
        raise DataError(
            f"the options of llama-server can't be read: {error}", where=str(file),
            fix="build the bundle again",
        ) from error  # fmt: skip


def _read(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(name in `Options` → value, options that aren't known)."""
    found: dict[str, str] = {}
    unread: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in _NAMES:
            found[_NAMES[word]] = next(rest, "")
        elif word in _BESIDE:
            next(rest, "")
        elif word not in _ALONE and word != "$@":
            unread.append(word)
    return found, unread


def _options(found: dict[str, str], unread: list[str], script: Path) -> Options:
    slots = int(found.get("slots", 1))
    template: Any = None
    if "template_file" in found:
        template = (script.parent / found["template_file"]).read_text(encoding="utf-8")
    return Options(
        model=found["model"],
        name=found.get("name", ""),
        context=int(found["context"]) // slots,
        slots=slots,
        template=template,
        temperature=_number(found, "temperature"),
        repeat_penalty=_number(found, "repeat_penalty"),
        unread=tuple(unread),
    )


def _number(found: dict[str, str], name: str) -> float | None:
    return float(found[name]) if name in found else None
