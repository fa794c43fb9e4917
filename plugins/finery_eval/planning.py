"""Notes of `finery check` on evaluators: missing baselines, unseen classes, short limits.

Input: a recipe's graph and its results so far. Evaluators don't import this, so it isn't in any
key.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

import msgspec

from finery import Artifact, Dataset, Model, Note, Step
from finery.advanced import (
    About,
    Forecasts,
    Graph,
    Node,
    Results,
    Source,
    counted,
    enough_tokens,
    estimated_tokens,
    in_line,
    shortened,
    some_of,
)
from finery.rows import Row, split_turns
from finery_eval.estimate import training_of
from finery_eval.luck import LUCK
from finery_eval.nested import JudgeEach

UNSEEN_CLASS = "unseen-class"
NO_CHEAP_BASELINE = "no-cheap-baseline"
CUT_OFF = "max-tokens"
ABOUT = {
    CUT_OFF: About(
        when="an answer in the rows has more tokens than `max_tokens` lets models answer with. "
        "Tokens are counted with the tokenizer of a built model, or else estimated",
        why="An answer that is cut off is judged as it is. JSON without its end, for example, is "
        "wrong. The score then says more about `max_tokens` than about the model.",
    ),
    NO_CHEAP_BASELINE: About(
        when="an evaluator of labels judges a trained model, and no evaluator of the same rows "
        "judges a cheap baseline such as `baseline.linear`",
        why="A linear model on words trains in seconds and is often better than a language model "
        "that was fine-tuned on a few hundred rows. A score says little unless you know the scores "
        "of such a model, field by field.",
    ),
    UNSEEN_CLASS: About(
        when="an evaluator of classes expects a class that no row of the training has",
        why="The model has not learned the class, so it gets these rows wrong. Macro-F1 counts it "
        "like any other class, and is lower by up to its share of the classes.",
    ),
    **LUCK,
}


MOST_COUNTED = 20_000

# -- trained classifiers without a cheap baseline --------------------------------------------------


def notes_on_baselines(graph: Graph) -> Iterator[Note]:
    """A note for the first evaluator of some rows that a baseline is missing from."""
    judges = [node for node in graph.nodes.values() if node.evaluates]
    rows = {node.name: {source.ref for source in node.sources_of(Dataset)} for node in judges}
    models = {
        node.name: [graph.nodes[source.step] for source in node.sources_of(Model)]
        for node in judges
    }
    covered: set[str] = set()
    for name, judged in models.items():
        if any(getattr(type(model.step), "is_baseline", False) for model in judged):
            covered |= rows[name]
    for node in judges:
        if type(node.step).__spec__.task != "classification" or covered & rows[node.name]:
            continue
        trained = ((model.name, training_of(graph, model)) for model in models[node.name])
        model, training = next((each for each in trained if each[1] is not None), ("", None))
        if training is None:
            continue
        covered |= rows[node.name]
        learned = next((s.ref for s in training.sources if s.role == "train"), "split.train")
        yield Note(
            name=NO_CHEAP_BASELINE,
            text=f"{node.name} compares {model} with no cheap baseline",
            fix=f"linear: {{use: baseline.linear, rows: {learned}}} under `models`, and add "
            f"`linear` to the models of {node.name}",
            step=node.name,
            place=(*node.place, "models"),
        )


# -- classes that are only judged ------------------------------------------------------------------


def notes_on_classes(graph: Graph, results: Results) -> Iterator[Note]:
    """A note for each evaluator that expects classes which the training doesn't have."""
    for judge, text in unseen_classes(graph, lambda s: results.artifact(s.step, s.output)):
        fix = "add rows of it to the training, or split with `stratify`"
        yield Note(name=UNSEEN_CLASS, text=text, fix=fix, step=judge.name, place=judge.place)


def unseen_classes(
    graph: Graph, built: Callable[[Source], Artifact | None]
) -> Iterator[tuple[Node, str]]:
    """(evaluator, which of the classes that it expects no row of the training has, in words)."""
    for judge in (node for node in graph.nodes.values() if node.evaluates):
        models = (graph.nodes[source.step] for source in judge.sources_of(Model))
        training = next(filter(None, (training_of(graph, model) for model in models)), None)
        classes = Forecasts(graph).forecast(judge).classes
        if training is None or classes is None:
            continue
        learned_rows = [s for s in training.row_sources if s.role in ("train", "")]
        sides = learned_rows, judge.row_sources
        made = [[built(source) for source in side] for side in sides]
        rows = [[each for each in side if isinstance(each, Dataset)] for side in made]
        if made == rows and all(rows):
            learned, expected = (classes(chain(*side)) for side in rows)
            if unseen := {name: n for name, n in expected.items() if name not in learned}:
                names = some_of([*map(repr, unseen)])
                count = counted(sum(unseen.values()), "row")
                yield (
                    judge,
                    f"{judge.name} expects {names} in {count}, but no row that "
                    f"{training.name} learned from has it",
                )


