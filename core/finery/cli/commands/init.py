"""`finery init`: a folder with a working recipe to start from."""

import importlib.util
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from finery.cli import columns
from finery.cli.commands.scaffold import filled, refuse_existing, template, write_texts, writing
from finery.cli.console import print_result
from finery.cli.options import json_option
from finery.errors import UsageError, installing
from finery.util.paths import shown
from finery.util.text import counted, some_of, visible

TASKS = {
    "classification": "A small model that classifies texts.",
    "extraction": "A small model that turns a text into JSON.",
    "chat": "A small model that answers in the tone of example conversations.",
}
SAMPLE_COLUMNS = {
    "classification": {
        "system": '"Name the intent of this message to a bakery: order, question or complaint."',
        "user": '"{{ text }}"',
        "assistant": '"{{ intent }}"',
    },
    "extraction": {
        "system": '"Turn this message to a restaurant into JSON: name, people, day."',
        "user": '"{{ text }}"',
        "assistant": """'{"name": "{{ name }}", "people": {{ people }}, "day": "{{ day }}"}'""",
    },
    "chat": {},
}
"""Templates over the columns of the sample data, as YAML."""
NO_TEXTS = ("null", "true", "false")
"""Words that YAML doesn't read as texts."""
LISTED = 5
"""Rows that a note names."""


