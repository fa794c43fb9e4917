"""Where the decisions on rows are."""

from collections.abc import Collection, Iterator

from finery import Job, Traceable, shown
from finery_review.apply import Apply
from finery_review.decisions import parse


class DecisionPlaces(Traceable[Apply]):
    """Decisions by file and line."""

    def trace(self, ids: Collection[str], job: Job) -> Iterator[tuple[str, str]]:
        """The line of the decision on each row with one of `ids`, and what it says."""
        for path in self.step.reviews.paths:
            for number, line in enumerate(path.read_bytes().splitlines(), 1):
                for decision in parse(line + b"\n", shown(path), number - 1)[0]:
                    if decision.id in ids:
                        by = f" by {decision.by}" if decision.by else ""
                        yield decision.id, f"{shown(path)}:{number} ({decision.do}{by})"
