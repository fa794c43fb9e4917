"""The base class of step types, the contract for authors, and the examination before a run."""

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from finery.artifact.kinds import Artifact
from finery.errors import FineryError, PluginError
from finery.fields import Family, Learns, Role, Settings, Spec, Task
from finery.key import Key
from finery.step.forecast import Estimate, Forecast, Note
from finery.step.inspect import (
    REPLACED_METHODS,
    RESERVED,
    SECTIONS,
    declared_outputs,
    full_name,
    inputs_of,
    steps_inside,
)
from finery.step.job import Job
from finery.step.look import BuiltLook, Look, Promise
from finery.step.resources import Rehearsal, Resources
from finery.util.paths import shown
from finery.util.text import did_you_mean

if TYPE_CHECKING:
    from finery.plugin.forecasts import Inputs
    from finery.plugin.history import Results
    from finery.preflight.report import Proof
    from finery.recipe.graph import Graph


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

        Raise only errors that remain errors whatever is built later: `look` answers with what is
        known of the inputs now, and this is called again when it knows more of one that was asked
        about. Calls come after `check`, with outside files found: in `finery check`, before a
        build, before a long-running upstream step, and before `run`. They must be quick, however
        large the files are, and must not use the network; only what `look.open` returns may be read
        as a whole. An error whose `where` names a setting, e.g. `columns.user`, is shown there in
        the recipe.
        """

    def cache_key(self) -> Key:
        """What the key needs to know beside settings, inputs and the code of this class.

        By default, what the class keywords say. Override it if that depends on settings, and join
        it with `|`: `super().cache_key() | Key(packages=("peft",))`. Called for each plan, with
        outside files found, so it must be light.
        """
        spec = type(self).__spec__
        return Key(packages=(*spec.packages,), seeded=spec.seeded, schemas=spec.schemas)

    def resources(self) -> Resources:
        """What the step needs of the machine, by default what the class keywords say.

        Override it if that depends on settings, and join it with `|`. It must be light. Only
        `packages` may depend on outside files: what the others say is also needed before these are
        found.
        """
        spec = type(self).__spec__
        return Resources(gpus=spec.gpus, packages=spec.installs)

    def forecast(self, inputs: "Inputs") -> Forecast:
        """What is known of the outputs before the step runs, for notes, estimates and checks.

        It must be quick and must not use the network. Called in the main process, with outside
        files found. For a built step, the artifact counts instead.
        """
        return Forecast()

    def estimate(self, inputs: "Inputs") -> Estimate | None:
        """What a build of the step will take, for `finery plan`; None if nothing is known.

        Called in the main process. Must not use the network.
        """
        return None

    def advise(self, inputs: "Inputs") -> Iterable[Note]:
        """Notes on the step, of kinds that its plugin declares in `finery_notes`.

        Called in the main process, whether the step is built or not; must not use the network. A
        note whose `step` is empty is about this step.
        """
        return ()

    def choices(self) -> Mapping[str, Sequence[str]]:
        """The keys that settings which are mappings may have, where inputs decide them.

        For editors: `{"require": ["sft.accuracy", …]}`. Inputs are placeholders.
        """
        return {}

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

    def leave_out(self, unreleased: Mapping[str, str]) -> Sequence[str]:
        """Change settings that name models which don't exist yet, e.g. requirements.

        Called before `check` for inputs that take several, and that don't have these. unreleased:
        name of the input → why it doesn't exist. Returns what isn't done therefore, in sentences
        without a full stop, which the report and the end of a build repeat as doubts.
        """
        return ()

    def rehearsal(self) -> Rehearsal:
        """What the step does in `finery rehearse`: by default what it always does, with few rows.

        And with the settings of the class keyword `rehearsal`. Called in the worker with opened
        inputs, before `run`. It must be light.
        """
        return Rehearsal(settings=type(self).__spec__.rehearsal)

    # -- for few step types: see `finery.advanced` -------------------------------------------------

    def floating_name(self) -> str | None:
        """An outside name whose meaning can change, e.g. a branch on a hub; None if there is none.

        It is resolved once, and `recipe.lock` keeps the result. The pin is part of the key and
        reaches the step as `job.pinned`. Must not use the network. Called in the main process, with
        outside files found.
        """
        return None

    def pin_name(self, folder: Path) -> str:
        """The current meaning of the floating name, as something that never changes: a commit.

        Content that won't last can be kept in `folder`. A running step gets that folder as
        `job.kept`, which all steps of the project share. It can be empty, e.g. on another machine,
        so a step can't rely on it.
        """
        raise NotImplementedError

    def trace_rows(self, ids: Collection[str], job: "Job") -> Iterator[tuple[str, str]]:
        """(id, place) of the step's rows with one of `ids`, including dropped rows.

        For steps that read rows from outside, and `finery show --row`. Called in the main process,
        with files opened as for `run`. Read what `run` reads, in the same way, as a stream. A place
        is what an error would name: `data/tickets.jsonl:17`, a table and its key, an address.
        """
        raise NotImplementedError

    def provenance(self, name: str, graph: "Graph", results: "Results") -> Mapping[str, Any]:
        """How the inputs were made, for a step whose output says so, e.g. a model card.

        JSON values, by subject; `finery explain` names a subject that changed. They are part of the
        key, and reach the step as `job.provenance`. A step type with this method is planned only
        when all steps that it waits for are built, directly or through others.

        name: of the step. graph: the step and all that it waits for. results: their outputs. Called
        in the main process whenever the step is planned, so it must be light and must not use the
        network.
        """
        return {}


def is_overridden(cls: type[Step], method: str) -> bool:
    """Whether a step type has its own form of an optional method."""
    return getattr(cls, method) is not getattr(Step, method)


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
    for method, name_now in REPLACED_METHODS.items():
        if hasattr(cls, method):
            raise PluginError(
                f"step type '{name}': {where} has the method `{method}`, which finery doesn't call",
                fix=f"return it from `{name_now}`, see docs/howto/plugins.md",
            )
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
    if cls.use is not Step.use:
        raise PluginError(
            f"step type '{name}': {where} overrides `use`, the name of the step type in recipes",
            fix="rename it",
        )
    for problem in _wrong_keywords(cls):
        raise PluginError(f"step type '{name}': {problem}", fix="see docs/howto/plugins.md")


def _wrong_keywords(cls: type[Step]) -> Iterator[str]:
    """The mistakes in class keywords and roles, each as part of a sentence."""
    spec = cls.__spec__
    for keyword in ("isolated", "alone", "seeded", "schemas", "engines", "keeps_prompts"):
        if not isinstance(getattr(spec, keyword), bool):
            yield f"{keyword}={getattr(spec, keyword)!r} must be True or False"
    if not isinstance(spec.gpus, int):
        yield f"gpus={spec.gpus!r} must be a number"
    for keyword in ("packages", "sections"):
        if not isinstance(getattr(spec, keyword), tuple | list):
            yield f"{keyword}={getattr(spec, keyword)!r} must be a tuple of names"
    for section in spec.sections:
        if section not in SECTIONS:
            yield f"there is no section '{section}': {did_you_mean(section, SECTIONS)}"
    for keyword, values in (
        ("learns", get_args(Learns)), ("family", get_args(Family)), ("task", get_args(Task)),
    ):  # fmt: skip
        if (value := getattr(spec, keyword)) not in values:
            meant = did_you_mean(str(value), filter(None, values))
            yield f"{keyword}={value!r} isn't known: {meant}"
    for name in spec.rehearsal:
        if name not in cls.__struct_fields__:
            meant = did_you_mean(name, cls.__struct_fields__)
            yield f"rehearsal names '{name}', which isn't a setting: {meant}"
    for field, info in cls.__finery_fields__.items():
        if info.role not in (roles := get_args(Role)):
            known = ", ".join(filter(None, roles))
            yield f"the role {info.role!r} of '{field}' must be one of {known}"


@contextmanager
def temporary_job(seed: int | None) -> Iterator[Job]:
    """A job in a temporary folder.

    The folder is removed by full paths. `shutil.rmtree` opens folders by their names alone, which
    what observes a step's reads takes for folders of the project.
    """
    folder = Path(mkdtemp(prefix="finery-check-"))
    try:
        (folder / "out").mkdir()
        yield Job(out=folder / "out", scratch=folder / "scratch", seed=seed)
    finally:
        for place, folders, files in os.walk(folder, topdown=False):
            for name in files:
                os.unlink(f"{place}/{name}")
            for name in folders:
                remove = os.unlink if os.path.islink(f"{place}/{name}") else os.rmdir
                remove(f"{place}/{name}")
        folder.rmdir()


def examine_opened(
    step: Step, seed: int | None, *, only_inside: bool = False, opens: bool = False
) -> None:
    """Examine a step whose inputs are opened, before its `run`.

    Steps inside it may open their inputs here, since they would otherwise read them late. The step
    itself may only with `opens`: its `run` reads them first. An error of a step inside it names
    that step's setting. only_inside: not the step itself.
    """
    for path, within in [*([] if only_inside else [("", step)]), *steps_inside(step)]:
        if not is_overridden(type(within), "examine"):  # a folder takes a while
            continue
        with temporary_job(seed) as job:
            try:
                within.examine(BuiltLook(within, job, opens=opens or bool(path)))
            except FineryError as error:
                first = (error.where or "").partition(":")[0].partition(".")[0]
                if path and (not first or first in type(within).__struct_fields__):
                    error.where = f"{path}.{error.where}" if error.where else path
                raise
