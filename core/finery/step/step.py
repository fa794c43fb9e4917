"""What a plugin author subclasses: a step type is a class with typed fields and `run`."""

from collections.abc import Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
)

from finery.artifact.kinds import Artifact

if TYPE_CHECKING:
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
        """What else has code that is part of the key: functions, classes, names of modules, files.

        Override it where settings name some; a file is a `Path`. What they import counts as for a
        step type. Called in the main process, with outside files found.
        """
        return []

    def uses_seed(self) -> bool:
        """Whether the seed can change the output; only then it is in the key."""
        return type(self).__spec__.seeded

    def choices(self) -> Mapping[str, Sequence[str]]:
        """The keys that settings which are mappings may have, where inputs decide them.

        For editors: `{"require": ["sft.accuracy", …]}`. Inputs are placeholders.
        """
        return {}

    def variables(self) -> tuple[str, ...]:
        """Environment variables that settings name: the step gets them as if `env:` named them."""
        return ()

    def verify(self, outputs: Mapping[str, Artifact]) -> None:
        """Judge the finished outputs; raise `RequirementError` to fail the build.

        Called in the main process after every build of the step and on cached results too, so
        it must be light. Inputs are placeholders here.
        """
