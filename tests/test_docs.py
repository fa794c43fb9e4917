"""The documents say what the code does: generated pages are fresh, examples run."""

import ast
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import MakeProject, Project, Ran

import finery
import finery.advanced
import finery.rows
import finery.rows.dropped
import finery.rows.report
import finery.testing
import finery.views
from finery import errors
from finery.plugin import hookspecs as hooks
from finery.util.references import load_reference

ROOT = Path(__file__).parent.parent
HOWTO = ROOT / "docs" / "howto"
REFERENCE = ROOT / "docs" / "reference"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


ALPACA = '{"instruction": "Label this.", "input": "Where is my card?", "output": "shipping"}\n'
LABELLED = '{"prompt": "Where is my card?", "completion": "shipping", "label": "shipping"}\n'


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
    text = (REFERENCE / "hooks.md").read_text("utf-8")
    for name, spec in vars(hooks).items():
        if name.startswith("finery_"):
            arguments = ", ".join(inspect.signature(spec).parameters)
            assert f"`{name}({arguments})`" in text


@pytest.fixture
def example(project: MakeProject) -> Callable[[str], Project]:
    """A project of the files that a page shows, each after a line with its name."""

    def make(name: str) -> Project:
        page = (HOWTO / name).read_text("utf-8")
        files = re.findall(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)```", page, re.DOTALL | re.MULTILINE)
        assert files
        return project(dict(files))

    return make


@pytest.mark.parametrize(
    "page", ["plugins.md", "plugins-models.md", "plugins-examples.md", "plugins-engines.md"]
)
def test_the_example_of_a_page_runs_as_shown(example: Callable[[str], Project], page: str) -> None:
    made = example(page)
    for command, shown in _commands(HOWTO / page):
        _run_as_shown(made, command, shown)


def _commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each `$ command` of a page with the lines that it shows below."""
    for block in _blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            yield command, shown


def _run_as_shown(made: Project, command: str, shown: list[str]) -> None:
    """Every line that is shown must be in the output, in this order; `…` is anything."""
    ran = _run(made, command)
    rest = " ".join(f"{ran.out}\n{ran.err}".split())
    for line in shown:
        parts = [re.escape(" ".join(part.split())) for part in line.split("…")]
        found = re.search(".*?".join(parts), rest)
        assert found, f"$ {command}\n{line}\n\n{ran.out}{ran.err}"
        rest = rest[found.end() :]
    assert (ran.code == 0) != any("error:" in line for line in shown), ran.err


def _run(made: Project, command: str) -> Ran:
    """Run a command as a page shows it: `finery …` or `python …`, after variables."""
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


def test_the_site_loads_nothing_from_elsewhere() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    assert site["theme"]["font"] is False
    assert not [name for name in site["extra_css"] if "//" in name]
    assert "extra_javascript" not in site
    assert "repo_url" not in site  # the theme asks its host for the number of stars
    for page in PAGES:
        assert not re.search(r"!\[[^]]*\]\(\w+://|```mermaid", page.read_text("utf-8")), page


