"""What is said of evaluators before they run: lines of `finery plan`, and notes of `finery check`.

Input: a recipe's graph and its results so far. `run` of no evaluator imports this, so it isn't in
any key.
"""

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from finery import (
    Artifact,
    Count,
    Dataset,
    Estimate,
    Inputs,
    Metrics,
    Model,
    Note,
    Step,
    UsageError,
)
from finery.advanced import (
    About,
    Forecasts,
    Graph,
    Node,
    Results,
    Source,
    counted,
    cpu_count,
    enough_tokens,
    estimated_tokens,
    in_line,
    rough_duration,
    shortened,
    some_of,
    visible_gpus,
)
from finery.rows import Row, answer_text, split_turns
from finery_eval.requirements import Requirement
from finery_eval.stats import DISAGREEMENT, detectable_difference, wilson

if TYPE_CHECKING:
    from finery_eval.evaluator import Judge

UNSEEN_CLASS = "unseen-class"
NO_CHEAP_BASELINE = "no-cheap-baseline"
CUT_OFF = "max-tokens"
LUCKY_GATE = "lucky-gate"
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
    LUCKY_GATE: About(
        when="`require:` compares a score with a number on so few rows that a model which is 10 "
        "points worse passes with a probability of more than 5 %",
        why="A score on a few rows is partly luck: a share from 20 rows is often 10 points too "
        "high or too low. A gate that a bad model can pass by luck doesn't stop it. Judge more "
        "rows, or require a test: `significantly better than` uses the interval.",
    ),
}


MOST_COUNTED = 20_000


# -- what test rows can show, and how long a first evaluation takes -----------------------------

CORE, GPU = 7e9, 1e12
"""Parameters × tokens that a CPU core and a GPU compute in a second, by rule of thumb."""
LOADING = 5.0
"""Seconds until a model answers."""
CHARACTERS_A_TOKEN = 4
MOST_READ = 500


def estimate(inputs: Inputs, models: int, max_tokens: int | None) -> Estimate | None:
    """The differences that the rows can show, and a guess of the time; None if nobody counts them.

    models: how many are judged. max_tokens: of their answers; None if they aren't asked.
    """
    rows = rows_of(inputs)
    if rows is None or not rows.rows:
        return None
    difference = detectable_difference(rows.rows)
    if models < 2:
        low, high = wilson(rows.rows / 2, rows.rows)
        text = f"{rows} give a score to within {50 * (high - low):.0f} points (95 % interval)"
    elif difference >= 1:
        text = f"{rows} can't tell any two models apart (5 % level, 80 % power)"
    else:
        text = (
            f"{rows} can detect differences of {100 * difference:.0f} points (5 % level, 80 % "
            f"power, if models differ on {100 * DISAGREEMENT:.0f} % of the rows)"
        )
    facts: dict[str, float] = {"rows": rows.rows, "detectable_difference": difference}
    is_first = inputs.results.last(inputs.name) is None
    seconds = seconds_of(inputs, rows.rows, max_tokens) if is_first and max_tokens else None
    if seconds is None:
        return Estimate(lines=[text], facts=facts)
    return Estimate(
        lines=[text, f"time: about {rough_duration(seconds)} (a rough guess before the first run)"],
        facts={**facts, "seconds": round(seconds), "is_rough": True},
    )


def rows_of(inputs: Inputs) -> Count | None:
    """The rows that an evaluator judges; None if they aren't known yet."""
    return inputs.count("rows") if len(inputs.sources("rows")) == 1 else None


def seconds_of(inputs: Inputs, rows: int, max_tokens: int) -> float | None:
    """A guess of an evaluator's time; None if the sizes of its models are unknown.

    A trained model is expected to answer at the length of the expected answers if the rows are
    built, others with `max_tokens`.
    """
    sample, graph = list(inputs.sample("rows", MOST_READ) or ()), inputs.graph
    if not sample:
        return None
    prompt = statistics.fmean(len(msgspec.json.encode(row)) for row in sample) / CHARACTERS_A_TOKEN
    longest = learned = float(max_tokens)
    if None not in inputs.artifacts("rows"):
        answer = statistics.fmean(len(answer_text(row)) for row in sample) / CHARACTERS_A_TOKEN
        learned = min(longest, answer + 1)
    speed = GPU if visible_gpus() else CORE * cpu_count()
    seconds = 0.0
    for model in (graph.nodes[source.step] for source in inputs.sources("models")):
        if getattr(type(model.step), "is_baseline", False):
            continue
        parameters = parameters_of(graph, model)
        if parameters is None:
            return None
        answer = longest if training_of(graph, model) is None else learned
        seconds += LOADING + rows * (prompt + answer) * parameters / speed
    return seconds


