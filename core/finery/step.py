"""What a plugin author subclasses: a step type is a class with typed fields and `run`."""

import copy
import sys
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    NamedTuple,
    dataclass_transform,
    get_args,
    get_origin,
)

import msgspec

from finery.artifacts import Artifact, Bundle, Dataset, Metrics, Model
from finery.errors import PluginError, shown

if TYPE_CHECKING:
    from finery.job import Job
    from finery.proof import Proof

SECTIONS = ("models", "data", "generate", "train", "evaluate", "export")
_SECTIONS_OF: dict[type[Artifact], tuple[str, ...]] = {
    Dataset: ("data", "generate"),
    Model: ("models", "train"),
    Metrics: ("evaluate",),
    Bundle: ("export",),
}
FILE_MODULE = "finery_file_"
"""How the modules of plugin files beside a recipe are named, before the file's name."""
RESERVED = frozenset({"use", "needs", "seed", "env"})
"""Keys that every step takes; no field may have such a name."""


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


class FieldInfo(msgspec.Struct):
    """What `setting(...)` or `takes(...)` says about a field."""

    default: Any = msgspec.NODEFAULT
    help: str = ""
    keyed: bool = True
    named: bool = False
    constraints: dict[str, Any] = {}
    section: str = ""
    given: dict[str, str] = {}


def setting(
    default: Any = msgspec.NODEFAULT,
    *,
    help: str = "",
    keyed: bool = True,
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

    keyed: False marks what can't change the output (logging, worker counts, thresholds that are
        checked afterwards); it stays out of the key.
    """
    limits = {
        "ge": ge, "gt": gt, "le": le, "lt": lt, "pattern": pattern, "min_length": min_length,
        "max_length": max_length, "examples": examples,
    }  # fmt: skip
    given = {k: v for k, v in limits.items() if v is not None}
    return FieldInfo(default=default, help=help, keyed=keyed, constraints=given)


def takes(default: Any = msgspec.NODEFAULT, *, help: str = "", named: bool = False) -> Any:
    """An input's help. `named=True` lets the step see its name in the recipe: `artifact.name`."""
    return FieldInfo(default=default, help=help, named=named)


def inner(section: str, *, given: Mapping[str, str], help: str) -> Any:
    """A step inside a step, written as any other: `watch: {use: eval.exact, rows: split.test}`.

    The field's type is `Step | None`. section: of the step types that may stand there. given:
    inputs of the inner step that the outer one provides → their names; a recipe doesn't write
    them. The outer step runs it, or doesn't; its settings, code and inputs are part of the key.
    """
    return FieldInfo(default=None, help=help, section=section, given=dict(given))


@dataclass_transform(kw_only_default=True, field_specifiers=(setting, takes, inner))
class _SettingsMeta(msgspec.StructMeta):
    """Turns `setting(...)` and `takes(...)` into msgspec fields with limits and help."""

    def __new__(
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **keywords: Any
    ) -> Any:
        declared = {k: keywords.pop(k) for k in Spec.__struct_fields__ if k in keywords}
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


def _rewrite_fields(namespace: dict[str, Any]) -> dict[str, FieldInfo]:
    """Replace each `setting(...)` of a class body by its default and annotate it; return them."""
    annotations = namespace.get("__annotations__", {})
    found: dict[str, FieldInfo] = {}
    for field, hint in annotations.items():
        if _is_class_var(hint):
            continue
        info = namespace.get(field, msgspec.NODEFAULT)
        if not isinstance(info, FieldInfo):
            info = FieldInfo(default=info)
        found[field] = info
        annotations[field] = _annotated(hint, info)
        if info.default is msgspec.NODEFAULT:
            namespace.pop(field, None)
        elif isinstance(info.default, (list, dict, set, msgspec.Struct)):
            namespace[field] = msgspec.field(default_factory=_copier(info.default))
        else:
            namespace[field] = info.default
    return found


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
        ) -> None: ...


