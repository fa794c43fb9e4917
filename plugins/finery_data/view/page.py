"""The page of data sets that `finery show --html` writes: a report, and whose tokens it counts."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from finery import Dataset, FineryError, Model, UsageError
from finery.util.text import did_you_mean
from finery.views import PageContext
from finery_data.report.facts import NEAR_ROWS, SAMPLES, Counting, measure
from finery_data.report.page import by_output, render

NONE = "none"
"""The value of `--tokenizer` for lengths in characters."""
TOKENIZERS = ("transformers", "gguf", "adapter")
"""Formats of models that have a tokenizer."""


def report_on(datasets: Mapping[str, Dataset], context: PageContext) -> str:
    """The page as HTML. datasets: name in the recipe → output, all of one step.

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
    datasets: Mapping[str, Dataset], context: PageContext, model: tuple[str, Model] | None
) -> str:
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
    return render(context.title, report)


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


def _named_model(context: PageContext, name: str) -> tuple[str, Model] | None:
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


def _trained_model(context: PageContext, step: str) -> tuple[str, Model] | None:
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
