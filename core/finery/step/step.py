"""What a plugin author subclasses: a step type is a class with typed fields and `run`."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
)

from finery.artifact.kinds import Artifact

if TYPE_CHECKING:
    from finery.preflight.report import Proof
    from finery.step.job import Job
from finery.fields import Settings, Spec
from finery.step.inspect import declared_outputs


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

    def static_meta(self) -> dict[str, Any]:
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
        training calls it of an evaluator that it watches (see `nested_step`), before its first
        optimizer step; `finery check --deep` does so too.
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
