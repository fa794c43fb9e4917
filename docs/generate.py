"""Writes steps.md, commands.md, advice.md and events.md in docs/reference from the code.

python docs/generate.py           write them
python docs/generate.py --check   exit 1 if one is stale
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, is_typeddict

import click

from finery.cli.main import cli
from finery.plugin.manager import load_plugins
from finery.plugin.notes import About
from finery.recipe.messages import phrase
from finery.recipe.schema import settings_inside, step_schema
from finery.step.inspect import RESERVED, inputs_of, sections_of
from finery.step.step import Step
from finery.util.events import EVENTS, BuildStarted, Error, described
from finery.util.text import a_or_an, one_or_more

FOLDER = Path(__file__).parent / "reference"
HEAD = "<!-- Generated: python docs/generate.py -->\n\n"
NAMES_A_STEP = re.compile(r" ?Names a step that makes an? \w+(, or a list of them)?\.")
"""What the schema says of every input, and the table says in its second column."""


STEPS = """# Step types

Each section describes a built-in step type with its inputs and settings. `finery plugins STEP_TYPE`
prints the same in the terminal, and also knows the step types of your plugins.
"""
COMMANDS = """# Commands

A command takes a recipe, and many take a step, in either order: `finery show my-recipe sft` and
`finery show sft my-recipe` are the same. Without a recipe, a command reads `recipe.yaml` in the
current folder. Every command prints this help with `--help`.
"""


def steps() -> str:
    """Every built-in step type with its inputs and settings."""
    plugins = load_plugins()
    parts = [HEAD + STEPS]
    for name, (_, plugin) in sorted(plugins.step_types.items()):
        if plugin.module.__name__.startswith("finery_"):
            parts.append(_step(name, plugins.step_type(name)))
    return "\n".join(parts)


def _step(name: str, cls: type[Step]) -> str:
    schema, inputs = step_schema(cls), inputs_of(cls)
    lines = [f"## `{name}`\n", f"Section: {', '.join(f'`{s}`' for s in sections_of(cls))}\n"]
    lines += [_docstring(cls), "", "| Setting | Value | Meaning |", "| --- | --- | --- |"]
    fields = [(k, f) for k, f in schema["properties"].items() if k not in RESERVED]
    for key, field in sorted(fields, key=lambda item: item[0] not in schema["required"]):
        kind = _input(inputs[key]) if key in inputs else phrase(field)
        lines.append(_setting(key, field, kind, required=key in schema["required"]))
        for inner, of, required in settings_inside(schema, key):
            lines.append(_setting(inner, of, phrase(of), required=required))
    return "\n".join(lines) + "\n"


def _setting(name: str, field: dict[str, Any], kind: str, *, required: bool) -> str:
    """A line of the table of settings."""
    kind = re.sub(r"(?<=matching )(\S+?)(?=,|;|$)", r"`\1`", kind)
    default = "**required**" if required else _default(field)
    text = NAMES_A_STEP.sub("", field.get("description", ""))
    text = text.replace("|", "\\|").replace("\n", " ")
    return f"| `{name}` | {kind.replace('|', chr(92) + '|')}; {default} | {text} |"


def _docstring(cls: type[Step]) -> str:
    lines = (cls.__doc__ or "").strip().splitlines()
    return "\n".join(line.removeprefix("    ") for line in lines)


def _input(accepts: Any) -> str:
    return one_or_more(accepts.kind.kind) if accepts.many else a_or_an(accepts.kind.kind)


def _default(field: dict[str, Any]) -> str:
    if "default" not in field or field["default"] is None:
        return "optional"
    value = field["default"]
    if isinstance(value, list):
        has_sentences = any(" " in str(one) for one in value)
        words = (
            json.dumps(one, ensure_ascii=False) if has_sentences else str(one) for one in value
        )
        return f"default `[{', '.join(words)}]`"
    return f"default `{str(value).lower() if isinstance(value, bool) else value}`"


def commands() -> str:
    """Every command's help, as `finery COMMAND --help` prints it."""
    parts = [HEAD + COMMANDS]
    context = click.Context(cli, info_name="finery", max_content_width=90, terminal_width=90)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        parts += _command(command, name, context)
    return "\n".join(parts)


