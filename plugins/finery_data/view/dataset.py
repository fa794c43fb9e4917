"""The display of data sets: in a terminal, on a page of their own, and in the report of a build."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

from finery import Dataset, FineryError, Model, UsageError
from finery.advanced import Manifest, counted, did_you_mean
from finery.rows import Row
from finery.views import (
    Context,
    Detail,
    Facts,
    Finding,
    Output,
    Part,
    Record,
    Records,
    Section,
    Table,
    Text,
    View,
    counts_in_words,
    record_of,
)
from finery_data.duplicates import Overlap, overlap_of
from finery_data.overlap import are_apart
from finery_data.report.facts import NEAR_ROWS, SAMPLES, Counting, lengths_and_classes, measure
from finery_data.report.page import (
    by_output,
    drop_parts,
    drops_data,
    overlap_parts,
    report_sections,
)

COUNTED = 100_000
"""Rows of a data set that are read for its lengths and classes."""


class DatasetView(View):
    """The view of data sets."""

    side_by_side = True
    page_suffix = "-report"

    def brief(self, manifest: Manifest) -> str:
        """The number of rows."""
        return counted(manifest.meta["rows"], "row")

    def data(self, output: Output, detail: Detail) -> dict[str, Any]:
        """The first rows, and what was dropped or found fault with."""
        dataset = dataset_of(output)
        rows = list(islice(dataset, detail.rows))
        return {"rows": rows, **drops_data(dataset, every=detail.dropped)}

    def facts(self, output: Output) -> Mapping[str, Any]:
        """`meta`, and lengths and classes of the rows in a line each."""
        return {**output.manifest.meta, **row_facts(dataset_of(output))}

    def describe(self, outputs: Sequence[Output], context: Context) -> Iterator[Section]:
        """Facts, the first rows, and what was dropped or found fault with.

        On a page, a report on all of them, which is too slow and too long for a terminal. Of a
        build, a table and the training rows that copy test rows.
        """
        if context.scope == "build":
            yield Section("Rows", _build_parts(outputs, context), rank=20)
        elif context.scope == "output" and context.medium == "page":
            yield from report_on({o.title: dataset_of(o) for o in outputs}, context)
        elif context.scope == "output":
            yield from (Section(o.title, self._parts(o, context.detail)) for o in outputs)

    def _parts(self, output: Output, detail: Detail) -> Iterator[Part]:
        dataset = dataset_of(output)
        yield Facts(self.facts(output))
        rows = map(self.record, islice(dataset, detail.rows))
        yield Records(rows, len(dataset), shown=detail.rows, more="--rows N")
        yield from drop_parts(dataset, every=detail.dropped)

    def record(self, row: Row) -> Record:
        """What is shown of one of the first rows."""
        return record_of(row)

    def difference(self, before: Output, after: Output) -> dict[str, Any]:
        """The rows that were added, removed and changed."""
        from finery_data.view.difference import difference_of

        return difference_of(dataset_of(before), dataset_of(after))

    def compare(self, before: Output, after: Output, context: Context) -> Iterator[Section]:
        """How many rows differ, and the first of each kind."""
        from finery_data.view.difference import difference_parts

        data = self.difference(before, after)
        yield Section(after.title, difference_parts(data, context.detail.rows))


def dataset_of(output: Output) -> Dataset:
    """The data set of an output."""
    assert isinstance(output.artifact, Dataset)
    return output.artifact


def row_facts(dataset: Dataset) -> dict[str, str]:
    """Lengths and classes of the rows, in a line each."""
    lengths, classes = lengths_and_classes(islice(dataset, COUNTED))
    first = f", of the first {COUNTED:,} rows" if len(dataset) > COUNTED else ""
    facts = {
        part: f"{of.at(0):,} to {of.at(1):,} characters, median {of.at(0.5):,}{first}"
        for part, of in lengths.items()
    }
    return facts | {f"by {n}": counts_in_words(of) for n, of in classes.items()}


# -- the report of a build -------------------------------------------------------------------------


MOST = 5_000
"""Rows of each side that are compared."""
QUESTION = "Are test rows among the training rows?"


def contaminations(context: Context) -> Iterator[Overlap]:
    """Each pair of training rows and test rows that are built."""
    nodes = context.graph.nodes.values()
    learned = {
        s.ref: s
        for n in nodes
        for s in n.row_sources
        if s.role == "train" or (s.role == "" and n.trains)  # baselines aren't trainings
    }
    tests = {s.ref: s for n in nodes if n.evaluates for s in n.row_sources}
    with tempfile.TemporaryDirectory(prefix="finery-report-") as folder:
        for train, test in product(sorted(learned), sorted(tests)):
            rows, held = context.built(train), context.built(test)
            if isinstance(rows, Dataset) and isinstance(held, Dataset):
                apart = are_apart(context.graph, learned[train], tests[test])
                one, other = (train, rows), (test, held)
                yield overlap_of(one, other, MOST, Path(folder), context.progress, are_apart=apart)


def finding(found: list[Overlap]) -> Finding:
    """The finding on whether the scores only measure memory. Open if not all rows were compared."""
    if not found:
        text = "Not measured: no training rows or no test rows are built."
        return Finding(QUESTION, text, "open", 4)
    bad = [c for c in found if c.counts]
    if bad:
        return Finding(QUESTION, f"Yes: {'; '.join(map(_copies, bad))}.", "bad", 4)
    pairs = ", ".join(f"{c.one} and {c.other}{c.limits}" for c in found)
    if any(pair.compared for pair in found):
        text = f"Only partly measured: no copies or near copies of prompts in {pairs}."
        return Finding(QUESTION, text, "open", 4)
    return Finding(QUESTION, f"No copies or near copies of prompts in {pairs}.", "good", 4)


def _copies(pair: Overlap) -> str:
    return (
        f"{pair.counts.total():,} of {pair.searched:,} rows of {pair.one} copy or nearly copy a "
        f"prompt of {pair.other}{pair.limits}"
    )


SUMMARISED = 20_000
"""Rows of a data set that are read for its lengths and classes."""


def _build_parts(outputs: Sequence[Output], context: Context) -> Iterator[Part]:
    """What a report shows of all data sets of a build."""
    datasets, named = [], []
    for title, dataset, *_ in outputs:
        assert isinstance(dataset, Dataset)
        lengths, classes = lengths_and_classes(islice(dataset, SUMMARISED))
        spans = (f"{part} {of.at(0.5):,} / {of.at(1):,}" for part, of in lengths.items())
        datasets.append((title, len(dataset), "; ".join(spans)))
        named += [f"{title}, {name}: {counts_in_words(of)}" for name, of in classes.items()]
    yield Table(["data set", "rows", "characters, median / longest"], datasets)
    if named:
        yield Section("Classes", map(Text, named), is_folded=True)
    drops = [
        f"{output.title}, {name}: {', '.join(f'{reason} {n:,}' for reason, n in counts.items())}"
        for output in outputs
        for name in ("dropped", "findings")
        if (counts := output.manifest.meta.get(name))
    ]
    none = [Text("No step dropped a row or reported one.", "soft")]
    yield Section("Dropped rows and findings", [*map(Text, drops)] or none)
    overlaps = list(contaminations(context))
    yield overlap_section(overlaps)
    yield finding(overlaps)


def overlap_section(overlaps: Sequence[Overlap]) -> Section:
    """How many rows of each pair copy prompts of the other."""
    none = [Text("Not measured: no training rows or no test rows are built.", "soft")]
    return Section("Training rows against test rows", [*overlap_parts(overlaps)] or none)


NONE = "none"
"""The value of `--tokenizer` for lengths in characters."""
TOKENIZERS = ("transformers", "gguf", "adapter")
"""Formats of models that have a tokenizer."""


def report_on(datasets: Mapping[str, Dataset], context: Context) -> Iterator[Section]:
    """The page. datasets: name in the recipe → output, all of one step.

    Lengths are in tokens of the model that `--tokenizer` names. The default is the model that is
    trained on the rows, if it is built and has a usable tokenizer.
    """
    if context.tokenizer is not None:
        return _report(datasets, context, _named_model(context, context.tokenizer))
    model = _trained_model(context, next(iter(datasets)).partition(".")[0])
    try:
        return _report(datasets, context, model)
    except FineryError as error:
        if model is None:
            raise
        context.note(f"lengths in characters: {error.what}")
        return _report(datasets, context, None)


def _report(
    datasets: Mapping[str, Dataset], context: Context, model: tuple[str, Model] | None
) -> Iterator[Section]:
    if model is not None:  # importing transformers and reading the tokenizer takes seconds
        context.progress(f"loading the tokenizer of {model[0]}", 0, 0)
    counting = Counting() if model is None else _counting(*model)
    with tempfile.TemporaryDirectory(prefix="finery-report-") as folder:
        report = measure(
            by_output(datasets),
            Path(folder),
            counting=counting,
            near_rows=NEAR_ROWS,
            samples=SAMPLES,
            progress=context.progress,
        )
    return report_sections(report)


def _counting(name: str, model: Model) -> Counting:
    try:
        return Counting(model, name)
    except FineryError as error:
        raise UsageError(
            f"the tokenizer of {name} can't be used: {error.what}",
            where="--tokenizer",
            fix="name another model, or --tokenizer none for lengths in characters",
        ) from error
    except ImportError as error:
        raise UsageError(
            f"the tokenizer of {name} needs transformers, which isn't installed",
            where="--tokenizer",
            fix="pip install 'finery[train]', or --tokenizer none for lengths in characters",
        ) from error


def _named_model(context: Context, name: str) -> tuple[str, Model] | None:
    """The model that `--tokenizer` names."""
    if name == NONE:
        return None
    step = name.partition(".")[0]
    models = [n for n, node in context.graph.nodes.items() if Model in node.outputs.values()]
    if step not in models:
        raise UsageError(
            f"there is no model '{step}'",
            where="--tokenizer",
            fix=did_you_mean(step, [*models, NONE]),
        )
    model = context.built(name)
    if not isinstance(model, Model):
        raise UsageError(
            f"the model '{step}' isn't built yet",
            where="--tokenizer",
            fix=f"finery build --step {step}",
        )
    return name, model


def _trained_model(context: Context, step: str) -> tuple[str, Model] | None:
    """The model that is trained on a step's rows, or on what is made of them, if it is built."""
    after = {step}
    for node in context.graph.nodes.values():
        if after.isdisjoint(source.step for source in node.sources_of(Dataset)):
            continue
        if not node.trains:
            after.add(node.name)
            continue
        for name in context.graph.models_under(node.name)[1:]:
            model = context.built(name)
            if isinstance(model, Model) and model.meta.get("format") in TOKENIZERS:
                return name, model
    return None