@click.command("init")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=".")
@click.option(
    "--task", type=click.Choice(list(TASKS)),
    help="What the model is for. [default: guessed from --data]",
)  # fmt: skip
@click.option(
    "--data", type=click.Path(path_type=Path, dir_okay=False),
    help="Your own rows instead of sample data; copied to DIR/data/.",
)  # fmt: skip
@click.option("--prompt", metavar="COLUMN", help="The column of --data with the prompt.")
@click.option(
    "--answer", "answers", metavar="COLUMN", multiple=True,
    help="The column of --data with the answer. Several make a JSON answer with these fields.",
)  # fmt: skip
@click.option(
    "--no-llm", is_flag=True,
    help="Train no language model, but classifiers on words and on an encoder.",
)  # fmt: skip
@click.option("--name", help="The recipe's name. [default: the folder's]")
@json_option
def command(
    folder: Path, task: str | None, data: Path | None, prompt: str | None,
    answers: tuple[str, ...], no_llm: bool, name: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Create a working recipe in DIR, with data and a README. Overwrites no file."""
    if data is None and (prompt or answers):
        raise UsageError("--prompt and --answer name columns of --data", fix="add --data FILE")
    from finery.recipe.validate import is_name

    if name and not is_name(name):
        raise UsageError(
            f"a recipe can't be named '{name}'", where="--name", fix="use letters, digits, - and _"
        )
    # The folder's name, reduced to the characters that a recipe's name can have.
    words = "-".join(re.findall(r"[A-Za-z0-9_]+", folder.resolve().name))
    name = name or words.lstrip("_")[:100] or "model"
    rows, facts, encoding = columns.first_rows(data) if data is not None else ([], "", "")
    named_columns = (
        columns.columns_of(data, prompt, answers, rows, task) if data is not None else None
    )
    guess = columns.task_of(rows, named_columns) if rows else next(iter(TASKS))
    task = task or (guess if as_json else _chosen(guess, is_guess=bool(rows)))
    if task != "chat" and columns.has_tools(rows):
        raise UsageError(
            "the rows contain tool calls, which only the task `chat` supports",
            where="--task",
            fix="write --task chat",
        )
    if len(answers) > 1 and task != "extraction":
        raise UsageError(
            "several columns make a JSON answer, which only the task `extraction` has",
            where="--answer",
            fix="write --task extraction, or name one column",
        )
    if no_llm and task != "classification":
        fix = "write --task classification, or leave --no-llm out"
        raise UsageError(f"the task `{task}` needs a language model", where="--no-llm", fix=fix)
    if data is None:
        source: Any = next((template(task) / "data").iterdir())
        rows, facts, encoding = columns.first_rows(source)
        named_columns = columns.columns_of(source, None, (), rows, task)
        file, templates = f"data/{source.name}", SAMPLE_COLUMNS[task]
    else:
        source, path, root = data, data.resolve(), folder.resolve()
        is_inside = path.is_relative_to(root)
        file = path.relative_to(root).as_posix() if is_inside else f"data/{data.name}"
        named_columns = columns.text_columns(named_columns, task, rows)
        templates = columns.templates_for(named_columns, task, rows, data)
    have_encoders = all(map(importlib.util.find_spec, ("torch", "sentence_transformers")))
    expected = columns.answers_of(rows, named_columns)
    empty = columns.empty_rows(source, encoding, named_columns) if data is not None else []
    texts = {
        "recipe.yaml": filled(
            template(task) / "recipe.yaml",
            name=_quoted(name),
            path=_quoted(file),
            encoding=encoding,
            columns=templates,
            empty=some_of(empty, LISTED),
            own=data is not None,
            objects=task == "extraction" and columns.are_objects(expected),
            max_tokens=columns.limit_of(expected),
            max_words=columns.words_of(expected),
            ending=_quoted(columns.ending_of(expected)),
            tools=columns.has_tools(rows),
            llm=not no_llm,
            encoder=no_llm or (data is not None and have_encoders),
        ),
        "README.md": filled(template("README.md"), name=name, about=TASKS[task], file=file),
        ".gitignore": template("gitignore").read_text(encoding="utf-8"),
    }
    is_copied = not (isinstance(source, Path) and source.resolve() == (folder / file).resolve())
    refuse_existing(folder, [*texts, *([file] if is_copied else [])], "init")
    with writing(folder):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if is_copied:
            with source.open("rb") as read, (folder / file).open("xb") as out:
                shutil.copyfileobj(read, out)
        write_texts(folder, texts)
    is_labelled = data is not None and task == "classification"
    typos = columns.misspelt_labels(rows, named_columns) if is_labelled else {}
    notes = [visible(line) for line in _notes(file, facts, encoding, empty, typos)]
    for line in notes:
        click.echo(line, err=as_json)
    names = [*texts, file]
    lines = [f"{click.style(shown(folder), bold=True)}: {', '.join(names)}", ""]
    lines += [] if folder.resolve() == Path.cwd() else [f"  cd {shlex.quote(shown(folder))}"]
    minutes = (
        "   # about three minutes on two processor cores" if data is None and not no_llm else ""
    )
    lines += ["  finery check", f"  finery build{minutes}"]
    if importlib.util.find_spec("torch") is None:
        lines += ["", installing("Training needs more packages: pip install 'finery[train,gguf]'")]
    made = {"folder": str(folder), "files": names, "name": name, "task": task, "notes": notes}
    print_result(made, "\n".join(lines), as_json=as_json)


def _notes(
    file: str, facts: str, encoding: str, empty: Sequence[str], typos: Mapping[str, str]
) -> Iterator[str]:
    """Lines about what is unusual in the file, and what the recipe does about it."""
    if encoding:
        yield from f"{file}: {facts}".replace("; as ", "\n  as ").split("\n")
        yield f"  the recipe has `encoding: {encoding}`: change it if that is wrong"
    if empty:
        rows = f"{counted(len(empty), 'row')} without a prompt or an answer"
        yield f"{file}: {rows}: {some_of(empty, LISTED)}"
        yield "  the recipe skips such rows (`bad_rows: skip`); to keep them, fill them in"
    merged, other = list[str](), list[str]()
    for label, right in typos.items():
        pairs = merged if columns.differ_in_case(label, right) else other
        pairs.append(f"{label!r} for {right!r}")
    if merged:
        yield f"{file}: labels that differ only in case or spaces: {', '.join(merged)}"
        yield "  the recipe merges them in `assistant`; remove those that are right from there"
    if other:
        yield f"{file}: labels that look misspelt: {', '.join(other)}"
        yield "  correct them in the file; if they are right, add them to `system` in the recipe"


def _chosen(default: str, *, is_guess: bool) -> str:
    """The default if rows suggest it (`is_guess`); else the task, prompted for on a terminal."""
    if is_guess:
        click.echo(f"task: {default}, by the answers in the data; --task NAME takes another")
    if is_guess or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return default
    for task, about in TASKS.items():
        click.echo(f"  {task:<16} {about}")
    chosen: str = click.prompt("Task", type=click.Choice(list(TASKS)), default=default)
    return chosen


def _quoted(text: str) -> str:
    """A text in YAML, with quotes if it would otherwise be another value, such as 2024."""
    is_plain = re.fullmatch(r"[A-Za-z][\w./-]*", text) and text.lower() not in NO_TEXTS
    return text if is_plain else json.dumps(text, ensure_ascii=False)