class Step(Settings):
    """One unit of work with typed inputs and settings.

    Fields typed as an artifact (`Dataset`, `list[Model]`, `Dataset | None`) are inputs: the
    recipe names a step. All others are settings. Class keywords declare the rest:
    `class Sft(Step, isolated=True, packages=("torch", "trl"))`, see `Spec`.
    """

    __spec__: ClassVar[Spec]

    def run(self, job: "Job") -> Any:
        """Do the work, leaving files in `job.out`; return the artifact, or a class of them."""
        raise NotImplementedError

    def outputs(self) -> dict[str, type[Artifact]]:
        """Output name → kind, in order; `""` is the output a bare step name stands for.

        By default read from `run`'s return type. Override it where settings decide.
        """
        return declared_outputs(type(self))

    def check(self) -> None:
        """Raise `UsageError` for settings that each fit their type and don't fit together.

        Its `where` names the setting; whoever calls this turns it into the place in the recipe.
        Called before a build starts and by `finery check`: must be light. Inputs are
        placeholders, whose `ref` is what the recipe names.
        """

    def check_files(self) -> None:
        """Raise `UsageError` for outside files that can't be used, e.g. one that is empty.

        Called where `check` is called, when all files that settings name are found. Must be light:
        what is long or many waits for `run`.
        """

    def promised(self) -> dict[str, Any]:
        """Facts that the output's `meta` will have, as far as settings alone decide them.

        `check` of the steps that take the output finds them in its placeholder's `meta`.
        """
        return {}

    def key_packages(self) -> tuple[str, ...]:
        """Distributions whose version is part of the key; override it where settings decide."""
        return type(self).__spec__.packages

    def key_code(self) -> "list[Any]":
        """Functions and classes whose code is part of the key, beside the step type's own.

        Override it where settings name some. Called in the main process.
        """
        return []

    def uses_seed(self) -> bool:
        """Whether the seed can change the output; only then it is in the key."""
        return type(self).__spec__.seeded

    def variables(self) -> tuple[str, ...]:
        """Environment variables that settings name: the step gets them as if `env:` named them."""
        return ()

    def floating(self) -> str | None:
        """A name outside that may come to mean something else, e.g. `hub:Qwen/Qwen3-4B@main`.

        None when there is no such thing. Called in the main process, with outside files found;
        must not use the network.
        """
        return None

    def pin(self) -> str:
        """Resolve `floating()` to what never moves, e.g. a commit.

        Called in the main process when a build first meets the name; the answer is kept in
        `recipe.lock`, is part of the key, and reaches the step as `job.pinned`.
        """
        raise NotImplementedError

    def pin_into(self, folder: Path) -> str:
        """`pin()` for what isn't there for ever: keep in `folder` what the pin stands for.

        A running step finds that folder as `job.kept`, shared by all steps of the project. It may
        be empty, as on another machine: a step must be able to do without.
        """
        return self.pin()

    def check_inputs(self, job: "Job") -> None:
        """Raise what `run` would raise for inputs that it can't use, asking no model.

        Called with inputs and outside files opened as for `run`, and a job that has no engine. A
        training calls it of an evaluator that it watches (see `inner`), before its first optimizer
        step; `finery check --deep` does so too.
        """

    def prove(self, job: "Job", samples: int = 3) -> "list[Proof]":
        """What the step would learn, proven row by row before it runs; a `Proof` a data set.

        For trainings. Called by `finery check --deep`, in the main process. Inputs are opened as
        for `run`, except that a model may come without its weights (see `sketch`), and that it is
        the model under all trainings before this one: those change neither tokenizer nor chat
        template. `job.out` is a folder that is thrown away. samples: rows to show of each data
        set. Raises what `run` would raise for rows that can't be learned.
        """
        return []

    def sketch(self, job: "Job") -> Artifact | None:
        """The output without what makes it heavy: a model's tokenizer without its weights.

        Called by `finery check --deep` where the step isn't built, with inputs opened as for
        `run`, some of them sketches. It may use the network, and fills `job.out`, a folder that is
        thrown away. None: it must be built.
        """
        return None

    def trace(self, ids: Collection[str], job: "Job") -> Iterator[tuple[str, str]]:
        """(id, place) of those of its rows that have one of `ids`: where each was read.

        For steps that read rows from outside. Called by `finery show --row`, in the main process,
        with files opened as for `run`: read what `run` reads, the way it does, as a stream. A
        place is what an error would name: `data/tickets.jsonl:17`, a table and its key, an
        address. Rows that were dropped count too. By default nothing: the step alone is named.
        """
        return iter(())

    def verify(self, outputs: Mapping[str, Artifact]) -> None:
        """Judge the finished outputs; raise `RequirementError` to fail the build.

        Called in the main process after every build of the step and on cached results too, so
        it must be light. Inputs are placeholders here.
        """


def inputs_of(cls: type[Step]) -> dict[str, "Input"]:
    """The input fields of a step type, in order."""
    cached = cls.__dict__.get("__finery_inputs__")
    if cached is None:
        hints = field_hints(cls)
        cached = {f: made for f in cls.__struct_fields__ if (made := _as_input(hints[f]))}
        type.__setattr__(cls, "__finery_inputs__", cached)
    return typing.cast(dict[str, Input], cached)


def field_hints(cls: type[Settings]) -> dict[str, Any]:
    """Field → type, without the annotations that carry limits."""
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        raise PluginError(
            f"{full_name(cls)}: a field's type can't be resolved: {error}",
            fix="import the type at module level, not under TYPE_CHECKING",
        ) from error


def files_of(step: Settings) -> dict[str, Files]:
    """The settings of a step that name outside files; those further in as `launch.config`."""
    values = {name: getattr(step, name) for name in type(step).__struct_fields__}
    found = {name: value for name, value in values.items() if isinstance(value, Files)}
    for field, within in values.items():
        if isinstance(within, Settings):
            found |= {f"{field}.{name}": files for name, files in files_of(within).items()}
    return found


