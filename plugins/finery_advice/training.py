"""A training as the notes look at it: the one place that knows how its settings are named."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import Any, NamedTuple

from finery import Dataset, Graph, Model, Node, Results, Source, find_files, sources_of
from finery.rows import Row
from finery_advice.lineage import models_under, overlap, trained_under

PREFERENCE = ("dpo", "orpo", "kto")
"""Step types, behind the dot, that learn from preferences."""
MOST_READ = 20_000
"""More rows aren't searched for their classes: that many are enough of any."""
MOST_COUNTED = 256 * 1024 * 1024
"""Larger files, in bytes, aren't counted before they are built: a plan is to be quick."""
_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([MB])(?![A-Za-z0-9])", re.IGNORECASE)


class Count(NamedTuple):
    """A number of rows; not exact where it follows from a share."""

    rows: int
    exact: bool = True

    def __str__(self) -> str:
        return (
            f"{'' if self.exact else 'about '}{self.rows:,} {'row' if self.rows == 1 else 'rows'}"
        )


class Training:
    """One training of a recipe, with what is known about its rows and models."""

    def __init__(self, graph: Graph, results: Results, node: Node) -> None:
        self.graph = graph
        self.results = results
        self.node = node

    @property
    def name(self) -> str:
        """What the recipe calls it."""
        return self.node.name

    @property
    def kind(self) -> str:
        """Its step type behind the dot, e.g. `sft`."""
        return self.node.use.rpartition(".")[2]

    @property
    def supervised(self) -> bool:
        """Whether it learns from answers, not from preferences."""
        return self.kind not in PREFERENCE

    def setting(self, name: str) -> Any:
        """A setting, `lora.r` for one inside another; None where the step type has none such."""
        value: Any = self.node.step
        for part in name.split("."):
            value = getattr(value, part, None)
        return value

    @cached_property
    def rows(self) -> Count | None:
        """The rows to learn from; None while that isn't known."""
        counts = [count_rows(self.graph, self.results, s) for s in self._row_sources]
        known = [c for c in counts if c is not None]
        if not counts or len(known) < len(counts):
            return None
        return Count(sum(c.rows for c in known), all(c.exact for c in known))

    @property
    def _row_sources(self) -> list[Source]:
        return [s for s in self.node.sources if s.field == "rows"]

    @property
    def validates(self) -> bool | None:
        """Whether there are validation rows; None where the step type takes none."""
        if not hasattr(self.node.step, "validation"):
            return None
        return self.setting("validation") is not None

    @cached_property
    def judges(self) -> list[Node]:
        """Evaluators of this model, or of one that was made from it."""
        return [
            node
            for node in self.graph.nodes.values()
            if node.section == "evaluate"
            and any(self.name in models_under(self.graph, s.step) for s in sources_of(node, Model))
        ]

    @cached_property
    def judges_of_task(self) -> list[Node]:
        """The evaluators that tell what is learned: of the model, else of the rows' origin."""
        if self.judges:
            return self.judges
        return [
            node
            for node in self.graph.nodes.values()
            if node.section == "evaluate" and self._same_rows(node)
        ]

    def _same_rows(self, judge: Node) -> bool:
        return any(
            _origins(self.graph, a) & _origins(self.graph, b)
            for a in self._row_sources
            for b in sources_of(judge, Dataset)
        )

    def has_baseline(self) -> bool:
        """Whether its base, as it is or prompted, is judged on the same rows."""
        bases = models_under(self.graph, self.name) - trained_under(self.graph, self.name)
        judged_on = {s.ref for judge in self.judges for s in sources_of(judge, Dataset)}
        for node in self.graph.nodes.values():
            same = {s.ref for s in sources_of(node, Dataset)} & judged_on
            if node.section == "evaluate" and (same or not judged_on):
                for source in sources_of(node, Model):
                    under = models_under(self.graph, source.step)
                    if bases & under and not trained_under(self.graph, source.step):
                        return True
        return False

    def leaks(self) -> Iterator[tuple[str, str, str]]:
        """(what, its rows, their common origin) for rows that are learned and judged on alike."""
        held_out = [s for s in self.node.sources if s.field == "validation"]
        places = [("its validation rows", s) for s in held_out]
        places += [(judge.name, s) for judge in self.judges for s in sources_of(judge, Dataset)]
        for what, source in places:
            for mine in self._row_sources:
                origin = overlap(self.graph, mine, source)
                if origin is not None:
                    yield what, source.ref, origin
                    break

    def after_sft(self) -> bool:
        """Whether its model was fine-tuned on answers before, in this recipe."""
        trained = trained_under(self.graph, self.name) - {self.name}
        uses = (self.graph.nodes[name].use.rpartition(".")[2] for name in trained)
        return any(use not in PREFERENCE for use in uses)

    @cached_property
    def parameters(self) -> float | None:
        """Parameters of its base: as built, else as the names in the recipe say."""
        for name in models_under(self.graph, self.name) - trained_under(self.graph, self.name):
            meta = self.results.meta(name) or {}
            found = meta.get("parameters") or size_in_name(self.graph.nodes[name])
            if found:
                return float(found)
        return None

    def examples(self) -> Iterator[Row] | None:
        """Rows to learn from, MOST_READ at most; None while they aren't built."""
        found = [self.results.artifact(s.step, s.output) for s in self._row_sources]
        built = [dataset for dataset in found if isinstance(dataset, Dataset)]
        if not built or len(built) < len(found):
            return None
        return islice(chain.from_iterable(built), MOST_READ)

    def rarest_class(self, judge: Node) -> tuple[str, int] | None:
        """(class, its rows) of the class with the fewest rows, as an evaluator reads the rows."""
        rows = self.examples()
        if rows is None:
            return None
        counts = _classes(judge, list(rows))
        return min(counts.items(), key=lambda pair: (pair[1], pair[0]), default=None)


