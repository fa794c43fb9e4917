"""What the analysis refuses in code that a step's `run` reaches, since it can't follow it.

Everything else is followed by name. Whoever needs one of these constructs rewrites the code, or
adds it to `EXCEPTIONS` with the reason why the digests cover it nevertheless.
"""

from functools import partial
from typing import NamedTuple

from tools.definitions.parse import Piece, Use
from tools.definitions.sources import End, Node, Sources

EXCEPTIONS = {
    # -- imports of what a setting names ---------------------------------------------------------
    "importlib.import_module": {
        "finery.rows.tables.streams:load_extra": "names libraries",
        "finery_eval.function_host:_factory": "names what `Execute.cache_key` returns",
        "finery_eval.functions:Execute.cache_key": "returns what it imports to the key",
        "finery_hub.client:_limited": "names the HTTP library of huggingface_hub",
        "finery_openai.transport:_httpx": "names the HTTP library of openai",
        "finery_serve.standalone_server:_module": "names a file in its own folder",
        "finery_synth.checks:_module": "names what `Generator.cache_key` names",
    },
    "runpy.run_path": {
        "finery_trl.train.rewards:load_functions": "executes files that are settings",
    },
    # -- what finery itself finds by name --------------------------------------------------------
    "finery.advanced.load_plugins": {
        "finery_retrieve.serve.running:Documents.__init__": "for engines, which are in the key",
        "finery_retrieve.serve.running:_serve_with_api": "for secrets",
        "finery_serve.standalone:StandaloneBundle.check": "for engines; it changes no output",
        "finery_serve.check.answers:ServerQuestions.ask": "for servers, see `Check.cache_key`",
        "finery_trl.train.launch:main": "for the step that is already in the key",
    },
    "pickle.load": {"finery_trl.train.launch:main": "reads what `launch` has written"},
    "pickle.dumps": {"finery_trl.train.launch:launch": "writes what its caller reads by name"},
    '"finery_trl.train.launch"': {
        "finery_trl.train.launch:_command": "is its own module, whose `main` counts",
    },
    '"finery_eval.function_host"': {"finery_eval.functions:HOST": "is in `Execute.cache_key`"},
    # -- objects that aren't code of finery ------------------------------------------------------
    "builtins.vars": {
        "finery_eval.function_host:_state": "of an object of the user",
        "finery_gguf.lora:write_adapter": "of an object of transformers",
        "finery_synth.checks:functions_of": "for an error",
    },
    ".__dict__": {"finery_transformers.hardware:add_facts": "of outputs"},
    "inspect.signature": {
        "finery_trl.train.trainers:_can_choose_logits": "of a model of transformers",
    },
    "sys.modules": {"finery_transformers.hardware:_device": "only whether torch is imported"},
    # -- functions that modules call when they are imported --------------------------------------
    "calls on import": {
        "finery.rows.parts:per_text_setting": "returns a setting",
        "finery_eval.evaluator:longest_answer": "returns a setting",
        "atexit.register": "is for the end of the process",
        "finery_serve.servers:bundles_only": "returns the function with a mark",
        "finery_synth.asking:object_schema": "returns a dictionary",
        "finery_transformers.answering.calls:_reasons": "returns a context manager",
        "finery_advice.notes:note": "fills a table of notes, which no step reads",
        "finery_synth.command:command": "adds to a command line, which no step reads",
    },
}  # fmt: skip
"""Construct → definition that uses it → why the digests of steps cover what it reaches."""
FUNCTIONS = tuple(f"{name}." for name in (
    *(f"builtins.{n}" for n in (
        "__import__", "dir", "eval", "exec", "globals", "locals", "vars",
    )),
    "cloudpickle", "finery.advanced.load_plugins", "finery.load_reference",
    *(f"gc.{n}" for n in ("get_objects", "get_referents", "get_referrers")),
    *(f"importlib.{n}" for n in (
        "import_module", "machinery", "metadata.entry_points", "reload", "util.module_from_spec",
        "util.spec_from_file_location",
    )),
    *(f"inspect.{n}" for n in (
        "currentframe", "findsource", "get_annotations", "getcomments", "getdoc", "getfile",
        "getfullargspec", "getmembers", "getmodule", "getsource", "getsourcelines", "signature",
        "stack", "trace",
    )),
    "dill", "joblib", "linecache", "msgspec.inspect", "msgspec.json.schema",
    "msgspec.json.schema_components", "operator.attrgetter", "operator.methodcaller", "pickle",
    "pkgutil", "pydantic", "runpy", "sys._current_frames", "sys._getframe", "sys.modules",
    "typing.get_type_hints", "unittest.mock",
))  # fmt: skip
"""What reads definitions by a computed name, or their docstrings, hints or source."""
ATTRIBUTES = frozenset({
    "__annotations__", "__closure__", "__code__", "__dict__", "__doc__", "__func__", "__globals__",
    "__subclasses__", "__wrapped__", "f_back", "f_globals", "f_locals", "get_json_schema",
})  # fmt: skip
"""Attributes that do the same."""
PURE = frozenset({
    "abc", "builtins", "click", "collections", "contextlib", "contextvars", "dataclasses", "enum",
    "finery", "functools", "json", "logging", "math", "msgspec", "operator", "os", "pathlib",
    "re", "struct", "threading", "types", "typing", "urllib",
})  # fmt: skip
"""Packages with functions and classes that only return something, but for `EFFECTS`."""
EFFECTS = frozenset({
    *(f"builtins.{n}" for n in ("delattr", "eval", "exec", "open", "print", "setattr")),
    "functools.singledispatch",
})  # fmt: skip
METHODS = frozenset({
    "absolute", "copy", "difference", "encode", "format", "fromkeys", "get", "group",
    "intersection", "isalnum", "items", "join", "keys", "lower", "replace", "setter", "split",
    "splitlines", "strip", "union", "upper", "values", "with_name",
})  # fmt: skip
"""Methods of builtins that only return something."""
CLASS_HOOKS = ("__class_getitem__", "__init_subclass__", "__set_name__", "(metaclass)", "(**)")


