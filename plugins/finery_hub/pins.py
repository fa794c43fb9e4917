"""Pins for names on the hub: a branch or tag is resolved to a commit once."""

from finery import Pinned
from finery_hub.client import COMMIT, resolve
from finery_hub.dataset import HubDataset
from finery_hub.model import HubModel


class ModelPin(Pinned[HubModel]):
    """The commit of a model's branch or tag."""

    def floating(self) -> str | None:
        """The branch or tag to pin; a commit needs no pin."""
        step = self.step
        return None if COMMIT.fullmatch(step.revision) else f"hub:{step.repo}@{step.revision}"

    def pin(self) -> str:
        """The commit that the branch or tag currently names."""
        return resolve(self.step.repo, self.step.revision)


class DatasetPin(Pinned[HubDataset]):
    """The commit of a data set's branch or tag."""

    def floating(self) -> str | None:
        """The branch or tag to pin; a commit needs no pin."""
        if COMMIT.fullmatch(self.step.revision):
            return None
        return f"hub:datasets/{self.step.repo}@{self.step.revision}"

    def pin(self) -> str:
        """The commit that the branch or tag currently names."""
        return resolve(self.step.repo, self.step.revision, "dataset")
