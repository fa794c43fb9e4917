"""Notes on recipes with documents: what a model learns, is asked and is limited by."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from finery import Dataset, Files, Index, Model, Note
from finery.advanced import About, Graph, Node, Results, Source, counted
from finery_retrieve.formats import TOKENIZERS

SHARED, UNRETRIEVED, RANDOM = "shared-documents", "knowledge-by-heart", "random-distractors"
TWICE, DIFFERENT, OTHER = "retrieved-twice", "different-prompts", "other-tokenizer"
KINDS = {
    TWICE: About(
        when="a model of `retrieve.model` answers rows of `retrieve.rows` or `synth.raft`",
        why="Their prompts already contain documents. The model takes the complete prompt for the "
        "question, searches for all its words, and adds documents to the documents.",
    ),
    SHARED: About(
        when="a model that `eval.grounded` judges is trained on rows about documents that the test "
        "rows are about, too: their `source` is the same, or a split between them has no `group`",
        why="A model can answer these questions from what it learned about the document, with any "
        "context. Only questions about other documents show that it reads the context.",
    ),
    UNRETRIEVED: About(
        when="a model is trained and judged on questions of `synth.from_docs` without their "
        "context, and the recipe has no index to retrieve from",
        why="Fine-tuning is a poor way to teach facts: models learn few of them, make up others, "
        "and know nothing of a document that changed since (Ovadia et al. 2023, "
        "https://arxiv.org/abs/2312.05934; Gekhman et al. 2024, https://arxiv.org/abs/2405.05904). "
        "Retrieval puts the facts into the prompt.",
    ),
    RANDOM: About(
        when="`synth.from_docs` adds distractors to contexts, and the recipe has an index",
        why="Its distractors are random chunks, which are easy to distinguish from the right one. "
        "Chunks that an index retrieves have the same topic as the question, so a model has to "
        "read them.",
    ),
    DIFFERENT: About(
        when="`retrieve.model` or `eval.grounded` gives a model prompts with other `k`, `prompt`, "
        "`limit` or `unknown` than the rows that it is trained on, or `retrieve.model` with others "
        "than the `eval.grounded` that measures it, for the same index",
        why="A model learns the prompts that it is trained on, and metrics only hold for the "
        "prompts that were measured. Steps that differ for a reason can exist side by side: the "
        "note is given only if no step has the same settings.",
    ),
    OTHER: About(
        when="`limit` counts tokens by the tokenizer of another base than that of the model that "
        "gets the prompts, and both bases are built",
        why="Tokenizers split texts differently, so chunks within the limit can have more or fewer "
        "tokens for the model.",
    ),
}
FROM_DOCS = "synth.from_docs"
RETRIEVING, BUNDLE = "retrieve.model", "retrieve.bundle"
PUT_IN = ("retrieve.rows", "synth.raft")
"""Steps whose prompts contain documents."""
GROUNDED = "eval.grounded"
SOURCE = "source"
"""The column that names a row's document."""
MOST_READ = 20_000
"""Rows whose documents are compared."""
SETTINGS = ("k", "prompt", "limit", "unknown")
SHOWN = 40
"""Longest value that a note repeats."""
LIMITED = (RETRIEVING, GROUNDED, *PUT_IN)
"""Steps with a `limit`."""
VOCABULARY = "tokenizer.json"


def notes_on(graph: Graph, results: Results) -> list[Note]:
    """All notes on a recipe with documents."""
    return [
        *_shared(graph, results), *_unretrieved(graph), *_random(graph), *_twice(graph),
        *_other_prompts(graph), *_other_tokenizers(graph, results),
    ]  # fmt: skip


# documents of training and test


def _shared(graph: Graph, results: Results) -> Iterator[Note]:
    for judge in graph.nodes.values():
        if judge.use != GROUNDED:
            continue
        for test in (s for s in judge.row_sources if s.field == "rows"):
            learned = _learned(graph, judge, whole=True)
            notes = (_overlap(graph, results, judge, test, *of) for of in learned)
            yield from islice((note for note in notes if note is not None), 1)


def _overlap(
    graph: Graph, results: Results, judge: Node, test: Source, training: Node, learned: Source
) -> Note | None:
    parting = _parting(graph, learned, test)
    if parting is not None and getattr(parting.step, "group", None) == SOURCE:
        return None
    known = [_documents(results, source) for source in (learned, test)]
    if all(known):
        both = known[0] & known[1]
        text = f"of the {counted(len(known[1]), 'document')} that {judge.name} asks about, "
        text += f"{training.name} is trained on questions about {len(both)}"
    else:
        both = set() if parting is None else {"unknown"}
        text = f"{training.name} is trained on {learned.ref}, and {judge.name} tests {test.ref}: "
        text += "questions about the same documents may be in both"
    if not both:
        return None
    return Note(
        name=SHARED, text=text, fix=_fix(parting, test), step=judge.name,
        place=(*judge.place, test.field),
    )  # fmt: skip


