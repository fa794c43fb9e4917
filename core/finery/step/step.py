"""The base class of step types, and the contract for authors, checked when a type is loaded."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from finery.artifact.kinds import Artifact
from finery.errors import PluginError
from finery.fields import Learns, Role, Settings, Spec, Task
from finery.step.inspect import RESERVED, SECTIONS, declared_outputs, full_name, inputs_of
from finery.step.look import Look, Promise
from finery.util.paths import shown
from finery.util.text import did_you_mean

if TYPE_CHECKING:
    from finery.preflight.report import Proof
    from finery.step.job import Job


class Step(Settings):
    """One unit of work with typed inputs and settings.

    Fields typed as an artifact (`Dataset`, `list[Model]`, `Dataset | None`) are inputs: the
    recipe names a step. All others are settings. Class keywords declare the rest:
    `class Sft(Step, isolated=True, packages=("torch", "trl"))`, see `Spec`.
    """

    __spec__: ClassVar[Spec]

    @property
    def use(self) -> str:
        """The name of the step type in recipes, e.g. `eval.sql`; of other classes, their name."""
        return str(vars(type(self)).get("__finery_use__", type(self).__name__))

    def run(self, job: "Job") -> Any:
        """Do the work and leave files in `job.out`; return the artifact, or several in a class."""
        raise NotImplementedError

    def outputs(self) -> Mapping[str, Promise | type[Artifact]]:
        """Output name → kind, in order; the step's bare name refers to the output `""`.

        By default read from the return type of `run`. Override it if it depends on settings, or to
        promise facts: `{"": Promise(Model, {"format": "adapter"})}`.
        """
        return declared_outputs(type(self))

    def check(self) -> None:
        """Raise `UsageError` for settings that are valid one by one, but not together.

        Its `where` names the setting; the caller turns that into a place in the recipe. Called
        before a build starts and by `finery check`, so it must be light. Inputs are placeholders
        with the reference from the recipe as `ref`. Called again before `run`, on another object
        with the real inputs.
        """

    def examine(self, look: Look) -> None:
        """Raise the errors of `run` for outside files and inputs that can't be used.

        Raise only what no later knowledge can cure: `look` answers with what is known of the inputs
        now, and this is called again when it knows more of one that was asked about. Calls come
        after `check`, with outside files found: in `finery check`, before a build, before a
        training that comes earlier, and before `run`. They must be quick, however large the files
        are, and must not use the network; only what `look.open` returns may be read as a whole. An
        error whose `where` names a setting, e.g. `columns.user`, is shown there in the recipe.
        """

    def key_packages(self) -> tuple[str, ...]:
        """Distributions with a version in the key; override it if they depend on settings."""
        return type(self).__spec__.packages

    def sends_schemas(self) -> bool:
        """Whether its models may have to answer by a JSON Schema; only then are the packages that
        hold answers to one (`Engine.schema_packages`) in the key.

        Override it if no request has a `schema`, or if that depends on settings. False makes a
        request with one fail.
        """
        return True

    def key_code(self) -> "list[Any]":
        """More code for the key: functions, classes, names of modules, and files as `Path`.

        Files that aren't Python, such as texts that the plugin ships, count by their bytes.
        Override it if settings select code. Their imports count as for a step type. Called in the
        main process, after outside files have been found.
        """
        return []

    def key_facts(self) -> Mapping[str, Any]:
        """Facts of this machine that can change the output, e.g. the dtype that it computes in.

        They are part of the key. Called for each plan, so it must be light.
        """
        return {}

    def key_files(self) -> Sequence[str]:
        """Absolute paths of files and folders outside finery's environment that decide `key_facts`.

        They need not exist: a path where a program may be installed is one, too. If they, the PATH
        and all `FINERY_` variables are unchanged, finery takes the facts to be unchanged.
        """
        return ()

    def uses_seed(self) -> bool:
        """Whether the seed can change the output; only then is it in the key."""
        return type(self).__spec__.seeded

    def gpu_count(self) -> int:
        """How many GPUs the step uses if the machine has them. Other steps can't use them
        meanwhile.

        A step with a local engine uses at least one.
        """
        return 0

    def node_count(self) -> int:
        """How many machines the step can use at once, where an executor gives it several."""
        return 1

    def depends_on_gpus(self) -> bool:
        """Whether the output depends on how many GPUs the step gets, if these are more than one.

        The number is then part of the key.
        """
        return False

    def choices(self) -> Mapping[str, Sequence[str]]:
        """The keys that settings which are mappings may have, where inputs decide them.

        For editors: `{"require": ["sft.accuracy", …]}`. Inputs are placeholders.
        """
        return {}

    def variables(self) -> tuple[str, ...]:
        """Environment variables that settings name; the step gets them as if listed in `env:`."""
        return ()

    def verify(self, outputs: Mapping[str, Artifact]) -> None:
        """Check the finished outputs; raise `RequirementError` to fail the build.

        Called in the main process after each build of the step, and for cached results too, so it
        must be light. Inputs are placeholders here.
        """

    def sketch(self, job: "Job") -> Artifact | None:
        """The output without its heavy parts: a model's tokenizer without the weights.

        Called by `finery check --deep` if the step isn't built, with inputs opened as for `run`;
        some of them are sketches. It may use the network, and fills `job.out`, a temporary folder.
        None: the step must be built.
        """
        return None

    def prove(self, job: "Job", samples: int) -> "list[Proof] | None":
        """What the step would learn, verified row by row: a `Proof` for each data set.

        For trainings, in `finery check --deep`; None for all other steps. Inputs are opened as for
        `run`, with two exceptions: a model may lack its weights (see `sketch`), and it is the base
        of all earlier trainings, which change neither tokenizer nor chat template. `job.out` is
        temporary. samples: how many rows of each data set to show. Raises what `run` would raise
        for rows that can't be learned.
        """
        return None

    def doubts(self, outputs: Mapping[str, Artifact]) -> Sequence[str]:
        """What `verify` accepts although it proves little, in sentences without a full stop.

        The report and the end of a build say so. Called like `verify`, if that raised nothing.
        """
        return ()


def check_contract(cls: Any, name: str) -> None:
    """Raise `PluginError` when a step type breaks the contract for authors."""
    where = full_name(cls)
    if not (isinstance(cls, type) and issubclass(cls, Step)):
        raise PluginError(
            f"step type '{name}': {where} is not a step type", fix="subclass finery.Step"
        )
    if not (cls.__doc__ or "").strip():
        raise PluginError(
            f"step type '{name}': {where} has no docstring", fix="describe in one line what it does"
        )
    if cls.run is Step.run:
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        place = f" ({shown(Path(file))})" if file else ""
        raise PluginError(
            f"step type '{name}': {where} has no method `run`{place}",
            fix="add one: def run(self, job: Job) -> Dataset: …",
        )
    if cls.outputs is Step.outputs:
        declared_outputs(cls)
    inputs = inputs_of(cls)
    for field in cls.__struct_fields__:
        if field in RESERVED:
            raise PluginError(
                f"step type '{name}': field '{field}' has the name of a key that every step has",
                fix="rename it",
            )
        if field not in inputs and not cls.__finery_fields__[field].help:
            raise PluginError(
                f"step type '{name}': setting '{field}' has no help",
                fix=f'{field} = setting(…, help="…")',
            )
    for problem in _wrong_keywords(cls):
        raise PluginError(f"step type '{name}': {problem}", fix="see docs/howto/plugins.md")


def _wrong_keywords(cls: type[Step]) -> Iterator[str]:
    """The mistakes in class keywords and roles, each as part of a sentence."""
    spec = cls.__spec__
    for keyword in ("isolated", "alone", "seeded", "engines", "keeps_prompts"):
        if not isinstance(getattr(spec, keyword), bool):
            yield f"{keyword}={getattr(spec, keyword)!r} must be True or False"
    for keyword in ("packages", "sections"):
        if not isinstance(getattr(spec, keyword), tuple | list):
            yield f"{keyword}={getattr(spec, keyword)!r} must be a tuple of names"
    for section in spec.sections:
        if section not in SECTIONS:
            yield f"there is no section '{section}': {did_you_mean(section, SECTIONS)}"
    for keyword, values in (("learns", get_args(Learns)), ("task", get_args(Task))):
        if (value := getattr(spec, keyword)) not in values:
            meant = did_you_mean(str(value), filter(None, values))
            yield f"{keyword}={value!r} isn't known: {meant}"
    for field, info in cls.__finery_fields__.items():
        if info.role not in (roles := get_args(Role)):
            known = ", ".join(filter(None, roles))
            yield f"the role {info.role!r} of '{field}' must be one of {known}"