def give_files(step: Settings, found: Mapping[str, Iterable[tuple[str, str | Path]]]) -> None:
    """Tell a step's settings, named as by `files_of`, the (name, path) of each file found."""
    settings = files_of(step)
    for setting, files in found.items():
        named = [(name, Path(path)) for name, path in files]
        settings[setting].names = [name for name, _ in named]
        settings[setting].paths = [path for _, path in named]


def inner_of(cls: type[Step]) -> dict[str, FieldInfo]:
    """The fields of a step type that hold a step."""
    return {field: info for field, info in cls.__finery_fields__.items() if info.section}


def inner_steps(step: Step) -> dict[str, Step]:
    """Field → the step inside, of those that there are."""
    values = {field: getattr(step, field) for field in inner_of(type(step))}
    return {field: value for field, value in values.items() if value is not None}


class Slot(NamedTuple):
    """A place for inputs of a step: `owner`'s field `field`, called `path` in the whole step."""

    path: str
    owner: Step
    field: str
    accepts: "Input"

    @property
    def named(self) -> bool:
        """Whether the step sees what the recipe calls this input."""
        return type(self.owner).__finery_fields__[self.field].named


def slots_of(step: Step) -> dict[str, Slot]:
    """Path → slot of each input, those of an inner step as `watch.rows`."""
    found = {f: Slot(f, step, f, accepts) for f, accepts in inputs_of(type(step)).items()}
    for field, within in inner_steps(step).items():
        given = inner_of(type(step))[field].given
        for name, slot in slots_of(within).items():
            if name not in given:
                found[f"{field}.{name}"] = slot._replace(path=f"{field}.{name}")
    return found


class Input(msgspec.Struct, frozen=True):
    """An input field's kind, whether it takes a list, and whether it may be left out."""

    kind: type[Artifact]
    many: bool = False
    optional: bool = False


def _as_input(hint: Any) -> Input | None:
    if isinstance(hint, type) and issubclass(hint, Artifact):
        return Input(hint)
    if get_origin(hint) is list:
        inner = _as_input(get_args(hint)[0])
        return Input(inner.kind, many=True) if inner else None
    if get_origin(hint) in (types.UnionType, typing.Union):
        found = [made for a in get_args(hint) if a is not type(None) and (made := _as_input(a))]
        if len(found) == 1:
            return Input(found[0].kind, many=found[0].many, optional=True)
    return None


def declared_outputs(cls: type[Step]) -> dict[str, type[Artifact]]:
    """What `run`'s return annotation says: one artifact, or a class with artifact fields."""
    try:
        result = typing.get_type_hints(cls.run).get("return")
    except NameError as error:
        raise PluginError(
            f"{full_name(cls)}.run: what it returns can't be resolved: {error}",
            fix="import the type at module level, not under TYPE_CHECKING",
        ) from error
    if isinstance(result, type) and issubclass(result, Artifact):
        return {"": result}
    fields = typing.get_type_hints(result) if isinstance(result, type) else {}
    found = {f: h for f, h in fields.items() if isinstance(h, type) and issubclass(h, Artifact)}
    if not found:
        raise PluginError(
            f"{full_name(cls)}.run must say what it returns",
            fix="annotate it with Dataset, Model, Metrics, Bundle or a class with such fields",
        )
    return found


def sections_of(cls: type[Step]) -> tuple[str, ...]:
    """Sections of a recipe that take this step type."""
    if cls.__spec__.sections:
        return cls.__spec__.sections
    kinds = declared_outputs(cls).values()
    return next((_SECTIONS_OF[k] for k in kinds if k in _SECTIONS_OF), SECTIONS)


def full_name(cls: Any) -> str:
    """How messages name a class: after its module, or after its file beside a recipe."""
    name, module = getattr(cls, "__qualname__", repr(cls)), getattr(cls, "__module__", "")
    if module.startswith(FILE_MODULE):
        return f"{Path(sys.modules[module].__file__ or '').name}:{name}"
    return f"{module}.{name}"


def check_contract(cls: Any, name: str) -> None:
    """Raise `PluginError` when a step type breaks the contract for authors."""
    where = full_name(cls)
    if not (isinstance(cls, type) and issubclass(cls, Step)):
        raise PluginError(
            f"step type '{name}': {where} is not a step type", fix="subclass finery.Step"
        )
    if not (cls.__doc__ or "").strip():
        raise PluginError(
            f"step type '{name}': {where} has no docstring", fix="say in one line what it does"
        )
    if cls.run is Step.run:
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        place = f" ({shown(Path(file))})" if file else ""
        raise PluginError(
            f"step type '{name}': {where} has no method `run`{place}",
            fix="give it one: def run(self, job: Job) -> Dataset: …",
        )
    if cls.outputs is Step.outputs:
        declared_outputs(cls)
    inputs = inputs_of(cls)
    for field in cls.__struct_fields__:
        if field in RESERVED:
            raise PluginError(
                f"step type '{name}': field '{field}' is a word every step has", fix="rename it"
            )
        if field not in inputs and not cls.__finery_fields__[field].help:
            raise PluginError(
                f"step type '{name}': setting '{field}' has no help",
                fix=f'{field} = setting(…, help="…")',
            )
