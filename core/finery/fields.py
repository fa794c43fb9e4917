"""Typed fields of settings and steps: defaults, limits, help, and class keywords."""

import copy
import types
import typing
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    dataclass_transform,
    get_args,
    get_origin,
)

import msgspec

from finery.util.text import did_you_mean

Role = Literal[
    "", "train", "validation", "examples", "calibrate", "held_out", "compare", "reference", "base",
    "tokenizer",
]  # fmt: skip
"""How a step uses an input, see `takes`."""
Learns = Literal["", "answers", "preferences", "ratings", "text", "rewards", "teacher"]
"""What a training learns from: answers, pairs of a better and a worse one, rated answers, text
without turns, rewards of its own answers, or a teacher's view of them."""
Family = Literal["", "language-model", "encoder", "other"]
"""What a training makes. Advice for language models is given on trainings of these alone."""
Task = Literal["", "classification", "extraction", "style", "complex", "speed"]
"""What an evaluator judges: a choice among few answers, facts in a fixed format, style, or e.g.
SQL."""


MayBe = Literal["", "missing", "name"]
"""What the text of a setting for files may be besides a file that exists, see `setting`."""


class Files:
    """A setting that names files outside the store: a path, a glob, a folder, or a list of them.

    Paths are relative to the recipe. The contents of the files and their names from the recipe's
    folder are part of the key; the location of that folder isn't. In a running step, `paths` has
    the files found, sorted within each pattern, and is never empty unless files may be missing.
    `names` has their names in the key.
    """

    def __init__(
        self,
        patterns: Iterable[str],
        paths: Iterable[Path] = (),
        names: Iterable[str] = (),
        *,
        may_be: MayBe = "",
    ) -> None:
        self.patterns = list(patterns)
        self.paths = list(paths)
        self.names = list(names) or [path.name for path in self.paths]
        self.may_be = may_be

    def __repr__(self) -> str:
        return ", ".join(self.patterns)


class File(Files):
    """A `Files` setting for one file: lists, and globs and folders with more, are errors."""

    @property
    def path(self) -> Path:
        """The file, in a running step."""
        return self.paths[0]

    @property
    def name(self) -> str:
        """The name of something else, where the setting may be one; empty for a file.

        A text with a dot or a slash is a file, and so is one that a file was found for.
        """
        is_file = self.paths or {*"./"} & {*self.patterns[0]}
        return "" if is_file else self.patterns[0]


class Spec(msgspec.Struct, frozen=True):
    """The declarations of a step type, from the class keywords of its `Step` subclass."""

    version: str = ""  # bump when behaviour changes in a way the code's digest can't see
    packages: tuple[str, ...] = ()  # distributions whose version is part of the key
    installs: Mapping[str, str] = {}  # distributions that `run` imports → what to install
    isolated: bool = False  # runs in its own process, not in a warm worker
    alone: bool = False  # no other step of the build runs on the machine meanwhile
    seeded: bool = True  # False: the seed can't change the output and isn't in the key
    schemas: bool = True  # False: no request to a model has a JSON Schema, see `Key`
    gpus: int = 0  # how many it uses; of a type with a number that varies, any but 0
    engines: bool = False  # prompts its models: their engines are in the key
    sections: tuple[str, ...] = ()  # sections of a recipe that take it; default: by its output
    learns: str = ""  # for trainings: what they learn from, see `Learns`
    family: str = ""  # for trainings: what they make, see `Family`
    task: str = ""  # for evaluators: what they judge, see `Task`
    keeps_prompts: bool = False  # for generators: their rows have the prompts of the inputs
    rehearsal: Mapping[str, Any] = {}  # settings in `finery rehearse`, see `Rehearsal`
    metrics: Any = ""  # how to show metrics live, or its "module:NAME", see `finery.views`


class FieldInfo(msgspec.Struct):
    """The arguments of a field's `setting(...)` or `takes(...)`."""

    default: Any = msgspec.NODEFAULT
    help: str = ""
    affects_output: bool = True
    uses_name: bool = False
    role: str = ""
    column_of: str = ""
    may_be: MayBe = ""
    constraints: dict[str, Any] = {}
    section: str = ""
    given: dict[str, str] = {}


