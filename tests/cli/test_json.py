"""`--json`: every command that prints results has it, with the fields of docs/reference/json.md."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import Project
from judged import RECIPE, commit, files

from finery.cli.main import cli

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "json.md"
DOCUMENTS = {"schema", "card", "synth prompt", "completion", "chat", "plugin catalog"}
"""Commands whose output is a document, a site or a conversation."""
CALLS: Mapping[str, list[str]] = {
    "init": ["init made"],
    "check": ["check"],
    "plan": ["plan", "plan --set train.sft.share=0.2"],
    "explain": ["explain sft --set train.sft.share=0.2", "explain rows"],
    "show": [
        "show",
        "show test",
        "show sft",
        "show sft --effective",
        "show matrix --matrix train.sft.share=0.2,0.5",
    ],
    "runs": ["runs"],
    "diff": ["diff HEAD now --set train.sft.share=0.2"],
    "report": ["report", "report --format markdown", "report --format junit"],
    "export": ["export sft copied", "export sft --bundle sft.tar"],
    "import": ["import given.tar"],
    "verify": ["verify sft"],
    "cache sizes": ["cache"],
    "cache gc": ["cache gc --dry-run", "cache gc --shared 1"],
    "cache pin": ["cache pin sft"],
    "cache unpin": ["cache unpin sft"],
    "plugins": ["plugins", "plugins t.ship recipe.yaml", "plugins data --check"],
    "plugin new": ["plugin new json_example"],
    "review --status": ["review rows --status"],
}


def _tables() -> Mapping[str, list[dict[str, bool]]]:
    """Command → the tables of its section: field → whether it is on every line."""
    found = {}
    for section in PAGE.read_text("utf-8").split("\n## `finery ")[1:]:
        tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
        heads = ["".join(re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)) for table in tables]
        fields = [re.findall(r"(?:`(\w+)`|(…))(\??)", head) for head in heads]
        found[section.partition("`")[0]] = [
            {a or b: not mark for a, b, mark in of} for of in fields
        ]
    return found


def _fits(line: Mapping[str, Any], table: Mapping[str, bool]) -> bool:
    required = {name for name, always in table.items() if always}
    return required <= line.keys() and ("…" in table or line.keys() <= table.keys())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A built and committed project, whose matrix has one variant built."""
    t = Project(tmp_path_factory.mktemp("json"))
    t.write(files(6, RECIPE))
    commit(t.folder)
    t.ran()
    assert t.run("export", "sft", "--bundle", "given.tar").code == 0
    t.env["FINERY_REMOTE"] = (t.folder / "shared").as_uri()
    return t


@pytest.mark.parametrize("command", CALLS)
def test_the_fields_of_a_command_are_documented(project: Project, command: str) -> None:
    tables = _tables()[command]
    unused = [*tables]
    for call in CALLS[command]:
        ran = project.run(*call.split(), "--json")
        assert ran.out, ran.err
        for line in map(json.loads, ran.out.splitlines()):
            fitting = [table for table in tables if _fits(line, table)]
            assert fitting, line
            unused = [table for table in unused if table not in fitting]
    if command != "check":  # --deep needs a tokenizer; its fields are those of a class
        assert not unused, "no line has these fields"


def test_the_fields_of_a_deep_check_are_documented() -> None:
    from finery.preflight.report import Proof

    assert {*_tables()["check"][1]} == {"step", "use", *Proof.__struct_fields__}


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            inner = _commands(command, click.Context(command, parent=context))
            yield from ((f"{name} {child}", of) for child, of in inner)
        else:
            yield name, command


def test_every_command_that_prints_results_has_json_and_is_on_the_page() -> None:
    page = PAGE.read_text("utf-8")
    for name, command in _commands(cli, click.Context(cli)):
        has_json = any(option.name == "as_json" for option in command.params)
        assert has_json != (name in DOCUMENTS), name
        assert f"`finery {name}" in page, name
