"""Writes docs/steps.md, docs/commands.md and docs/advice.md from the code.

python docs/generate.py           write them
python docs/generate.py --check   exit 1 if one is stale
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from finery.cli.main import cli
from finery.plugin.manager import load_plugins
from finery.plugin.notes import About
from finery.recipe.messages import phrase
from finery.recipe.schema import step_schema
from finery.step.inspect import RESERVED, inputs_of, sections_of
from finery.step.step import Step

FOLDER = Path(__file__).parent
HEAD = "<!-- Generated: python docs/generate.py -->\n\n"


def steps() -> str:
    """Every built-in step type with its inputs and settings."""
    plugins = load_plugins()
    parts = [HEAD + "# Step types\n"]
    for name, (_, plugin) in sorted(plugins.step_types.items()):
        if plugin.module.__name__.startswith("finery_"):
            parts.append(_step(name, plugins.step_type(name)))
    return "\n".join(parts)


def _step(name: str, cls: type[Step]) -> str:
    schema, inputs = step_schema(cls), inputs_of(cls)
    lines = [f"## `{name}`\n", f"Section: {', '.join(f'`{s}`' for s in sections_of(cls))}\n"]
    lines += [_docstring(cls), "", "| | takes | |", "| --- | --- | --- |"]
    fields = [(k, f) for k, f in schema["properties"].items() if k not in RESERVED]
    for key, field in sorted(fields, key=lambda item: item[0] not in schema["required"]):
        kind = _input(inputs[key]) if key in inputs else phrase(field)
        default = "**required**" if key in schema["required"] else _default(field)
        text = field.get("description", "").replace("|", "\\|").replace("\n", " ")
        lines.append(f"| `{key}` | {kind.replace('|', chr(92) + '|')}; {default} | {text} |")
    return "\n".join(lines) + "\n"


def _docstring(cls: type[Step]) -> str:
    lines = (cls.__doc__ or "").strip().splitlines()
    return "\n".join(line.removeprefix("    ") for line in lines)


def _input(accepts: Any) -> str:
    return f"one or more {accepts.kind.kind}s" if accepts.many else f"a {accepts.kind.kind}"


def _default(field: dict[str, Any]) -> str:
    if "default" not in field or field["default"] is None:
        return "optional"
    value = field["default"]
    return f"default `{str(value).lower() if isinstance(value, bool) else value}`"


def commands() -> str:
    """Every command's help, as `finery COMMAND --help` prints it."""
    parts = [HEAD + "# Commands\n"]
    context = click.Context(cli, info_name="finery", max_content_width=90, terminal_width=90)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context, terminal_width=90)
        parts.append(f"## `finery {name}`\n\n```text\n{command.get_help(inner)}\n```\n")
    return "\n".join(parts)


ADVICE = """# Advice

`finery check` and `finery plan` give notes: what looks unwise in a recipe, why, and what to write.
A note is never an error. Some need to count rows, so they come once these are built; `finery build`
gives those on a training when it is about to start.

To be told no more, name a note at the recipe's top, for all steps or for one:

```yaml
silence: [few-rows, sft/epochs]
```

That changes no key: nothing is built again. Plugins can give notes of their own, see
[plugins.md](plugins.md).
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


def _pages() -> Iterator[tuple[Path, str]]:
    yield FOLDER / "steps.md", steps()
    yield FOLDER / "commands.md", commands()
    yield FOLDER / "advice.md", advice()


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