def trainings(graph: Graph, results: Results) -> list[Training]:
    """The trainings of a recipe: steps of the section `train` that take rows."""
    nodes = (n for n in graph.nodes.values() if n.section == "train")
    return [Training(graph, results, n) for n in nodes if any(s.field == "rows" for s in n.sources)]


def count_rows(graph: Graph, results: Results, source: Source) -> Count | None:
    """Rows of an output: counted by its step, else read off a plain file and a split's shares."""
    meta = results.meta(source.step, source.output)
    if meta is not None:
        return Count(int(meta["rows"])) if "rows" in meta else None
    node = graph.nodes[source.step]
    if node.use == "data.file":
        return _lines(graph, node)
    shares = getattr(node.step, "shares", None)
    if node.use == "data.split" and shares is not None:
        before = [count_rows(graph, results, s) for s in node.sources]
        if all(before):
            rows = sum(count.rows for count in before if count)
            return Count(round(rows * shares()[source.output]), exact=False)
    return None


def size_in_name(node: Node) -> float | None:
    """Parameters as a model's name tells: 4e9 for `Qwen/Qwen3-4B`, 135e6 for `…-135M-…`."""
    for name in ("repo", "file", "path", "package"):
        found = _SIZE.search(str(getattr(node.step, name, "") or ""))
        if found:
            return float(found[1]) * {"m": 1e6, "b": 1e9}[found[2].lower()]
    return None


def _lines(graph: Graph, node: Node) -> Count | None:
    """The rows of plain JSON lines; None for any other file, whose rows take reading."""
    files = find_files(graph.recipe, (*node.place, "path"), node.step.path)  # type: ignore[attr-defined]
    if any(path.suffix != ".jsonl" or path.stat().st_size > MOST_COUNTED for _, path in files):
        return None
    lines = 0
    for _, path in files:
        with path.open("rb") as file:
            lines += sum(1 for line in file if line.strip())
    return Count(min(lines, getattr(node.step, "take", None) or lines), exact=False)


def _origins(graph: Graph, source: Source) -> set[str]:
    """The steps without rows of their own to take that some rows come from."""
    found, stack = set[str](), [source.step]
    while stack:
        step = stack.pop()
        before = [s.step for s in sources_of(graph.nodes[step], Dataset)]
        stack += before
        found |= set() if before else {step}
    return found


def _classes(judge: Node, rows: Sequence[Row]) -> Counter[str]:
    """Rows of each class, read as an evaluator of classes reads what its rows expect."""
    from finery.rows.answers.reading import Reader, Unreadable

    settings = {name: getattr(judge.step, name, None) for name in ("extract", "match")}
    reader = Reader(
        fields=tuple(getattr(judge.step, "fields", ())),
        extract=settings["extract"],
        match=settings["match"] or "exact",
        ignore_case=bool(getattr(judge.step, "ignore_case", False)),
    )
    counts: Counter[str] = Counter()
    for row in rows:
        try:
            values = reader.expected(row).values
        except Unreadable:
            continue  # it counts for no class
        named = zip(reader.columns, values, strict=True)
        counts.update(f"{c}: {v}" if reader.fields else v for c, v in named)
    return counts