# -- answers that are cut off ----------------------------------------------------------------------

LIMITS = ("max_tokens", "max_completion_length")
"""Settings with the longest answer of a model, in tokens."""
UNSURE = 1.25
"""How many times the limit an answer's estimate must have: most estimates are too high."""


def notes_on_limits(graph: Graph, results: Results) -> Iterator[Note]:
    """A note for each setting that is shorter than the longest answer in the rows."""
    for node in graph.nodes.values():
        for path, limit in _limits(node):
            fields = ("rows", ".".join([*path[:-1], "rows"]))
            sources = [s for s in node.sources_of(Dataset) if s.field in fields]
            samples = [(s.ref, Forecasts(graph, results).sample(s, MOST_COUNTED)) for s in sources]
            answers = [(name, row, text) for name, rows in samples for row in rows or ()
                       for text in _answers(row)]  # fmt: skip
            # No tokenizer makes more tokens than bytes.
            if all(len(text.encode()) < limit for _, _, text in answers):
                continue
            counter = _counter(graph, results, node)
            counts = [(counter or estimated_tokens)(text) for _, _, text in answers]
            least = limit if counter else limit * UNSURE
            longest, longer = max(counts), sum(count >= least for count in counts)
            name, row, text = answers[counts.index(longest)]
            if not longer:
                continue
            begins = f"row {row['id']}" if "id" in row else "it begins"
            yield Note(
                name=CUT_OFF,
                text=f"{node.name} cuts answers off at {path[-1]}: {limit}, but the longest one in "
                f"{name} has {'' if counter else 'about '}{longest:,} tokens ({begins}: "
                f"{shortened(in_line(text), 60)})"
                + (f"; {longer} of {len(counts):,} are too long" if counter else ""),
                fix=f"{path[-1]}: {enough_tokens(longest)}",
                step=node.name,
                place=(*node.place, *path),
            )


def _limits(node: Node) -> list[tuple[tuple[str, ...], int]]:
    """(path in the step, value) of the settings with the longest answer that models may give.

    That of an evaluator inside a step, except where the step itself has the models answer.
    """
    if not (node.evaluates or node.trains) or type(node.step).__spec__.task == "speed":
        return []
    settings = msgspec.structs.asdict(node.step).items()
    steps = [("", node.step), *((name, of) for name, of in settings if isinstance(of, Step))]
    found = [
        ((*filter(None, [field]), name), getattr(step, name))
        for field, step in steps
        for name in LIMITS
        if hasattr(step, name)
    ]
    asks = isinstance(node.step, JudgeEach) or hasattr(node.step, LIMITS[1])
    return found[:1] if asks else [each for each in found if len(each[0]) > 1] or found


def _answers(row: Row) -> Iterator[str]:
    """The text of each answer in a row, with its calls; none of a record that is no row yet."""
    turns = row.get("messages") or row.get("prompt")
    is_row = isinstance(row.get("prompt"), str) or _are_objects(turns)
    answer = split_turns(row)[1] if is_row else []
    for turn in answer if _are_objects(answer) else ():
        asked: Any = turn.get("tool_calls")
        calls = [call.get("function") for call in asked] if _are_objects(asked) else []
        text = str(turn.get("content") or "") + (
            msgspec.json.encode(calls).decode() if calls else ""
        )
        yield text.encode("utf-8", "replace").decode()


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _counter(graph: Graph, results: Results, node: Node) -> Callable[[str], int] | None:
    """Counts tokens exactly, if a model under a step is built and has a tokenizer at hand."""
    names = [name for s in node.sources_of(Model) for name in graph.models_under(s.step)]
    paths = (m.file("tokenizer.json") for m in map(results.artifact, names) if m is not None)
    with suppress(Exception):  # without the package, or a file it can read: lengths are estimated
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(next(path for path in paths if path.is_file())))
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    return None
