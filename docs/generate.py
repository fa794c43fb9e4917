"""Writes steps.md, a page of steps/ for each plugin, commands.md, advice.md, events.md and pages of
the Python API in docs/reference from the code, and docs/llms.txt from the pages.

python docs/generate.py           write them
python docs/generate.py --check   exit 1 if one is stale
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import click
import python_api
import yaml

from finery.cli.main import cli
from finery.plugin.manager import load_plugins
from finery.plugin.notes import About
from finery.recipe.messages import phrase
from finery.recipe.schema import settings_inside, step_schema
from finery.step.inspect import RESERVED, inputs_of, sections_of
from finery.step.step import Step
from finery.util.events import EVENTS, BuildStarted, Error
from finery.util.text import a_or_an, one_or_more

FOLDER = Path(__file__).parent / "reference"
HEAD = "<!-- Generated: python docs/generate.py -->\n\n"
NAMES_A_STEP = re.compile(r" ?Names a step that makes an? \w+(, or a list of them)?\.")
"""What the schema says of every input, and the table says in its second column."""


STEPS = """# Step types

Each plugin has a page that describes its step types with their inputs and settings. `finery plugins
STEP_TYPE` prints the same in the terminal, and also knows the step types of your plugins.

| Step type | Meaning |
| --- | --- |
"""
COMMANDS = """# Commands

A command takes a recipe, and many take a step, in either order: `finery show my-recipe sft` and
`finery show sft my-recipe` are the same. Without a recipe, a command reads `recipe.yaml` in the
current folder. Every command prints this help with `--help`.
"""


def steps() -> dict[Path, str]:
    """A list of the built-in step types, and a page for each plugin with their settings."""
    plugins = load_plugins()
    lines, pages = [HEAD + STEPS], dict[Path, str]()
    for name, (_, plugin) in sorted(plugins.step_types.items()):
        package = plugin.module.__name__.partition(".")[0]
        if not package.startswith("finery_"):
            continue
        cls, page = plugins.step_type(name), package.removeprefix("finery_")
        anchor, meaning = name.replace(".", ""), _first_sentence(_docstring(cls))
        link = f'<a id="{anchor}"></a>[`{name}`](steps/{page}.md#{anchor})'
        lines.append(f"| {link} | {meaning.replace('|', chr(92) + '|')} |\n")
        path = FOLDER / "steps" / f"{page}.md"
        about = (sys.modules[package].__doc__ or "").partition("\n\n")[0]
        head = f"# `{package}`\n\n{about}\n"
        pages[path] = "\n".join([pages.get(path, HEAD + head), _step(name, cls)])
    return {FOLDER / "steps.md": "".join(lines), **pages}


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
    fields = field_descriptions(BuildStarted)
    parts = [HEAD + EVENTS_HEAD + _fields({n: f for n, f in fields.items() if n in common})]
    parts.append(EVENTS_TAIL)
    for name, kind in EVENTS.items():
        own = {n: field for n, field in field_descriptions(kind).items() if n not in common}
        parts.append(f"## `{name}`\n\n{kind.__doc__}\n\n{_fields(own)}")
    parts.append(f"## Errors\n\n{Error.__doc__}\n\n{_fields(field_descriptions(Error))}")
    return "\n".join(parts)


def field_descriptions(kind: type) -> dict[str, tuple[Any, str]]:
    """Field → (type, meaning) of an event's class or of a part of one."""
    descriptions = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        text = getattr(hint, "__metadata__", ("",))[0]
        descriptions[name] = get_args(hint)[0] if text else hint, text
    return descriptions


def _fields(fields: Mapping[str, tuple[Any, str]]) -> str:
    rows = [f"| `{name}` | {_type(kind)} | {text} |\n" for name, (kind, text) in fields.items()]
    return "".join(["| Field | Type | Meaning |\n| --- | --- | --- |\n", *rows])


def _type(kind: Any) -> str:
    """A type in words."""
    words = {str: "text", float: "number", int: "number", bool: "true or false", Error: "an error"}
    if kind in words:
        return words[kind]
    if is_typeddict(kind):
        return ", ".join(f"`{name}`" for name in field_descriptions(kind))
    arguments = get_args(kind)
    if get_origin(kind) is list:
        return f"a list of {_type(arguments[0])}"
    if get_origin(kind) is dict:
        return f"names → {_type(arguments[1])}"
    return " or ".join("null" if a is type(None) else _type(a) for a in arguments)


LLMS = """# finery

> A build system for small fine-tuned language models: one recipe in YAML, one command, `finery
> build`. Steps are cached by the hash of their content. Every command that prints results has
> `--json`. Errors say what is wrong, where, and how to fix it.

Before a build, `finery check` finds mistakes and `finery plan` says what would run. `finery plugins
STEP_TYPE` prints the settings of a step type, and `finery schema RECIPE` writes a JSON Schema.
"""


def llms(texts: Mapping[Path, str]) -> str:
    """All pages with their first sentence (https://llmstxt.org). texts: of generated pages."""
    lines = [LLMS]
    site = yaml.safe_load((FOLDER.parents[1] / "mkdocs.yml").read_text("utf-8"))
    for section in site["nav"]:
        for title, entry in section.items():
            lines.append(f"## {title}\n")
            for name in _names_in(entry):
                path = FOLDER.parent / name
                text = texts.get(path) or path.read_text("utf-8")
                lines.append(f"- [{_title(text)}]({name}): {_first_sentence(text)}")
            lines.append("")
    return "\n".join(lines)


def _names_in(entry: Any) -> Iterator[str]:
    """The files of a part of the navigation."""
    if isinstance(entry, str):
        yield entry
        return
    for each in entry.values() if isinstance(entry, dict) else entry:
        yield from _names_in(each)


def _title(text: str) -> str:
    return str(re.findall(r"^# (.+)$", text, re.MULTILINE)[0])


def _first_sentence(text: str) -> str:
    """The first sentence of a page, without links."""
    paragraphs = (part for part in text.split("\n\n") if part[:1].isalpha() or part[:1] == "`")
    first = next(part for part in paragraphs if not part.startswith("```"))
    plain = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", " ".join(first.split()))
    return re.sub(r":$", ".", re.split(r"(?<=[.]) ", plain)[0])


def _pages() -> dict[Path, str]:
    texts = {
        **steps(),
        FOLDER / "commands.md": commands(),
        FOLDER / "advice.md": advice(),
        FOLDER / "events.md": events(),
        **{FOLDER / f"{name}.md": HEAD + text for name, text in python_api.pages().items()},
    }
    return texts | {FOLDER.parent / "llms.txt": llms(texts)}


def main() -> int:
    """Write or check the pages."""
    pages = _pages().items()
    stale = [(p, text) for p, text in pages if not p.exists() or p.read_text("utf-8") != text]
    old = {*(FOLDER / "steps").glob("*.md")} - {path for path, _ in pages}
    if "--check" in sys.argv:
        for path, _ in stale:
            print(f"{path} is stale: python docs/generate.py")
        for path in old:
            print(f"{path} describes no plugin: remove it, and its line in mkdocs.yml")
        return bool(stale or old)
    for path, text in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