class Refusal(NamedTuple):
    """A construct that can't be followed. definition: the one it is in."""

    place: str
    definition: str
    construct: str
    fix: str

    def __str__(self) -> str:
        return f"{self.place}: {self.definition}: {self.construct}\n    {self.fix}"


def refused_in(piece: Piece, node: Node, sources: Sources) -> list[Refusal]:
    """What is refused in a definition that a step reaches."""
    uses = [
        *_reads(piece, node, sources),
        *(
            (Use(use.line, f".{use.name}"), "read nothing but the values of objects")
            for use in piece.attributes
            if use.name in ATTRIBUTES
        ),
        *(
            (Use(use.line, f'"{use.name}"'), "import it where it is used, or use outside_key")
            for use in piece.strings
            if sources.code(use.name)
        ),
    ]
    label = sources.modules[node.module]
    definition = f"{node.module}:{piece.name}"
    return [
        Refusal(f"{label}:{use.line}", definition, use.name, fix)
        for use, fix in uses
        if definition not in EXCEPTIONS.get(use.name, ())
    ]


def _reads(piece: Piece, node: Node, sources: Sources) -> list[tuple[Use, str]]:
    found = []
    for line, name in piece.reads:
        for end in sources.ends(node.module, name, piece.imports):
            if isinstance(end, Node):
                continue
            if f"{end}.".startswith(FUNCTIONS):
                found.append((Use(line, end), "call what it stands for by name"))
            elif sources.is_unknown(end):
                found.append((Use(line, end), "name a definition of a module"))
    return found


def refused_on_import(sources: Sources) -> list[Refusal]:
    """What is refused in any module, since it happens to every step that imports the module."""
    return [each for module in sources.modules for each in _refused_on_import(module, sources)]


def _refused_on_import(module: str, sources: Sources) -> list[Refusal]:
    parsed = sources.read(module)
    uses = [*parsed.refused, *(use for use in parsed.calls if _acts(module, use.name, sources))]
    pieces = [piece for unit in parsed.units.values() for piece in unit.pieces]
    uses += [Use(0, p.name) for p in pieces if p.name.endswith(CLASS_HOOKS)]
    fix = "define functions and classes only; what must be called belongs in a function"
    return [Refusal(f"{parsed.label}:{line}", module, name, fix) for line, name in uses]


def _acts(module: str, name: str, sources: Sources) -> bool:
    """Whether a call by a module that is imported can do more than return an object."""
    if name.rpartition(".")[2] in METHODS:
        return False
    ends = [] if name.startswith(".") else sources.ends(module, name)
    return not ends or not all(map(partial(_returns, sources=sources), ends))


def _returns(end: End, sources: Sources) -> bool:
    """Whether what a name refers to only returns an object when it is called."""
    if (end if isinstance(end, str) else ":".join(end)) in EXCEPTIONS["calls on import"]:
        return True
    if isinstance(end, str):
        return end.partition(".")[0] in PURE and end not in EFFECTS
    return sources.unit(end).kind in ("class", "import")
