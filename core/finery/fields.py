"""Typed fields of settings and steps: defaults, limits, help, and what a class declares."""

import copy
import types
import typing
from collections.abc import Iterable, Mapping
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

if TYPE_CHECKING:
    from finery.step.hints import Hints

Role = Literal["", "train", "validation", "compare", "base"]
"""What a step does with an input, see `takes`."""
Learns = Literal["", "answers", "preferences", "ratings"]
"""What a training learns from: answers, pairs of a better and a worse one, or rated answers."""
Task = Literal["", "classification", "extraction", "style", "complex"]
"""What an evaluator judges: one answer of few, facts in a fixed format, manner, or e.g. SQL."""


class Files:
    """A setting that names files outside the store: a path, a glob, a folder, or a list of them.

    Relative to the recipe. What the files hold and their names from the recipe's folder are part of
    the key; where that folder lies isn't. In a running step, `paths` are the files found, sorted
    within each pattern, and never empty; `names` is what the key calls each of them.
    """

    def __init__(
        self, patterns: Iterable[str], paths: Iterable[Path] = (), names: Iterable[str] = ()
    ) -> None:
        self.patterns = list(patterns)
        self.paths = list(paths)
        self.names = list(names) or [path.name for path in self.paths]

    def __repr__(self) -> str:
        return ", ".join(self.patterns)


class OneFile(Files):
    """`Files` that are just one: a list is refused, and a glob or a folder with several."""

    @property
    def path(self) -> Path:
        """The file, in a running step."""
        return self.paths[0]


class OptionalFiles(Files):
    """`Files` that needn't be there yet: where nothing is found, `paths` is empty in a step.

    For what people write as they go, e.g. decisions. Once there is something, it is in the key.
    """


class Spec(msgspec.Struct, frozen=True):
    """What a step type declares about itself, as class keywords of a `Step` subclass."""

    version: str = ""  # bump when behaviour changes in a way the code's digest can't see
    packages: tuple[str, ...] = ()  # distributions whose version is part of the key
    isolated: bool = False  # runs in a process of its own, not in a warm worker
    seeded: bool = True  # False: the seed can't change the output and isn't in the key
    engines: bool = False  # answers prompts with its models: their engines are in the key
    sections: tuple[str, ...] = ()  # sections of a recipe that take it; default: by its output
    learns: str = ""  # of a training: what it learns from, see `Learns`
    task: str = ""  # of an evaluator: what it judges, see `Task`
    keeps_prompts: bool = False  # of a generator: the prompts of its rows are those of its inputs
    pinned: Any = ""  # "module:Class" of an interface, see `finery.step.interfaces`
    preflight: Any = ""
    traceable: Any = ""
    forecast: Any = ""
    metrics: Any = ""  # "module:NAME" of how metrics look while it runs, see `finery.LiveMetric`
    hints: Any = ""  # "module:NAME" of fixes for likely mistakes, see `finery.Hints`


class FieldInfo(msgspec.Struct):
    """What `setting(...)` or `takes(...)` says about a field."""

    default: Any = msgspec.NODEFAULT
    help: str = ""
    affects_output: bool = True
    uses_name: bool = False
    role: str = ""
    constraints: dict[str, Any] = {}
    section: str = ""
    given: dict[str, str] = {}


def setting(
    default: Any = msgspec.NODEFAULT,
    *,
    help: str = "",
    affects_output: bool = True,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    pattern: str | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    examples: list[Any] | None = None,
) -> Any:
    """A setting's default, limits and help. Without a default it is required.

    affects_output: False marks what can't change the output (logging, worker counts, thresholds
        that are checked afterwards); it stays out of the key.
    """
    limits = {
        "ge": ge, "gt": gt, "le": le, "lt": lt, "pattern": pattern, "min_length": min_length,
        "max_length": max_length, "examples": examples,
    }  # fmt: skip
    constraints = {k: v for k, v in limits.items() if v is not None}
    return FieldInfo(
        default=default, help=help, affects_output=affects_output, constraints=constraints
    )


