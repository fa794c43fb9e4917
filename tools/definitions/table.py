"""The table: what each step type, engine and public module of finery reaches."""

import configparser
import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

from blake3 import blake3

from finery import Step
from finery.advanced import load_plugins
from finery.artifact.kinds import Bundle, Dataset, Index, Metrics, Model
from finery.util.references import OUTSIDE_KEY_MARK
from tools.definitions.parse import IMPORT, Piece
from tools.definitions.reach import Reach
from tools.definitions.refused import Refusal, refused_on_import
from tools.definitions.sources import KIT, Node, Sources

FORMAT = 1
DIGITS = 16
"""Hex digits of the digest of a file's definitions. Half as many suffice for one definition."""
NAMING = ("cache_key", "statistics")
"""Methods that name more code of a step."""


class Refused(Exception):
    """What can't be followed."""

    def __init__(self, refusals: list[Refusal]) -> None:
        super().__init__("\n".join(map(str, refusals)))
        self.refusals = refusals


def subjects(sources: Sources) -> dict[str, list[Node]]:
    """Subject → the definitions it starts at."""
    plugins = load_plugins()
    own = {top for module in sources.modules if (top := module.partition(".")[0]) != "finery"}

    def is_own(provided: tuple[Any, Any]) -> bool:
        return provided[1].module.__name__.partition(".")[0] in own

    objects: list[Any] = [
        *(plugins.step_type(use) for use, given in plugins.step_types.items() if is_own(given)),
        *(plugins.engine(name) for name, given in plugins.engines.items() if is_own(given)),
        *(f for k in (Dataset, Model, Metrics, Bundle, Index) for f in (*k.written_by, *k.read_by)),
        *(
            hook.function
            for hook in plugins.hook.finery_run_step.get_hookimpls()
            if hook.plugin.__name__ in own and not hasattr(hook.function, OUTSIDE_KEY_MARK)
        ),
        *(given[0].partition(":")[0] for given in plugins.servers.values() if is_own(given)),
        *_named(sources),
    ]  # fmt: skip
    starts: dict[str, list[Node]] = {}
    for each in objects:
        if isinstance(each, str):
            starts[f"module:{each}"] = [*sources.everything(each)]
        else:
            node = Node(each.__module__, each.__qualname__.partition(".")[0])
            starts[f"{each.__module__}:{each.__qualname__}"] = [node]
    return starts


def _named(sources: Sources) -> Iterator[Any]:
    """Functions, classes and modules that a method in `NAMING` of any class names."""
    for module in sources.modules:
        for unit in sources.read(module).units.values():
            for piece in unit.pieces:
                if piece.name.partition(".")[2] in NAMING:
                    ends = (sources.ends(module, r, piece.imports) for _, r in piece.reads)
                    nodes = (end for each in ends for end in each if isinstance(end, Node))
                    for node in nodes:
                        yield from _code(getattr(import_module(node.module), node.unit), sources)


def _code(value: Any, sources: Sources) -> Iterator[Any]:
    match value:
        case Mapping():
            for each in value.values():
                yield from _code(each, sources)
        case FunctionType() | type() if value.__module__ in sources.modules:
            if not (hasattr(value, OUTSIDE_KEY_MARK) or isinstance(value, type(Step))):
                yield value
        case str() if value in sources.modules:
            yield value


def public_modules(sources: Sources, root: Path) -> Iterator[tuple[str, list[Node]]]:
    """The modules that plugins may import: see .importlinter and `KIT`."""
    linter = configparser.ConfigParser()
    linter.read(root / ".importlinter")
    allowed = linter["importlinter:contract:plugins"]["ignore_imports"].split("\n")
    names = {line.removeprefix("** -> ") for line in (*allowed, *KIT, *(f"{k}.**" for k in KIT))}
    below = tuple(name.removesuffix("**") for name in names if name.endswith(".**"))
    for module in sources.modules:
        if module in names or module.startswith(below):
            yield f"module:{module}", [*sources.everything(module)]


def table(root: Path) -> str:
    """The table as JSON, with a line for each file and subject. Raises `Refused`."""
    sources = Sources(root)
    refused = dict.fromkeys(refused_on_import(sources))
    found: dict[str, dict[str, str]] = {}
    definitions: dict[str, dict[str, str]] = {}
    names: dict[str, list[str]] = {}
    named = subjects(sources)
    public = {n: nodes for n, nodes in public_modules(sources, root) if n not in named}
    for subject, nodes in sorted({**named, **public}.items()):
        reach = Reach(sources, nodes, by_others=subject.startswith("module:"))
        refused |= reach.refused
        found[subject] = {label: sources.digest(label)[:DIGITS] for label in reach.data}
        for label, pieces in reach.files().items():
            counted = _digests(pieces)
            code = [label, found[subject].get(label), *((p.name, p.digest) for p in pieces)]
            digest = _digest(json.dumps(code))
            found[subject][label] = digest
            if subject in public:  # its definitions are of no use to `finery explain`
                continue
            names[digest] = [name for name in counted if not name.startswith(IMPORT)]
            definitions.setdefault(label, {}).update((n, counted[n]) for n in names[digest])
    if refused:
        raise Refused([*refused])
    parts: dict[str, Mapping[str, Any]] = {
        "files": {label: sources.digest(label) for label in sources.files},
        "subjects": found, "definitions": definitions, "names": names,
    }  # fmt: skip
    lines = [f'{{"format":{FORMAT}']
    for part, entries in parts.items():
        rows = ",\n".join(f"{json.dumps(k)}:{_json(v)}" for k, v in sorted(entries.items()))
        lines.append(f'"{part}":{{\n{rows}\n}}')
    return ",\n".join(lines) + "}\n"


def _digests(pieces: list[Piece]) -> dict[str, str]:
    """Definition → its digest; of several statements with one name, of all."""
    digests: dict[str, str] = {}
    for piece in pieces:
        digests[piece.name] = digests.get(piece.name, "") + piece.digest
    return {name: _digest(digest)[: DIGITS // 2] for name, digest in digests.items()}


def _digest(text: str) -> str:
    return blake3(text.encode()).hexdigest()[:DIGITS]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