def _fix(parting: Node | None, test: Source) -> str:
    if parting is None:
        return f"let {test.ref} ask about documents that no training row is about"
    if hasattr(parting.step, "group"):
        return f"write group: source in {parting.name}"
    return "split the chunks first: data.split with group: source"


def _learned(graph: Graph, node: Node, *, whole: bool = False) -> Iterator[tuple[Node, Source]]:
    """(training, its rows) of the trainings among the models `_under` a step."""
    for name in _under(graph, node, whole=whole):
        training = graph.nodes[name]
        if training.trains:
            yield from ((training, source) for source in training.sources if source.role == "train")


def _documents(results: Results, source: Source) -> set[str]:
    """The documents of some rows; empty if the rows aren't built or name none."""
    rows: Any = results.artifact(source.step, source.output)
    if not isinstance(rows, Dataset):
        return set()
    return {str(row[SOURCE]) for row in islice(rows, MOST_READ) if row.get(SOURCE)}


def _parting(graph: Graph, learned: Source, test: Source) -> Node | None:
    """The step that both rows come from; the one closest to the training."""
    tested = set(origins(graph, test.step))
    return next((graph.nodes[s] for s in origins(graph, learned.step) if s in tested), None)


def origins(graph: Graph, step: str) -> Iterator[str]:
    """A step, and the steps that its rows come from, the nearest first."""
    waiting, seen = [step], set[str]()
    while waiting:
        name = waiting.pop(0)
        if name not in seen:
            seen.add(name)
            yield name
            waiting += [source.step for source in graph.nodes[name].row_sources]


# knowledge and distractors


def _unretrieved(graph: Graph) -> Iterator[Note]:
    if _index(graph):
        return
    for node in graph.nodes.values():
        if node.use != FROM_DOCS or getattr(node.step, "context", "") != "without":
            continue
        trainings = [n for n in graph.nodes.values() if n.trains and _takes(graph, n, node.name)]
        judges = [n for n in graph.nodes.values() if n.evaluates and _takes(graph, n, node.name)]
        if trainings and judges:
            yield Note(
                name=UNRETRIEVED,
                text=f"{trainings[0].name} learns the facts of {node.name} by heart, and "
                f"{judges[0].name} tests it without documents",
                fix="add an index (retrieve.index) and train on synth.raft, or set context: both",
                step=trainings[0].name,
            )


def _random(graph: Graph) -> Iterator[Note]:
    if not _index(graph):
        return
    for node in graph.nodes.values():
        if node.use == FROM_DOCS and getattr(node.step, "distractors", None):
            yield Note(
                name=RANDOM,
                text=f"the distractors of {node.name} are random chunks",
                fix=f"set context: without in {node.name}, and add distractors from the index: "
                f"{{use: synth.raft, rows: {node.name}, index: {_index(graph)}}}",
                step=node.name,
                place=(*node.place, "distractors"),
            )


def _twice(graph: Graph) -> Iterator[Note]:
    for node in graph.nodes.values():
        if not (node.evaluates or node.generates):
            continue
        models = [model for of in node.sources_of(Model) for model in _retrieving(graph, of.step)]
        for source in node.row_sources if models else ():
            steps = (graph.nodes[name] for name in origins(graph, source.step))
            origin = next((step for step in steps if step.use in PUT_IN), None)
            if origin is not None:
                yield Note(
                    name=TWICE,
                    text=f"{node.name} asks {models[0]}, which retrieves documents itself, rows of "
                    f"{origin.name}, whose prompts already contain documents",
                    fix=f"use the rows that {origin.name} takes, or the model that {models[0]} is "
                    "made of",
                    step=node.name,
                    place=(*node.place, source.field),
                )


def _retrieving(graph: Graph, step: str) -> Iterator[str]:
    """The step, or those that its model is made from, if they retrieve."""
    if graph.nodes[step].use == RETRIEVING:
        yield step
        return
    for source in graph.nodes[step].base_models:
        yield from _retrieving(graph, source.step)


def _index(graph: Graph) -> str:
    """The first step that makes an index, empty if none does."""
    makers = (n.name for n in graph.nodes.values() if Index in n.outputs.values())
    return next(makers, "")


def _takes(graph: Graph, node: Node, origin: str) -> bool:
    """Whether rows of a step come from another one."""
    return any(origin in origins(graph, source.step) for source in node.row_sources)


# prompts that differ


def _other_prompts(graph: Graph) -> Iterator[Note]:
    """All notes on prompts that differ."""
    for node in graph.nodes.values():
        if node.use in (RETRIEVING, GROUNDED):
            steps = [source.step for _, source in _learned(graph, node)]
            makers = dict.fromkeys(name for step in steps for name in origins(graph, step))
            yield from _different(
                node,
                [graph.nodes[name] for name in makers if graph.nodes[name].use in PUT_IN],
                "whose rows train the model",
            )
        if node.use == RETRIEVING:
            yield from _different(node, _measured(graph, node), "which measures the model")
        if node.use == BUNDLE:
            needed = [graph.nodes[name] for name in node.needs]
            judges = [other for other in needed if other.use == GROUNDED]
            for source in node.sources_of(Model):
                model = graph.nodes[source.step]
                if model.use == RETRIEVING and _differs(model, _measured(graph, model)) is None:
                    yield from _different(model, judges, f"which {node.name} needs")


