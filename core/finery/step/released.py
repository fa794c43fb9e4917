"""The base of step types that bring a release back, which the builder takes from the store."""

from typing import Any

from finery.artifact.kinds import Model
from finery.errors import StepError
from finery.fields import setting, takes
from finery.step.job import Job
from finery.step.step import Step


class Released(Step, seeded=False):
    """An output that was released, by its tag. Subclasses say its kind, as `run` returns it.

    Its key is the released digest. It never runs: the builder finds its files in the store or in
    the shared store. Before the first release, steps that list it run without it.
    """

    tag: str = setting(help="The tag of the release, as in `finery release STEP --as TAG`.")
    base: Model | None = takes(
        None,
        role="base",
        help="The model that the release can't be used without, for an adapter whose base has its "
        "files outside of the store. It must be the one that the adapter was trained on.",
    )

    def run(self, job: Job) -> Any:
        """Never called."""
        raise StepError("the files of a release are taken from the store", fix="finery fetch")
