"""The steps of a report in groups: all variants of a step are one line and one box."""

from collections.abc import Sequence
from typing import NamedTuple

from finery.compare.fold import folded, title_of
from finery.report.steps import ORDER, ReportedStep, State, counts
from finery.util.text import counted, duration


class Group(NamedTuple):
    """A step, or all variants of one. upstream: titles of the groups that it waits for."""

    title: str
    steps: Sequence[ReportedStep]
    upstream: Sequence[str]

    @property
    def name(self) -> str:
        """The step's name; for variants, the name that they share."""
        node = self.steps[0].node
        return node.origin if len(self.steps) > 1 else node.name

    @property
    def variants(self) -> str:
        """`12 variants`; empty of a step without variants."""
        return counted(len(self.steps), "variant") if len(self.steps) > 1 else ""

    @property
    def use(self) -> str:
        """The step type."""
        return self.steps[0].node.use

    @property
    def state(self) -> State:
        """The step's state; for variants, the state that most needs attention."""
        return min((step.state for step in self.steps), key=ORDER.index)

    @property
    def detail(self) -> str:
        """Why it isn't built; of variants how many are in each state, if they differ."""
        if len(self.steps) == 1 or len({step.detail for step in self.steps}) == 1:
            return self.steps[0].detail
        found = list(counts(self.steps))
        return ", ".join(found) if len(found) > 1 else ""

    @property
    def time(self) -> str:
        """The time that all of it took; empty if unknown."""
        results = [step.result for step in self.steps if step.result]
        return duration(sum(result.seconds for result in results)) if results else ""


def groups_of(steps: Sequence[ReportedStep]) -> list[Group]:
    """The groups in the order of the graph."""
    groups = folded(steps, lambda step: step.node, lambda _: None)
    titles = [title_of([step.node for step in group]) for group in groups]
    title_at = {
        step.node.name: title for title, group in zip(titles, groups, strict=True) for step in group
    }
    return [
        Group(title, group, _upstream(title, group, title_at))
        for title, group in zip(titles, groups, strict=True)
    ]


def _upstream(title: str, group: Sequence[ReportedStep], title_at: dict[str, str]) -> list[str]:
    names = [name for step in group for name in step.node.upstream()]
    titles = dict.fromkeys(title_at.get(name, name) for name in names)
    return [each for each in titles if each != title]
