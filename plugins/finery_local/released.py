"""`release.model`: the model of the last release under a tag."""

from finery import Job, Model, UsageError
from finery.advanced import Released


class ReleasedModel(Released, sections=("models",)):
    """Bring back the model that `finery release` recorded under a tag, to compare others with it.

    Before the first release, what lists it runs without it, and requirements that name it aren't
    checked, which the build says.
    """

    def check(self) -> None:
        """Raise `UsageError` for a tag without characters."""
        if not self.tag.strip():
            raise UsageError("`tag` is empty", where="tag", fix="write tag: production")

    def run(self, job: Job) -> Model:
        """Never called: the model is taken from the store."""
        model: Model = super().run(job)
        return model
