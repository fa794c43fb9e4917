"""The documents hold what the code does: generated pages are fresh, examples run."""

import inspect
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import MakeProject, Project, Ran

from finery.plugin import hookspecs as hooks

ROOT = Path(__file__).parent.parent
HOWTO = ROOT / "docs" / "howto"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def test_generated_pages_are_fresh() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_schemas_are_fresh() -> None:
    finery = Path(sys.executable).with_name("finery")
    ran = subprocess.run(
        [finery, "schema", "--all", ROOT / "schemas", "--check"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


def test_every_hook_is_documented_with_its_signature() -> None:
    text = (HOWTO / "plugins-engines.md").read_text("utf-8")
    for name, spec in vars(hooks).items():
        if name.startswith("finery_"):
            arguments = ", ".join(inspect.signature(spec).parameters)
            assert f"`{name}({arguments})`" in text


@pytest.fixture
def example(project: MakeProject) -> Callable[[str], Project]:
    """A project of the files that a page shows, each behind its name in a line of its own."""

    def make(name: str) -> Project:
        page = (HOWTO / name).read_text("utf-8")
        files = re.findall(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)```", page, re.DOTALL | re.MULTILINE)
        assert files
        return project(dict(files))

    return make


@pytest.mark.parametrize("page", ["plugins.md", "plugins-models.md", "plugins-engines.md"])
def test_the_example_of_a_page_runs_as_shown(example: Callable[[str], Project], page: str) -> None:
    """Every line below a `$ command` is in what it prints, in this order; `…` is anything."""
    made = example(page)
    for block in _blocks(HOWTO / page, "console"):
        for command, *shown in (part.splitlines() for part in block.split("$ ")[1:]):
            ran = _run(made, command)
            rest = " ".join(f"{ran.out}\n{ran.err}".split())
            for line in shown:
                parts = [re.escape(" ".join(part.split())) for part in line.split("…")]
                found = re.search(".*?".join(parts), rest)
                assert found, f"$ {command}\n{line}\n\n{ran.out}{ran.err}"
                rest = rest[found.end() :]
            assert (ran.code == 0) != any("error:" in line for line in shown), ran.err


def _run(made: Project, command: str) -> Ran:
    """Run a command as a page shows it: `finery …` or `python …`, behind variables."""
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        made.env[name] = value
    if words[0] == "finery":
        return made.run(*words[1:])
    assert words[0] == "python", command
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=made.folder, env=made.environment(),
        capture_output=True, text=True,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_recipe_is_fine(project: MakeProject) -> None:
    recipe = _blocks(ROOT / "README.md", "yaml")[0]
    made = project({"recipe.yaml": recipe, "data/tickets.jsonl": "{}\n"})
    ran = made.run("check")
    assert ran.code == 0, ran.err


def test_the_recipes_of_the_generation_page_are_fine(project: MakeProject) -> None:
    recipe, wordings, checks, *sections = _blocks(HOWTO / "synthetic-data.md", "yaml")
    whole = yaml.safe_load(recipe)
    whole["models"]["base"] = {"use": "hub.model", "repo": "Qwen/Qwen3-4B"}
    whole["train"] = {"sft": {"use": "trl.sft", "model": "base", "rows": "split.train"}}
    for fragment in sections:
        for section, steps in yaml.safe_load(fragment).items():
            whole[section] = steps if isinstance(steps, list) else whole[section] | steps
    own = yaml.safe_load(wordings)["wordings"] | {"rows": "split.train"}
    spelt = checks.replace("on: answer", '"on": answer')  # which PyYAML alone takes for true
    checked = {"use": "synth.answer", "rows": "split.train", "model": "teacher"}
    whole["generate"] |= {"own": own, "checked": checked | yaml.safe_load(spelt)}
    files = {
        "data/tickets.jsonl": "{}\n", "schemas/ticket.json": "{}", "schemas/shop.sql": "",
        "prompts/paraphrase.jinja": "{{ user }}", "checks.py": "",
        "mine.py": _blocks(HOWTO / "synthetic-data.md", "python")[-1],
        "handbook/a.md": "# A\n\nText.",
    }  # fmt: skip
    made = project({"recipe.yaml": json.dumps(whole), **files})
    ran = made.run("check")
    assert ran.code == 0, ran.err


def test_the_readme_plugin_works(project: MakeProject) -> None:
    rows = '{"prompt": "a", "completion": "short"}\n{"prompt": "b", "completion": "%s"}\n'
    made = project(
        {
            "recipe.yaml": "finery: 1\nname: t\nplugins: [./checks.py]\ndata:\n"
            "  rows: {use: data.file, path: rows.jsonl, format: completion}\n"
            "  long: {use: checks.min_length, rows: rows}\n",
            "rows.jsonl": rows % ("x" * 40),
            "checks.py": _blocks(ROOT / "README.md", "python")[0],
        }
    )
    assert made.ran() == ["long", "rows"]
    assert len(made.rows("long")) == 1


def test_the_recipes_of_the_data_page_are_fine(project: MakeProject) -> None:
    for recipe in _blocks(HOWTO / "data.md", "yaml"):
        head = "finery: 1\nname: t\nsilence: [unset-variable]\n"
        made = project({"recipe.yaml": head + recipe})
        made.write({"data/tickets.jsonl": "{}\n", "data/banking.csv": "text,intent\n"})
        ran = made.run("check")
        assert (ran.code, ran.err) == (0, ""), recipe
        assert "note:" not in ran.out
