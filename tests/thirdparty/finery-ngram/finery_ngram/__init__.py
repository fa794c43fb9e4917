"""N-gram language models: a trainer, their engine, their views, and advice on them."""

from collections.abc import Mapping

from finery import hookimpl
from finery.advanced import About


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The trainer."""
    return {"ngram.train": "finery_ngram.steps:Train"}


@hookimpl
def finery_engines() -> Mapping[str, str]:
    """What answers with such a model."""
    return {"ngram": "finery_ngram.engine:NgramEngine"}


@hookimpl
def finery_views() -> Mapping[str, str]:
    """What such a model looks like."""
    return {"Model/ngram": "finery_ngram.view:NgramView"}


@hookimpl
def finery_notes() -> Mapping[str, About]:
    """The kinds of notes."""
    return {
        "ngram-order": About(
            when="an n-gram model of order 5 or more learns from fewer than 10,000 rows",
            why="Most of its contexts are seen once, so it repeats rows and knows little else.",
        )
    }