def _different(node: Node, others: Sequence[Node], which: str) -> Iterator[Note]:
    """A note if other steps share the index of a step, and none its settings."""
    other = _differs(node, others)
    if other is None:
        return
    names = [name for name in SETTINGS if _value(node, name) != _value(other, name)]
    own, others_own = (", ".join(_in_words(of, name) for name in names) for of in (node, other))
    yield Note(
        name=DIFFERENT,
        text=f"{node.name} has {own}, but {other.name}, {which}, has {others_own}",
        fix=f"write the same {' and '.join(names)} in {node.name} and {other.name}",
        step=node.name,
    )


def _differs(node: Node, others: Sequence[Node]) -> Node | None:
    """The first step with the same index, if none of them has the same settings."""
    alike = [other for other in others if _indices(other) == _indices(node)]
    if not alike or any(_prompts(other) == _prompts(node) for other in alike):
        return None
    return alike[0]


def _measured(graph: Graph, model: Node) -> list[Node]:
    """The evaluations of the model that a step adds documents to."""
    under = set(_under(graph, model))
    return [
        node
        for node in graph.nodes.values()
        if node.use == GROUNDED
        and under & {s.step for s in node.sources_of(Model) if s.field == "models"}
    ]


def _under(graph: Graph, node: Node, *, whole: bool = False) -> list[str]:
    """The models that a step takes, and those that they are made of.

    whole: all of them; otherwise down to the nearest trainings.
    """
    waiting = [s.step for s in node.sources_of(Model) if s.field in ("model", "models")]
    seen = dict[str, None]()
    while waiting:
        name = waiting.pop(0)
        if name not in seen:
            seen[name] = None
            if whole or not graph.nodes[name].trains:
                waiting += [source.step for source in graph.nodes[name].base_models]
    return [*seen]


def _indices(node: Node) -> list[tuple[str, str]]:
    return [(s.step, s.output) for s in node.sources if s.field == "index"]


def _prompts(node: Node) -> list[Any]:
    return [_value(node, name) for name in SETTINGS]


def _value(node: Node, name: str) -> Any:
    """A setting; of a file the path in the recipe."""
    value = getattr(node.step, name)
    return value.patterns if isinstance(value, Files) else value


def _in_words(node: Node, name: str) -> str:
    """A setting in words: `k: 8`, `no limit`."""
    value = getattr(node.step, name)
    if value is None:
        return f"the default {name}" if name == "prompt" else f"no {name}"
    text = str(value)
    return f"{name}: {text}" if len(text) <= SHOWN else f"{name}: {text[: SHOWN - 1]}…"


# limits that another tokenizer counts


def _other_tokenizers(graph: Graph, results: Results) -> Iterator[Note]:
    """All notes on limits that another tokenizer counts, at most one for each step."""
    for node in graph.nodes.values():
        if node.use not in LIMITED or getattr(node.step, "limit", None) is None:
            continue
        indices = [graph.nodes[source.step] for source in node.sources if source.field == "index"]
        for tokenizer in [
            s.step for index in indices for s in index.sources if s.role == "tokenizer"
        ]:
            models = _models(graph, node)
            others = (name for name in models if _differ(graph, results, name, tokenizer))
            yield from (_miscounted(graph, node, name, tokenizer) for name in islice(others, 1))


def _miscounted(graph: Graph, node: Node, model: str, tokenizer: str) -> Note:
    index = next(source.step for source in node.sources if source.field == "index")
    return Note(
        name=OTHER,
        text=f"the limit of {node.name} counts tokens of {tokenizer}, but its prompts are for "
        f"{model}",
        fix=f"write tokenizer: {min(_roots(graph, model))} in {index}",
        step=node.name,
        place=(*node.place, "limit"),
    )


def _models(graph: Graph, node: Node) -> Iterator[str]:
    """The models that get a step's prompts: those it takes, or those trained on its rows."""
    if node.use in PUT_IN:
        for training in graph.nodes.values():
            rows = (s.step for s in training.sources if s.role == "train")
            if training.trains and any(node.name in origins(graph, step) for step in rows):
                yield training.name
    else:
        yield from (s.step for s in node.sources_of(Model) if s.field in ("model", "models"))


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
    below = [source.step for source in graph.nodes[step].base_models]
    return {root for name in below for root in _roots(graph, name)} or {step}


def _vocabulary(meta: dict[str, Any] | None) -> str | None:
    """The digest of the tokenizer's file; None for a GGUF, which contains its tokenizer."""
    file = ((meta or {}).get("files") or {}).get(VOCABULARY) or {}
    return file.get("blake3")