def _command(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    """The help of a command, and of the commands in it."""
    context = click.Context(command, info_name=name, parent=parent, terminal_width=90)
    yield f"## `{context.command_path}`\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _command(inner, str(inner.name), context)


ADVICE = """# Advice

`finery check` prints notes. A note says what looks unwise in a recipe, why, and what to do about
it. Notes are not errors. `finery plan` only names them. Some notes depend on the number of rows, so
they appear when these rows have been built. `finery build` prints the notes on a training when it
starts.

To turn off a note for all steps or for one step, name it at the top of the recipe:

```yaml
silence: [few-rows, sft/epochs]
```

This changes no key, so nothing is rebuilt. Plugins can add notes, see
[Notes and estimates](../howto/plugins-engines.md#notes-and-estimates).
"""


def advice() -> str:
    """Every built-in note: when it is given and why."""
    notes = [
        _note(name, about)
        for name, (about, plugin) in load_plugins().notes.items()
        if plugin.module.__name__.startswith("finery")
    ]
    return "\n".join([HEAD + ADVICE, *notes])


def _note(name: str, about: About) -> str:
    return f"## `{name}`\n\nGiven when {about.when}.\n\n{about.why}\n"


EVENTS_HEAD = """# Events

`finery build --json` prints events as JSON lines, one event per line, and nothing else. A build
that runs a step also writes its events to `.finery/runs/<run>/events.jsonl`, next to the logs of
its steps. `finery runs` lists these records.

Every event has these fields:

"""
EVENTS_TAIL = """\
Later versions may add fields and events. They will not remove one or change its meaning without
deprecating it first. Programs that read events must ignore those that they don't know.

If another build is building a step, a `step_log` with its process comes first. For a step that
runs, there is one `step_started`, then any number of `step_log`, `step_progress`,
`step_metric` and `step_note` in order of time, then either `step_finished` or `step_failed`. A step
that has finished or is cached can still fail afterwards if its `require:` isn't met. Events of
different steps are interleaved.
"""


def events() -> str:
    """Every event with its fields."""
    common = {"event", "time"}
    fields = described(BuildStarted)
    parts = [HEAD + EVENTS_HEAD + _fields({n: f for n, f in fields.items() if n in common})]
    parts.append(EVENTS_TAIL)
    for name, kind in EVENTS.items():
        own = {n: field for n, field in described(kind).items() if n not in common}
        parts.append(f"## `{name}`\n\n{kind.__doc__}\n\n{_fields(own)}")
    parts.append(f"## Errors\n\n{Error.__doc__}\n\n{_fields(described(Error))}")
    return "\n".join(parts)


def _fields(fields: Mapping[str, tuple[Any, str]]) -> str:
    rows = [f"| `{name}` | {_type(kind)} | {text} |\n" for name, (kind, text) in fields.items()]
    return "".join(["| Field | Type | Meaning |\n| --- | --- | --- |\n", *rows])


def _type(kind: Any) -> str:
    """A type in words."""
    words = {str: "text", float: "number", int: "number", bool: "true or false", Error: "an error"}
    if kind in words:
        return words[kind]
    if is_typeddict(kind):
        return ", ".join(f"`{name}`" for name in described(kind))
    arguments = get_args(kind)
    if get_origin(kind) is list:
        return f"a list of {_type(arguments[0])}"
    if get_origin(kind) is dict:
        return f"names → {_type(arguments[1])}"
    return " or ".join("null" if a is type(None) else _type(a) for a in arguments)


def _pages() -> Iterator[tuple[Path, str]]:
    yield FOLDER / "steps.md", steps()
    yield FOLDER / "commands.md", commands()
    yield FOLDER / "advice.md", advice()
    yield FOLDER / "events.md", events()


def main() -> int:
    """Write or check the pages."""
    stale = [(p, text) for p, text in _pages() if not p.exists() or p.read_text("utf-8") != text]
    if "--check" in sys.argv:
        for path, _ in stale:
            print(f"{path} is stale: python docs/generate.py")
        return bool(stale)
    for path, text in stale:
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