def parameters_of(graph: Graph, node: Node) -> float | None:
    """The number of a model's parameters, its own or those of its base; None if unknown."""
    parameters = Forecasts(graph).forecast(node).parameters()
    bases = (parameters_of(graph, graph.nodes[source.step]) for source in node.base_models)
    return parameters or next((size for size in bases if size), None)


def training_of(graph: Graph, node: Node) -> Node | None:
    """The training that a model comes from, itself or an earlier one; None if there is none."""
    if node.trains:
        return node
    earlier = (training_of(graph, graph.nodes[source.step]) for source in node.base_models)
    return next((training for training in earlier if training is not None), None)


# -- gates that a bad model passes by luck --------------------------------------------------------

WORSE_BY = 0.1
"""How much worse the model is that must not pass by luck."""
CHANCE = 0.05
MOST_ROWS = 2_000
"""Number of rows from which on luck is worth no more than a few points."""


def notes_on_gates(step: "Judge", inputs: Inputs) -> Iterator[Note]:
    """A note for each requirement that luck meets."""
    rows = rows_of(inputs)
    try:
        gates = step.requirements()
    except UsageError:
        return  # an error of its own
    if rows is None or not 0 < rows.rows < MOST_ROWS:
        return
    models = [model.name for model in step.models]
    metrics = inputs.results.artifact(inputs.name)
    report = metrics.report() if isinstance(metrics, Metrics) else None
    for name, gate in zip(step.require, gates, strict=True):
        if not isinstance(gate, Requirement) or gate.of or gate.op[0] != ">":
            continue
        model, metric = gate.subject
        if model not in models:  # e.g. a judge, which isn't measured on these rows
            continue
        if metric in step.unbounded():  # no share, so no binomial distribution
            continue
        judged = Count(report.rows_of(model, metric)) if report else rows
        if not judged.rows:
            continue
        chance, worse = chance_to_pass(gate.number, judged.rows)
        score = report.score(model, metric) if report else None
        ends = score.interval if score else None
        if chance <= CHANCE or (ends and ends[0] >= gate.number):
            continue
        shares = " to ".join(f"{100 * end:.0f}" for end in ends or ())
        interval_text = f". The interval of its score is {shares} %" if ends else ""
        yield Note(
            name=LUCKY_GATE,
            text=f"{inputs.name} requires {name} {gate.text} on {judged}: a model that is right in "
            f"{100 * worse:.0f} % of all cases passes with a probability of {100 * chance:.0f} %"
            f"{interval_text}",
            fix=f'judge {enough_rows(gate.number):,} rows or more, or write {name}: "significantly '
            f'better than {gate.number:g}"',
            place=(*inputs.node.place, "require", name),
        )


def chance_to_pass(bound: float, n: int) -> tuple[float, float]:
    """(probability, its accuracy) that a model `WORSE_BY` below a bound reaches it on n rows.

    The upper tail of the binomial distribution.
    """
    accuracy = max(0.0, bound - WORSE_BY)
    fewest = math.ceil(bound * n - 1e-9)
    if accuracy <= 0:
        return float(fewest <= 0), 0.0
    logs = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(accuracy) + (n - k) * math.log1p(-accuracy)
        for k in range(fewest, n + 1)
    )  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs))), accuracy


def enough_rows(bound: float) -> int:
    """The number of rows at which such a model rarely passes, rounded up to tens."""
    return next(
        (n for n in range(10, MOST_ROWS, 10)
         if all(chance_to_pass(bound, count)[0] <= CHANCE for count in range(n, n + 10))),
        MOST_ROWS,
    )  # fmt: skip


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
        built_sides = [[built(source) for source in side] for side in sides]
        rows = [[each for each in side if isinstance(each, Dataset)] for side in built_sides]
        if built_sides == rows and all(rows):
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
            lowest = limit if counter else limit * UNSURE
            longest, longer = max(counts), sum(count >= lowest for count in counts)
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
    steps = [("", node.step), *((name, v) for name, v in settings if isinstance(v, Step))]
    limits = [
        ((*filter(None, [field]), name), getattr(step, name))
        for field, step in steps
        for name in LIMITS
        if hasattr(step, name)
    ]
    asks = hasattr(node.step, "each") or hasattr(node.step, LIMITS[1])
    return limits[:1] if asks else [each for each in limits if len(each[0]) > 1] or limits


def _answers(row: Row) -> Iterator[str]:
    """The text of each answer in a row, with its calls; none of a record that is no row yet."""
    turns = row.get("messages") or row.get("prompt")
    is_row = isinstance(row.get("prompt"), str) or _are_objects(turns)
    answer = split_turns(row)[1] if is_row else []
    for turn in answer if _are_objects(answer) else ():
        tool_calls: Any = turn.get("tool_calls")
        calls = [call.get("function") for call in tool_calls] if _are_objects(tool_calls) else []
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
