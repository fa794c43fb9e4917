"""Notes on limits that are counted by another tokenizer than that of the prompted model.

In goes a recipe's graph with its built models. Out come notes on steps with a `limit` whose index
has the tokenizer of another base.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from finery import About, Graph, Model, Node, Note, Results, base_models, sources_of, trains
from finery_retrieve.formats import TOKENIZERS
from finery_retrieve.notes import GROUNDED, PUT_IN, RETRIEVING, origins

OTHER = "other-tokenizer"
KINDS = {
    OTHER: About(
        when="`limit` counts tokens by the tokenizer of another base than that of the model that "
        "gets the prompts, and both bases are built",
        why="Tokenizers split texts differently, so chunks within the limit can have more or fewer "
        "tokens for the model.",
    ),
}
LIMITED = (RETRIEVING, GROUNDED, *PUT_IN)
"""Steps with a `limit`."""
VOCABULARY = "tokenizer.json"


def notes_on_tokenizers(graph: Graph, results: Results) -> Iterator[Note]:
    """All notes on limits that another tokenizer counts, at most one for each step."""
    for node in graph.nodes.values():
        if node.use not in LIMITED or getattr(node.step, "limit", None) is None:
            continue
        for tokenizer in _tokenizers(graph, node):
            models = _models(graph, node)
            others = (name for name in models if _differ(graph, results, name, tokenizer))
            yield from (_note(graph, node, name, tokenizer) for name in islice(others, 1))


def _note(graph: Graph, node: Node, model: str, tokenizer: str) -> Note:
    index = next(source.step for source in node.sources if source.field == "index")
    return Note(
        name=OTHER,
        text=f"the limit of {node.name} counts tokens of {tokenizer}, but its prompts are for "
        f"{model}",
        fix=f"write tokenizer: {min(_roots(graph, model))} in {index}",
        step=node.name,
        place=(*node.place, "limit"),
    )


def _tokenizers(graph: Graph, node: Node) -> list[str]:
    """The step whose tokenizer counts for the index of a step; none if nothing is known of it."""
    indices = [graph.nodes[source.step] for source in node.sources if source.field == "index"]
    return [s.step for index in indices for s in index.sources if s.role == "tokenizer"]


def _models(graph: Graph, node: Node) -> Iterator[str]:
    """The models that get a step's prompts: those it takes, or those trained on its rows."""
    if node.use in PUT_IN:
        for training in graph.nodes.values():
            rows = (s.step for s in training.sources if s.role == "train")
            if trains(training) and any(node.name in origins(graph, step) for step in rows):
                yield training.name
    else:
        yield from (s.step for s in sources_of(node, Model) if s.field in ("model", "models"))


def _differ(graph: Graph, results: Results, model: str, tokenizer: str) -> bool:
    """Whether a model and the one that counts are known to have different bases."""
    bases, counting = _roots(graph, model), _roots(graph, tokenizer)
    facts = [results.meta(name) for name in (*bases, *counting)]
    if bases & counting or not all(of and of.get("format") in TOKENIZERS for of in facts):
        return False
    vocabularies = {_vocabulary(of) for of in facts}
    return len(vocabularies) > 1 or None in vocabularies


def _roots(graph: Graph, step: str) -> set[str]:
    """The models at the bottom of a model."""
    below = [source.step for source in base_models(graph.nodes[step])]
    return {root for name in below for root in _roots(graph, name)} or {step}


def _vocabulary(meta: dict[str, Any] | None) -> str | None:
    """The digest of the tokenizer's file; None for a GGUF, which contains its tokenizer."""
    file = ((meta or {}).get("files") or {}).get(VOCABULARY) or {}
    return file.get("blake3")