def setting(
    default: Any = msgspec.NODEFAULT,
    *,
    help: str = "",
    affects_output: bool = True,
    column_of: str = "",
    may_be: MayBe = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    pattern: str | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    examples: list[Any] | None = None,
) -> Any:
    """A setting's default, limits and help. Without a default, the setting is required.

    affects_output: False for a setting that can't change the output (logging, worker counts,
        thresholds that are checked afterwards); it stays out of the key.
    column_of: the input whose columns a text, a list or the keys of a mapping name, or the texts
        that `finery.rows` has names for, e.g. `output`. A column that no row has is an error.
    may_be: of `File` and `Files`, whose files must exist by default. `missing`: `paths` may be
        empty, e.g. of decisions that people write later. `name`, of `File`: a text that no file has
        may be the name of something else, e.g. of a built-in template, see `File.name`.
    """
    limits = {
        "ge": ge, "gt": gt, "le": le, "lt": lt, "pattern": pattern, "min_length": min_length,
        "max_length": max_length, "examples": examples,
    }  # fmt: skip
    # `typing` caches Annotated types and takes limits of 0 and 0.0 as equal: which one a schema
    # showed depended on what was imported first.
    constraints = {
        k: int(v) if isinstance(v, float) and v.is_integer() else v
        for k, v in limits.items()
        if v is not None
    }
    return FieldInfo(
        default=default,
        help=help,
        affects_output=affects_output,
        column_of=column_of,
        may_be=may_be,
        constraints=constraints,
    )


def takes(
    default: Any = msgspec.NODEFAULT, *, help: str = "", uses_name: bool = False, role: Role = ""
) -> Any:
    """An input's help, and how the step uses the input.

    uses_name: the step reads the input's name in the recipe, `artifact.name`, which is then part
        of the key.
    role: for advice and estimates. Rows: `train` (to learn from), `validation` (to measure while
        training), `examples` (to show in prompts), `calibrate` (to measure activations, for a
        quantisation), `held_out` (to bound the errors of the step's models, which may not have seen
        them), `compare` (only compared with: no row of the output comes from them, or nearly
        repeats one of them), `reference` (only compared with: no row of the output comes from them,
        but it may repeat one). A model: `base` (the training starts from it and keeps its tokenizer
        and chat template), `tokenizer` (only its tokenizer is used, so its engine isn't in the
        key). By default, rows are passed on and a model is prompted.
    """
    return FieldInfo(default=default, help=help, uses_name=uses_name, role=role)


def nested_step(section: str, *, given: Mapping[str, str], help: str) -> Any:
    """A step inside a step, written like any other: `watch: {use: eval.exact, rows: split.test}`.

    The field's type is `Step | None`, or `Step | list[Step] | None` if recipes may also write a
    list of steps there. section: the section that its step type must belong to.
    given: inputs that the outer step provides to the inner one → their names; recipes leave them
    out. The outer step decides whether to run the inner one. The inner step's settings, code and
    inputs are part of the key.
    """
    return FieldInfo(default=None, help=help, section=section, given=dict(given))


REPLACED_KEYWORDS = {
    "forecast": "`forecast`, which returns a `finery.Forecast`",
    "preflight": "`examine`, `prove`, `sketch` and `resources`",
    "pinned": "`floating_name` and `pin_name`",
    "provenance": "`provenance`",
    "traceable": "`trace_rows`",
}
"""Class keywords of early versions → the methods of the step type that replace them."""
_STRUCT_KEYWORDS = frozenset({
    "array_like", "cache_hash", "dict", "eq", "frozen", "gc", "omit_defaults", "order", "rename",
    "repr_omit_defaults", "tag", "tag_field",
})  # fmt: skip
"""Class keywords of `msgspec.Struct` that a group of settings may use."""


