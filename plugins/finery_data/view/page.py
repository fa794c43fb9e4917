"""What pages and reports show of rows: a report on data sets, and the section of a build."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path

from finery import Dataset, FineryError, Model, UsageError
from finery.advanced import did_you_mean
from finery.views import Context, Finding, Output, Part, Section, Table, Text, counts_in_words
from finery_data.duplicates import Overlap, overlap_of
from finery_data.overlap import are_apart
from finery_data.report.facts import NEAR_ROWS, SAMPLES, Counting, lengths_and_classes, measure
from finery_data.report.page import by_output, overlap_parts, report_sections

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


COUNTED = 20_000
"""Rows of a data set that are read for its lengths and classes."""


def rows_section(outputs: Sequence[Output], context: Context) -> Section:
    """The section about all data sets of a build."""
    return Section("Rows", _parts(outputs, context), rank=20)


def _parts(outputs: Sequence[Output], context: Context) -> Iterator[Part]:
    datasets, named = [], []
    for title, dataset, *_ in outputs:
        assert isinstance(dataset, Dataset)
        lengths, classes = lengths_and_classes(islice(dataset, COUNTED))
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