def test_every_public_name_is_on_the_page_of_the_python_api() -> None:
    pages = "".join(page.read_text("utf-8") for page in REFERENCE.glob("python*.md"))
    shown = re.findall(r"^### `(.+)`$", pages, re.MULTILINE)
    packages = (finery, finery.advanced, finery.rows, finery.testing)
    public = {f"{p.__name__}.{name}" for p in packages for name in p.__all__}
    views = ast.parse(Path(str(finery.views.__file__)).read_text("utf-8")).body
    public |= {
        f"finery.views.{alias.asname}"
        for node in views
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    of_modules = (
        "finery.rows.report.",
        "finery.rows.dropped.",
        "finery_eval.",
        "finery_synth.",
        "finery_baseline.",
    )
    named = {name for name in shown if name.startswith(of_modules)}
    assert all(load_reference(":".join(name.rsplit(".", 1))) for name in named)
    assert sorted(name for name in shown if name not in named) == sorted(public)


@cache
def _texts() -> list[str]:
    """Every text in the source; a value in an f-string or a template is `…`."""
    found = []
    for folder in ("core", "plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                    found.append("".join(str(part) for part in parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value.replace("{}", "…"))
    return found


QUOTED = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "errors.md").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("message", QUOTED)
def test_an_explained_error_is_in_the_source(message: str) -> None:
    if not any(message in text for text in _texts()):
        near = get_close_matches(message, _texts(), n=3, cutoff=0.4)
        pytest.fail(f"docs/errors.md quotes a message that has changed, perhaps to one of {near}")


QUICK = ("finery init", "finery check", "finery plan")


@pytest.mark.parametrize(("quick", "count"), [
    (QUICK, 4),
    # These need an encoder, for the audit.
    pytest.param((*QUICK, "finery build --step", "finery show split"), 6, marks=pytest.mark.slow),
])  # fmt: skip
def test_the_quick_commands_of_the_tutorial_run_as_shown(
    quick: tuple[str, ...], count: int, project: MakeProject
) -> None:
    tutorial = ROOT / "docs" / "tutorial"
    made = project({})
    shutil.copy(tutorial / "messages.csv", made.folder)
    ran = 0
    for command, shown in _commands(tutorial / "index.md"):
        if command == "cd support":
            made = Project(made.folder / "support")
        elif command.startswith(quick) and "--deep" not in command:
            _run_as_shown(made, command, shown)
            ran += 1
    assert ran == count


def test_the_readme_says_how_to_begin(project: MakeProject) -> None:
    (command,) = [c for c, _ in _commands(ROOT / "README.md") if c.startswith("finery init")]
    made = project({})
    assert made.run(*shlex.split(command)[1:]).code == 0
    ran = Project(made.folder / "my-task").run("check")
    assert ran.code == 0, ran.err


SECTIONS = {
    "hub": "models", "prompt": "models", "data": "data", "trl": "train", "eval": "evaluate",
    "gguf": "export", "ollama": "export",
}  # fmt: skip
DEFAULTS = {
    "models": {
        "base": {"use": "hub.model", "repo": "Qwen/Qwen3-4B"},
        "prompted": {"use": "prompt.model", "model": "base", "system": "Answer."},
    },
    "data": {
        "rows": {"use": "data.file", "path": "data/rows.jsonl", "format": "completion"},
        "split": {"use": "data.split", "rows": "rows"},
    },
    "train": {"sft": {"use": "trl.sft", "model": "base", "rows": "split.train"}},
}


@pytest.mark.parametrize(
    "page",
    [
        "classification", "evaluate-conversations", "extraction", "house-style", "ollama",
        "quantise", "report", "resume", "retrieval", "sql",
    ],
)  # fmt: skip
def test_the_recipe_that_a_page_builds_up_is_fine(project: MakeProject, page: str) -> None:
    whole = _together(HOWTO / f"{page}.md")
    made = project({"recipe.yaml": json.dumps(whole)})
    made.write({"data/schema.json": "{}", "data/schema.sql": "CREATE TABLE orders (id);"})
    made.write({"shop.py": "class Shop: ..."})
    made.write({step["path"]: _file(step) for step in whole["data"].values() if "path" in step})
    ran = made.run("check")
    assert (ran.code, ran.err) == (0, "")


def test_the_recipe_of_the_page_on_training_with_documents_is_fine(project: MakeProject) -> None:
    page = HOWTO / "retrieval-training.md"
    whole = _together(page)
    whole["silence"] = ["epochs", "unset-variable"]
    del whole["data"]["rows"]  # of other pages
    made = project({"recipe.yaml": json.dumps(whole), "handbook/limits.md": "# Limits\n\n50 MB."})
    (questions,) = re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    made.write({whole["data"]["written"]["path"]: questions})
    ran = made.run("check")
    assert (ran.code, ran.err) == (0, "")


def _together(page: Path) -> dict[str, Any]:
    """One recipe of all fragments of a page, over what they take for granted."""
    whole: dict[str, Any] = {"finery": 1, "name": "t", "silence": ["epochs"]}
    whole |= {section: dict(steps) for section, steps in DEFAULTS.items()}
    for block in _blocks(page, "yaml"):
        block = re.sub(r"(\d)e-", r"\1.0e-", block)  # PyYAML reads 5e-5 as text
        for name, value in yaml.safe_load(block).items():
            if isinstance(value, dict) and "use" in value:
                section = SECTIONS[value["use"].partition(".")[0]]
                whole.setdefault(section, {})[name] = value
            elif isinstance(value, dict):
                whole.setdefault(name, {}).update(value)
    return whole


def _file(step: dict[str, Any]) -> str:
    """A file with the columns that a `data.file` step reads."""
    columns = ["prompt", "chosen", "rejected", "completion"]
    for template in step.get("columns", {}).values():
        columns += re.findall(r"\{\{ (\w+) \}\}", template)
    if step["path"].endswith(".csv"):
        return f"{','.join(columns)}\n{','.join(columns)}\n"
    others = {"completion"} if step.get("format") == "preference" else {"chosen", "rejected"}
    return json.dumps({name: name for name in columns if name not in others}) + "\n"


def test_the_recipe_of_the_readme_is_that_of_the_quickstart(project: MakeProject) -> None:
    made = project({})
    assert made.run("init", "quickstart", "--task", "classification").code == 0
    written = (made.folder / "quickstart/recipe.yaml").read_text(encoding="utf-8")
    (shown, *_) = _blocks(ROOT / "README.md", "yaml")
    assert yaml.safe_load(shown) == yaml.safe_load(written)


def test_the_recipes_of_the_generation_page_are_fine(project: MakeProject) -> None:
    recipe, checks, wordings, *sections = _blocks(HOWTO / "synthetic-data.md", "yaml")
    whole = yaml.safe_load(recipe)
    whole["models"]["base"] = {"use": "hub.model", "repo": "Qwen/Qwen3-4B"}
    whole["train"] = {"sft": {"use": "trl.sft", "model": "base", "rows": "split.train"}}
    for fragment in sections:
        for section, steps in yaml.safe_load(fragment).items():
            whole[section] = steps if isinstance(steps, list) else whole[section] | steps
    own = yaml.safe_load(wordings)["wordings"] | {"rows": "split.train"}
    spelt = checks.replace("on: answer", '"on": answer')  # PyYAML reads `on` as true
    checked = {"use": "synth.answer", "rows": "split.train", "model": "teacher"}
    whole["generate"] |= {"own": own, "checked": checked | yaml.safe_load(spelt)}
    files = {
        "data/tickets.jsonl": LABELLED, "schemas/ticket.json": "{}", "schemas/shop.sql": "",
        "prompts/paraphrase.jinja": "{{ user }}", "checks.py": "",
        "mine.py": _blocks(HOWTO / "synthetic-data.md", "python")[-1],
        "handbook/a.md": "# A\n\nText.",
    }  # fmt: skip
    made = project({"recipe.yaml": json.dumps(whole), **files})
    ran = made.run("check")
    assert ran.code == 0, ran.err


def test_the_recipes_of_the_data_page_are_fine(project: MakeProject) -> None:
    for recipe in _blocks(HOWTO / "data.md", "yaml"):
        head = "finery: 1\nname: t\nsilence: [unset-variable]\n"
        made = project({"recipe.yaml": head + recipe})
        banking = "text,intent,customer_id\nWhere is my card?,card_arrival,7\n"
        made.write({"data/tickets.jsonl": ALPACA, "data/banking.csv": banking})
        ran = made.run("check")
        assert (ran.code, ran.err) == (0, ""), recipe
        assert "note:" not in ran.out


def test_the_recipe_of_the_decision_page_is_fine(project: MakeProject) -> None:
    (fragment,) = _blocks(HOWTO / "decide.md", "yaml")
    whole = yaml.safe_load(fragment) | {"finery": 1, "name": "t"}
    whole["data"] = {
        "tickets": {"use": "data.file", "path": "tickets.jsonl"},
        "split": {"use": "data.split", "rows": "tickets"},
        "docs": {"use": "docs.files", "path": "handbook"},
        "index": {"use": "retrieve.index", "rows": "docs"},
    }
    whole["train"] = {"sft": {"use": "trl.sft", "model": "base", "rows": "split.train"}}
    files = {"tickets.jsonl": LABELLED, "handbook/a.md": "# A\n\nText."}
    ran = project({"recipe.yaml": json.dumps(whole), **files}).run("check")
    assert ran.code == 0, ran.err


def test_the_table_of_exit_codes_has_every_class_of_error() -> None:
    text = (REFERENCE / "recipe.md").read_text("utf-8").partition("## Exit codes")[2]
    rows = re.findall(r"^\| (\d+) \|.*\| (.*) ?\|$", text, re.MULTILINE)
    assert [code for code, _ in rows] == ["0", "1", "2", "130"]
    named = {name: int(code) for code, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert named == {cls.__name__: cls.exit_code for cls in _subclasses(errors.FineryError)}


def _subclasses(cls: type[errors.FineryError]) -> Iterator[type[errors.FineryError]]:
    """An error class and those below it that finery defines and users can cause."""
    if cls.__module__ == errors.__name__ and not cls.__name__.startswith("_"):
        yield cls
    for child in cls.__subclasses__():
        yield from _subclasses(child)


def test_each_exit_code_is_what_a_command_ends_with(project: MakeProject) -> None:
    steps = "data: {a: {use: steps.source, path: rows.txt}}\n"
    gate = "evaluate: {m: {use: steps.score, rows: a, least: 0.9}}\n"
    made = project({"recipe.yaml": f"finery: 1\nname: t\nplugins: [./steps.py]\n{steps}{gate}"})
    made.write({"rows.txt": "one\n"})
    assert made.run("build", "a").code == 0
    assert made.run("build").code == 1
    assert made.run("plan").code == 0
    assert made.run("build", "--set", "data.a.path=none.txt").code == 2
    assert made.run("build", "nothing").code == 2