def takes(
    default: Any = msgspec.NODEFAULT, *, help: str = "", uses_name: bool = False, role: Role = ""
) -> Any:
    """An input's help, and what the step does with it.

    uses_name: the step sees what the recipe calls the input, `artifact.name`, which is then part
        of the key.
    role: what advice and estimates need to know. Of rows: `train` (learned from), `validation`
        (judged on while training), `compare` (only compared with: no row of the output is taken
        from them, or nearly repeats one of them). Of a model: `base` (training starts from it: its
        tokenizer and chat template stay). By default rows are taken, and a model is asked.
    """
    return FieldInfo(default=default, help=help, uses_name=uses_name, role=role)


def nested_step(section: str, *, given: Mapping[str, str], help: str) -> Any:
    """A step inside a step, written as any other: `watch: {use: eval.exact, rows: split.test}`.

    The field's type is `Step | None`. section: of the step types that may stand there. given:
    inputs of the inner step that the outer one provides → their names; a recipe doesn't write
    them. The outer step runs it, or doesn't; its settings, code and inputs are part of the key.
    """
    return FieldInfo(default=None, help=help, section=section, given=dict(given))


_STRUCT_KEYWORDS = frozenset({
    "array_like", "cache_hash", "dict", "eq", "frozen", "gc", "omit_defaults", "order", "rename",
    "repr_omit_defaults", "tag", "tag_field",
})  # fmt: skip
"""Class keywords of `msgspec.Struct` that a group of settings may have."""


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
        type.__setattr__(cls, "__spec__", Spec(**merged))
        return cls


def _check_keywords(name: str, keywords: Mapping[str, Any]) -> None:
    """Raise `TypeError` for a class keyword that neither finery nor msgspec knows."""
    for keyword in keywords:
        if keyword not in _STRUCT_KEYWORDS:
            known = [*Spec.__struct_fields__]
            raise TypeError(
                f"class {name} has the unknown keyword '{keyword}': {did_you_mean(keyword, known)}"
            )


def _rewrite_fields(namespace: dict[str, Any]) -> dict[str, FieldInfo]:
    """Replace each `setting(...)` of a class body by its default and annotate it; return them."""
    annotations = namespace.get("__annotations__", {})
    for field, info in namespace.items():
        if isinstance(info, FieldInfo) and field not in annotations:
            raise TypeError(f"field '{field}' has no type: write {field}: int = setting(…)")
    fields: dict[str, FieldInfo] = {}
    for field, hint in annotations.items():
        if _is_class_var(hint):
            continue
        info = namespace.get(field, msgspec.NODEFAULT)
        if not isinstance(info, FieldInfo):
            info = FieldInfo(default=info)
        fields[field] = info
        annotations[field] = _annotated(hint, info)
        if info.default is msgspec.NODEFAULT:
            namespace.pop(field, None)
        elif isinstance(info.default, (list, dict, set, msgspec.Struct)):
            namespace[field] = msgspec.field(default_factory=_copier(info.default))
        else:
            namespace[field] = info.default
    return fields


def _annotated(hint: Any, info: FieldInfo) -> Any:
    """The hint with limits (put on the type beside `None`, where msgspec wants them) and help."""
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


def _copier(value: Any) -> Any:
    return lambda: copy.deepcopy(value)


def _is_class_var(hint: Any) -> bool:
    return (
        get_origin(hint) is ClassVar
        or hint is ClassVar
        or str(hint).startswith(("ClassVar", "typing.ClassVar"))
    )


class Settings(msgspec.Struct, metaclass=_SettingsMeta):
    """A group of settings inside a step's, e.g. `lora: {r: 16, alpha: 32}`."""

    __finery_fields__: ClassVar[dict[str, FieldInfo]]

    if TYPE_CHECKING:  # the class keywords, which the metaclass takes before msgspec sees them

        def __init_subclass__(
            cls,
            *,
            version: str = "",
            packages: tuple[str, ...] = (),
            isolated: bool = False,
            seeded: bool = True,
            engines: bool = False,
            sections: tuple[str, ...] = (),
            learns: Learns = "",
            task: Task = "",
            keeps_prompts: bool = False,
            pinned: "str | type" = "",
            preflight: "str | type" = "",
            traceable: "str | type" = "",
            forecast: "str | type" = "",
            metrics: "str | Mapping[str, Any]" = "",
            hints: "str | Hints" = "",
        ) -> None: ...
