"""A training from the perspective of notes, and the origin of its models and rows.

No other module knows the names of its settings.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain, islice
from statistics import fmean
from typing import Any, NamedTuple

from finery import Count, Dataset, Inputs, Model
from finery.advanced import Forecasts, Graph, Node, Results, Source
from finery.rows import Row
from finery.rows.spelling import misspelt
from finery_data.checks.labels import MOST

Chain = list[tuple[str, str]]
"""(step, output) of some rows, then of the rows they derive from, and so on to the origin."""


def trained_under(graph: Graph, name: str) -> set[str]:
    """The trainings among `Graph.models_under`."""
    return {step for step in graph.models_under(name) if graph.nodes[step].trains}


def judges_of(graph: Graph, name: str) -> list[Node]:
    """The evaluators of what a step makes, or of what derives from it."""
    return [
        judge
        for judge in graph.nodes.values()
        if judge.evaluates
        and judge.step.__spec__.task != "speed"
        and any(name in graph.models_under(source.step) for source in judge.sources_of(Model))
    ]


def chains(graph: Graph, step: str, output: str) -> Iterator[Chain]:
    """Every path from some rows back to a step that reads them from outside."""
    before = graph.nodes[step].row_sources
    if not before:
        yield [(step, output)]
    for source in before:
        for rest in chains(graph, source.step, source.output):
            yield [(step, output), *rest]


def origins(graph: Graph, sources: Iterable[Source]) -> set[str]:
    """The steps that read some rows from outside."""
    return {path[-1][0] for source in sources for path in chains(graph, source.step, source.output)}


def overlap(graph: Graph, one: Source, other: Source) -> str | None:
    """The step that two inputs both get rows from, if no split separates them."""
    for first in chains(graph, one.step, one.output):
        for second in chains(graph, other.step, other.output):
            if _same_origin(graph, first[-1][0], second[-1][0]) and not (
                _parted(first, second) or _cleaned(graph, first, second)
            ):
                return first[-1][0]
    return None


def _same_origin(graph: Graph, one: str, other: str) -> bool:
    """Whether these are one step, or two that read the same file."""
    files, others = (set(graph.nodes[step].file_patterns) for step in (one, other))
    return one == other or not files.isdisjoint(others)


def _cleaned(graph: Graph, one: Chain, other: Chain) -> bool:
    """Whether a step on one path drops rows that are on the other."""
    steps = [graph.nodes[step] for step, _ in one]
    compared = {(s.step, s.output) for n in steps for s in n.sources if s.role == "compare"}
    return not compared.isdisjoint(other)


def _parted(one: Chain, other: Chain) -> bool:
    """Whether the two use different outputs of a step, which share no rows."""
    outputs = dict(one)
    return any(step in outputs and outputs[step] != output for step, output in other)


# -- trainings ------------------------------------------------------------------------------------


MOST_READ = 20_000
"""Number of rows that are searched for classes, enough for any."""
COUNTED = 1_000
"""Number of rows of an input whose replies are counted. No task needs more."""


class Lessons(NamedTuple):
    """The examples of a training: rows, or the replies in them. words: the number in words."""

    number: int
    words: str


class Training:
    """A training of a recipe, with the facts about its rows and models.

    learns: the name of its examples, e.g. `answers`. supervised: whether it learns from answers,
    not from preferences or ratings.
    """

    def __init__(self, graph: Graph, results: Results, node: Node) -> None:
        self.graph = graph
        self.results = results
        self.node = node
        self.name = node.name
        self.learns = type(node.step).__spec__.learns
        self.family = type(node.step).__spec__.family
        self.supervised = self.learns == "answers"
        self._forecasts = Forecasts(graph, results)
        self._row_sources = learned_from(node)
        self._evaluators = [node for node in graph.nodes.values() if node.evaluates]

    def setting(self, name: str) -> Any:
        """A setting, e.g. `lora.r` for a nested one; None if the step type doesn't have it."""
        value: Any = self.node.step
        for part in name.split("."):
            value = getattr(value, part, None)
        return value

    def input_as(self, role: str) -> str:
        """The name of the first input with a role, empty if there is none."""
        return next(iter(self.node.inputs_as(role)), "")

    @cached_property
    def rows(self) -> Count | None:
        """The number of rows to learn from, None if it isn't known yet."""
        return Inputs(self._forecasts, self.node).count(*self.node.inputs_as("train"))

    @cached_property
    def lessons(self) -> Lessons | None:
        """The rows, or where each reply in them is learned, the replies; None if not known yet."""
        if self.rows is None:
            return None
        mean = self._replies_in_a_row()
        if mean <= 1:
            return Lessons(self.rows.rows, str(self.rows))
        number = round(mean * self.rows.rows)
        about = "" if self.rows.exact and self.rows.rows <= COUNTED else "about "
        return Lessons(number, f"{about}{number:,} replies in {self.rows}")

    def _replies_in_a_row(self) -> float:
        """The mean number of assistant turns that are learned; 1 if unknown."""
        if self.setting("loss") != "all_turns":
            return 1
        samples = [self._forecasts.sample(source, COUNTED) for source in self._row_sources]
        if None in samples:
            return 1
        counts = [_replies(row) for sample in samples for row in sample or ()]
        return fmean(counts) if counts else 1

    @property
    def validates(self) -> bool | None:
        """Whether there are validation rows; None if the training can't measure a loss on any."""
        if not self.input_as("validation") or self.learns in ("rewards", "teacher"):
            return None
        return any(s.role == "validation" for s in self.node.sources)

    @cached_property
    def judges(self) -> list[Node]:
        """Evaluators of this model, or of a model that derives from it."""
        return judges_of(self.graph, self.name)

    @property
    def judges_of_task(self) -> list[Node]:
        """The evaluators that show the task: those of the model, else those of the same rows."""
        if self.judges:
            return self.judges
        learned = origins(self.graph, self._row_sources)
        return [
            node
            for node in self._evaluators
            if origins(self.graph, node.sources_of(Dataset)) & learned
        ]

    def has_baseline(self) -> bool:
        """Whether its base, unchanged or prompted, is evaluated on the same rows."""
        bases = set(self.graph.models_under(self.name)) - trained_under(self.graph, self.name)
        judges = {judge.origin for judge in self.judges}  # of a matrix also the winner's
        judged_on = {
            source.ref
            for node in self._evaluators
            if node.origin in judges
            for source in node.sources_of(Dataset)
        }
        for node in self._evaluators:
            same = {s.ref for s in node.sources_of(Dataset)} & judged_on
            if same or not judged_on:
                for source in node.sources_of(Model):
                    under = self.graph.models_under(source.step)
                    if bases.intersection(under) and not trained_under(self.graph, source.step):
                        return True
        return False

    def leaks(self) -> Iterator[tuple[str, str, str]]:
        """(what, its rows, their common origin) for rows used both to train and to evaluate."""
        held_out = [s for s in self.node.sources if s.role == "validation"]
        places = [("its validation", s) for s in held_out]
        places += [(judge.name, s) for judge in self.judges for s in judge.sources_of(Dataset)]
        for what, source in places:
            for mine in self._row_sources:
                origin = overlap(self.graph, mine, source)
                if origin is not None:
                    yield what, source.ref, origin
                    break

    def after_supervised(self) -> bool:
        """Whether its model was fine-tuned on answers in this recipe before."""
        trained = trained_under(self.graph, self.name) - {self.name}
        nodes = (self.graph.nodes[name] for name in trained)
        return any(type(node.step).__spec__.learns == "answers" for node in nodes)

    @cached_property
    def parameters(self) -> float | None:
        """Parameters of its base: as built, else as stated by its step or its name."""
        for name in set(self.graph.models_under(self.name)) - trained_under(self.graph, self.name):
            parameters = (self.results.meta(name) or {}).get("parameters")
            node = self.graph.nodes[name]
            parameters = parameters or self._forecasts.forecast(node).parameters()
            if parameters:
                return float(parameters)
        return None

    def rarest_class(self, judge: Node) -> tuple[str, int] | None:
        """(class, number of rows) of the rarest class, as an evaluator reads the rows."""
        artifacts = [self.results.artifact(s.step, s.output) for s in self._row_sources]
        datasets = [dataset for dataset in artifacts if isinstance(dataset, Dataset)]
        classes = self._forecasts.forecast(judge).classes
        if classes is None or not datasets or len(datasets) < len(artifacts):
            return None
        counts = classes(islice(chain.from_iterable(datasets), MOST_READ))
        return min(counts.items(), key=lambda pair: (pair[1], pair[0]), default=None)

    def misspelt_class(self, judge: Node) -> tuple[str, str, str] | None:
        """(class that looks misspelt, frequent class that it looks like, id of its first row).

        In the built rows of the training and of an evaluator, as the evaluator reads them.
        """
        classes = self._forecasts.forecast(judge).classes
        if classes is None:
            return None
        sources = [s for node in (self.node, judge) for s in node.sources_of(Dataset)]
        outputs = dict.fromkeys((s.step, s.output) for s in sources)
        artifacts = [self.results.artifact(*output) for output in outputs]
        datasets = [dataset for dataset in artifacts if isinstance(dataset, Dataset)]
        by_field: dict[str, Counter[str]] = {}
        counts = classes(islice(chain.from_iterable(datasets), MOST_READ))
        for name, count in counts.items():
            field, _, label = name.rpartition(": ")
            by_field.setdefault(field, Counter())[label] = count
        for field, of_field in by_field.items():
            for wrong, right in misspelt(of_field).items() if len(of_field) <= MOST else ():
                name = f"{field}: {wrong}" if field else wrong
                rows = chain.from_iterable(datasets)
                row = next(row for row in rows if name in classes([row]))
                return wrong, right, row["id"]
        return None

    def prompted_classes(self, judge: Node) -> tuple[list[str], list[str]]:
        """Classes that the system prompt lists and no row has; those of rows that it doesn't list.

        From the first rows. None of either if the prompt of all of them isn't the same, or lists
        none of their classes.
        """
        count_classes = self._forecasts.forecast(judge).classes
        samples = [self._forecasts.sample(s, COUNTED) for s in self._row_sources]
        rows = list(chain.from_iterable(sample or () for sample in samples))
        classes = [*count_classes(rows)] if count_classes is not None else []
        prompt, *others = {_system_prompt(row) for row in rows} or {""}
        items = {item.strip(_MARKS) for item in _ITEMS.split(prompt.rpartition(":")[2])} - {""}
        if others or len(items) < 2 or items.isdisjoint(classes):
            return [], []
        named = [c for c in classes if re.search(rf"(?<!\w){re.escape(c)}(?!\w)", prompt)]
        is_complete = len(rows) < COUNTED  # otherwise a later row may have it
        unused = [item for item in sorted(items) if not any(item in name for name in classes)]
        return unused if is_complete else [], [name for name in classes if name not in named]


_ITEMS = re.compile(r"[,;\n]|\b(?:or|and)\b")
_MARKS = " \t.`'\"“”‘’-–•*()"
"""What surrounds an item of a list in a prompt."""


def _system_prompt(row: Row) -> str:
    """The first system prompt of a row; empty without one, or for a record that is no row yet."""
    turns = row.get("messages") or row.get("prompt")
    first = turns[0] if isinstance(turns, list) and turns else None
    return str(first.get("content")) if first and first.get("role") == "system" else ""


def trainings(graph: Graph, results: Results) -> list[Training]:
    """The trainings of a recipe that take rows."""
    nodes = (n for n in graph.nodes.values() if n.trains and learned_from(n))
    return [Training(graph, results, n) for n in nodes]


def _replies(row: Row) -> int:
    """The number of assistant turns to learn; rows may still look as in their file."""
    turns = row.get("messages", row.get("completion"))
    if not isinstance(turns, list):
        return 1
    return sum(isinstance(turn, dict) and turn.get("role") == "assistant" for turn in turns)


def learned_from(node: Node) -> list[Source]:
    """The inputs with the rows to learn from."""
    return [s for s in node.sources if s.role == "train"]