@dataclass_transform(kw_only_default=True, field_specifiers=(setting, takes, nested_step))
class _SettingsMeta(msgspec.StructMeta):
    """Turns `setting(...)` and `takes(...)` into msgspec fields with limits and help."""

    def __new__(
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **keywords: Any
    ) -> Any:
        declared = {k: keywords.pop(k) for k in Spec.__struct_fields__ if k in keywords}
        _check_keywords(name, keywords)
        inherited: dict[str, FieldInfo] = {}
        for base in reversed(bases):
            inherited |= getattr(base, "__finery_fields__", {})
        own = _rewrite_fields(namespace)
        cls = super().__new__(
            mcls, name, bases, namespace, kw_only=True, forbid_unknown_fields=True,
            weakref=False, **keywords,
        )  # fmt: skip
        type.__setattr__(cls, "__finery_fields__", inherited | own)
        before = getattr(cls, "__spec__", Spec())
        merged = {f: declared.get(f, getattr(before, f)) for f in Spec.__struct_fields__}
        merged["rehearsal"] = {**before.rehearsal, **merged["rehearsal"]}
        type.__setattr__(cls, "__spec__", Spec(**merged))
        return cls


def _check_keywords(name: str, keywords: Mapping[str, Any]) -> None:
    """Raise `TypeError` for a class keyword that is unknown to both finery and msgspec."""
    for keyword in keywords:
        if keyword in REPLACED_KEYWORDS:
            raise TypeError(
                f"class {name} has the keyword '{keyword}', which no longer exists: move its "
                f"methods into the class, as {REPLACED_KEYWORDS[keyword]}"
            )
        if keyword not in _STRUCT_KEYWORDS:
            known = [*Spec.__struct_fields__]
            raise TypeError(
                f"class {name} has the unknown keyword '{keyword}': {did_you_mean(keyword, known)}"
            )


def _rewrite_fields(namespace: dict[str, Any]) -> dict[str, FieldInfo]:
    """Replace each `setting(...)` of a class body with its default; annotate and return them."""
    annotations = namespace.get("__annotations__", {})
    for field, info in namespace.items():
        if isinstance(info, FieldInfo) and field not in annotations:
            raise TypeError(f"field '{field}' has no type: write {field}: int = setting(…)")
    fields: dict[str, FieldInfo] = {}
    for field, hint in annotations.items():
        if str(hint).startswith(("ClassVar", "typing.ClassVar")):
            continue
        info = namespace.get(field, msgspec.NODEFAULT)
        if not isinstance(info, FieldInfo):
            info = FieldInfo(default=info)
        fields[field] = info
        annotations[field] = _annotated(hint, info)
        if info.default is msgspec.NODEFAULT:
            namespace.pop(field, None)
        elif isinstance(info.default, (list, dict, set, msgspec.Struct)):
            namespace[field] = msgspec.field(default_factory=partial(copy.deepcopy, info.default))
        else:
            namespace[field] = info.default
    return fields


def _annotated(hint: Any, info: FieldInfo) -> Any:
    """The hint with help and limits, which msgspec expects on the part beside `None`."""
    inner: Any = hint
    if isinstance(hint, str):  # `from __future__ import annotations` in the plugin
        optional, inner = hint.endswith("| None"), hint.removesuffix("| None").strip()
    else:
        args = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else ()
        rest = [a for a in args if a is not type(None)]
        optional = len(rest) == 1 and len(args) == 2
        inner = rest[0] if optional else hint
    if info.constraints:
        inner = Annotated[inner, msgspec.Meta(**info.constraints)]
    if optional:
        inner = f"{inner} | None" if isinstance(inner, str) else inner | None
    return Annotated[inner, msgspec.Meta(description=info.help)] if info.help else inner


class Settings(msgspec.Struct, metaclass=_SettingsMeta):
    """A group of settings inside a step's, e.g. `lora: {r: 16, alpha: 32}`."""

    __finery_fields__: ClassVar[dict[str, FieldInfo]]

    if TYPE_CHECKING:  # the class keywords, which the metaclass takes before msgspec sees them

        def __init_subclass__(
            cls,
            *,
            version: str = "",
            packages: tuple[str, ...] = (),
            installs: Mapping[str, str] = {},
            isolated: bool = False,
            alone: bool = False,
            seeded: bool = True,
            schemas: bool = True,
            gpus: int = 0,
            engines: bool = False,
            sections: tuple[str, ...] = (),
            learns: Learns = "",
            family: Family = "",
            task: Task = "",
            keeps_prompts: bool = False,
            rehearsal: Mapping[str, Any] = {},
            metrics: "str | Mapping[str, Any]" = "",
        ) -> None: ...
