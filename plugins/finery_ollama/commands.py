"""Modelfile syntax: values are written so that Ollama's parser reads them back unchanged.

https://github.com/ollama/ollama/blob/main/parser/parser.go: a value in three double quotes ends
at the first line that ends with three double quotes. Characters that aren't printable are dropped
silently. There are no escapes.
"""

from collections.abc import Sequence

from finery import DataError

Command = tuple[str, str]
"""(name in capitals, value). The name of a parameter is `PARAMETER name`."""


def write_modelfile(commands: Sequence[Command], comment: str) -> str:
    """The Modelfile's text. `DataError` for a value that can't be written in one."""
    lines = [f"# {comment}"]
    for name, value in commands:
        text = f"{name} {_quote(value)}"
        if _read_back(text) != [(name, value)]:
            raise DataError(
                f"{name} can't be written in a Modelfile: {value!r:.200}",
                fix='remove invisible characters, and """ at the end of a line',
            )
        lines.append(text)
    return "\n".join(lines) + "\n"


def read_modelfile(text: str) -> list[Command]:
    """The commands that Ollama reads from a Modelfile. `ValueError` if a value doesn't end."""
    commands, rest = [], text + "\n"
    while rest := rest.lstrip(" \t\r\n"):
        if rest.startswith("#"):
            rest = rest.partition("\n")[2]
            continue
        name, _, rest = rest.partition(" ")
        if name == "PARAMETER":
            parameter, _, rest = rest.partition(" ")
            name = f"PARAMETER {parameter}"
        value, rest = _read_value(rest)
        commands.append((name, value))
    return commands


def _read_back(text: str) -> list[Command] | None:
    try:
        return read_modelfile(text)
    except ValueError:
        return None


def _read_value(text: str) -> tuple[str, str]:
    """(the value at the start of `text`, what comes after it)."""
    read = ""
    for position, character in enumerate(text):
        if character in "\r\n" and (value := _unquote(read.strip())) is not None:
            return value, text[position + 1 :]
        if character in " \t\r\n" or character.isprintable():
            read += character
    raise ValueError("a value of the Modelfile doesn't end")


def _unquote(text: str) -> str | None:
    """The value inside its quotes; None while the quotes are open."""
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text


def _quote(value: str) -> str:
    if value.strip() == value and value and not set('"\n\r') & set(value):
        return value
    return f'"""{value}"""'
