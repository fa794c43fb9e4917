"""The pages of the Python API: signatures and docstrings as plain Markdown, which terminals and
agents can read, too. `python.yaml` says which names are on which page.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import yaml

ROOT = Path(__file__).parents[1]
LONGEST_VALUE = 100
"""Characters of a value that is shown."""
NAME = r"(?!default:)[a-z]\w*(?:, [a-z]\w*)*(?: \([^)]*\))?: "
"""How a paragraph begins that describes parameters or fields: `rows: how many. share: 0 to 1.`"""
FIELD_START = re.compile(rf"(?:^|(?<=[.;]\s))(?={NAME})")


def pages() -> dict[str, str]:
    """Name of a page → its text. Raises `SystemExit` for names without a docstring."""
    listed = yaml.safe_load((ROOT / "docs" / "python.yaml").read_text("utf-8"))
    loader = griffe.GriffeLoader(search_paths=[ROOT / "core", ROOT / "plugins"])
    for package in ("finery", "finery_baseline", "finery_eval", "finery_synth"):
        loader.load(package)
    loader.resolve_aliases(implicit=True, external=False)
    texts, bare = dict[str, str](), list[str]()
    for page, about in listed.items():
        parts = [f"# {about['title']}", about["text"]]
        for heading, names in about["groups"].items():
            parts.append(f"## {heading}")
            for name in names:
                path = ".".join(filter(None, [about["package"], name]))
                thing = loader.modules_collection[path]
                thing = thing.final_target if thing.is_alias else thing
                if not thing.docstring:
                    bare.append(path)
                parts += [f"### `{path}`", *_described(thing)]
        texts[page] = _formatted("\n\n".join(parts) + "\n")
    if bare:
        raise SystemExit(f"public names without a docstring: {', '.join(bare)}")
    return texts


def _formatted(page: str) -> str:
    """A page whose code is laid out as `make format` does it."""
    ruff = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(ROOT / "docs/page.md")]
    return subprocess.run(ruff, input=page, text=True, capture_output=True, check=True).stdout


def _described(thing: Any) -> Iterator[str]:
    """The signature of a name, its docstring, and the methods of a class."""
    yield _code(_signature(thing))
    yield from _documented(thing)
    if not thing.is_class:
        return
    for name, member in thing.members.items():
        if name.startswith("_") or member.is_alias:
            continue
        if member.is_function:
            yield f"#### `{name}`"
            yield _code(_signature(member))
            yield from _documented(member)
        elif member.is_attribute and member.docstring:
            yield f"#### `{name}`"
            yield _code(_assigned(member))
            yield from _documented(member)


def _signature(thing: Any) -> str:
    if thing.is_attribute:
        return _assigned(thing)
    if thing.is_function:
        return "\n".join([*_decorators(thing), _call(f"def {thing.name}", thing)])
    bases = ", ".join(map(str, thing.bases))
    head = f"class {thing.name}({bases}):" if bases else f"class {thing.name}:"
    fields = [
        f"    {_assigned(member)}"
        for name, member in thing.members.items()
        if member.is_attribute and not name.startswith("_") and not member.docstring
        if member.annotation is not None
    ]
    made = thing.members.get("__init__")
    init = [f"    {_call('def __init__', made)}"] if made else []
    return "\n".join([head, *(fields + init or ["    ..."])])


def _decorators(function: Any) -> list[str]:
    kinds = ("property", "staticmethod", "classmethod", "contextmanager", "cached_property")
    texts = [str(each.value) for each in function.decorators]
    return [f"@{text}" for text in texts if text in kinds]


def _call(name: str, function: Any) -> str:
    parameters, is_keyword = list[str](), False
    for parameter in function.parameters:
        kind = parameter.kind.value
        if kind == "keyword-only" and not is_keyword:
            parameters.append("*")
        is_keyword |= kind in ("keyword-only", "variadic positional")
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        annotation = f": {parameter.annotation}" if parameter.annotation is not None else ""
        is_given = parameter.default is not None and not stars
        default = f" = {parameter.default}" if is_given else ""
        parameters.append(f"{stars}{parameter.name}{annotation}{default}")
    returns = f" -> {function.returns}" if function.returns is not None else ""
    return f"{name}({', '.join(parameters)}){returns}: ..."


def _assigned(attribute: Any) -> str:
    annotation = f": {attribute.annotation}" if attribute.annotation is not None else ""
    value = f" = {attribute.value}" if attribute.value is not None else ""
    if len(value) > LONGEST_VALUE:
        value = "" if annotation else " = ..."
    return f"{attribute.name}{annotation}{value}"


def _documented(thing: Any) -> Iterator[str]:
    """The paragraphs of a docstring; those about fields as lists."""
    made = thing.members.get("__init__") if thing.is_class else None
    for each in (thing, made):
        if each is None or not each.docstring:
            continue
        for part in re.split(r"\n\s*\n", each.docstring.value):
            yield _listed(part)


def _listed(paragraph: str) -> str:
    if not re.match(NAME, paragraph):
        return paragraph
    fields = [f.strip() for f in FIELD_START.split(" ".join(paragraph.split())) if f.strip()]
    return "\n".join(f"- **{name}**: {text}" for name, text in (f.split(": ", 1) for f in fields))


def _code(text: str) -> str:
    return f"```python\n{text}\n```"
