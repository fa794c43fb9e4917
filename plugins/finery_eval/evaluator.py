"""What evaluators share: getting answers from models, comparing models, and `require:`."""

import gc
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from finery import (
    Artifact,
    CachedEngine,
    Completion,
    DataError,
    Dataset,
    Job,
    Metrics,
    Model,
    Step,
    UsageError,
    counted,
    load_reference,
    percent,
    setting,
    takes,
)
from finery.rows import Conversation, Row, answer_text, split_turns
from finery.rows.answers.reading import search_in
from finery.rows.parts import prompt as prompt_of
from finery_eval.exports import compared_exports, with_speeds
from finery_eval.scoring import slices as slicing
from finery_eval.scoring.differences import MCNEMAR, SIGN_FLIPS
from finery_eval.scoring.differences import compare as compare
from finery_eval.scoring.groups import Group, facts_of
from finery_eval.scoring.groups import among as among
from finery_eval.scoring.groups import effective as effective
from finery_eval.scoring.groups import share as share
from finery_eval.scoring.groups import together as together
from finery_eval.scoring.scored import Scored, score
from finery_eval.scoring.scored import scores_of as scores_of
from finery_eval.scoring.tables import Unit as Unit
from finery_eval.scoring.tables import baseline_tables
from finery_eval.scoring.tables import comparison_tables as comparison_tables
from finery_eval.scoring.tables import table as table
from finery_eval.turns import place_of
from finery_eval.verdicts import Score, Verdicts

Better = Literal["higher", "lower"]
"""Which values of a metric are better."""
Answers = dict[str, list[Completion]]
"""Model name → its answers, one a row."""

REQUIREMENTS = "finery_eval.requirements:Requirements"
"""By reference, which a key doesn't follow: what a build must reach changes no metric."""
BASELINE = "baseline"
"""The fact in `meta` of a cheap baseline that names its kind."""
SHOWN = 10
"""Rows that an error names one by one."""
PROMPT_SHOWN = 300
"""Characters of a prompt that `predictions.jsonl` repeats."""


class Unjudged(NamedTuple):
    """Turns of the rows that aren't judged. what: which ones, for people."""

    what: str
    rows: int
    turns: int


class Gate(Step, isolated=True):
    """Hold scores of anything against `require`, a setting that subclasses declare."""

    def metric_names(self) -> list[str]:
        """The metrics of each model, or of what else has scores, the headline first."""
        return ["accuracy"]

    def more_metrics(self) -> str:
        """How to add further metrics, as part of the fix for an unknown one; empty by default."""
        return ""

    def unbounded(self) -> Mapping[str, Better]:
        """The metrics that are no shares from 0 to 1, and which values of them are better.

        Writers of `Metrics` name them in `details["unbounded"]`, for views.
        """
        return {}

    def measured(self) -> dict[str, list[str]]:
        """What `require` may name: the models, or what else has scores → its metrics."""
        raise NotImplementedError

    def nouns(self) -> tuple[str, str]:
        """What has the scores, in the singular and the plural, for errors."""
        return "model", "models"

    def choices(self) -> Mapping[str, Sequence[str]]:
        """What `require` may ask for."""
        return {"require": [f"{name}.{m}" for name, of in self.measured().items() for m in of]}

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        load_reference(REQUIREMENTS)(self)

    def verify(self, outputs: Mapping[str, Artifact]) -> None:
        """Compare the scores with `require`. Raises `RequirementError`."""
        self.check()
        (metrics,) = outputs.values()
        assert isinstance(metrics, Metrics)
        load_reference(REQUIREMENTS)(self).verify(with_more(metrics.report()))


class Gated(Gate):
    """Measure models, compare them with the first, and hold the scores against `require`."""

    models: list[Model] = takes(
        uses_name=True,
        help="The models to judge on the same rows. Each is compared with the first.",
    )
    require: dict[str, str] = setting(
        {},
        affects_output=False,
        help="Conditions that the build must meet: <model>.<metric> compared (>=, >, <=, <) with "
        "a number, for most metrics a share from 0 to 1, or with another metric plus or minus a "
        "number. `not worse than` another model `by` a margin, and `significantly better than` "
        "another model or a number, rest on a test, so a lucky score isn't enough.",
        examples=[
            {"sft.accuracy": ">= 0.85"},
            {"sft.accuracy": ">= base.accuracy + 0.3"},
            {"gguf.accuracy": "not worse than sft by 0.03"},
            {"sft.accuracy": "significantly better than base"},
        ],
    )

    def measured(self) -> dict[str, list[str]]:
        """What `require` may name: the models, or what else has scores → its metrics."""
        return {model.name: self.metric_names() for model in self.models}

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        names = [model.name for model in self.models]
        if not names:
            raise UsageError("`models` is empty", where="models", fix="name one: models: [sft]")
        if len(set(names)) < len(names):
            raise UsageError("a model is listed twice", where="models", fix="list each model once")
        super().check()


def with_more(report: dict[str, Any]) -> dict[str, Any]:
    """A `Metrics` report with the scores of `details["more"]`, which aren't in its tables.

    `details["more"]`: model, or what else is measured → metric → `{value, interval}`.
    """
    scores = {name: dict(of) for name, of in report["scores"].items()}
    intervals = {name: dict(of) for name, of in report["intervals"].items()}
    for name, of in report["details"].get("more", {}).items():
        for metric, added in of.items():
            scores.setdefault(name, {})[metric] = added["value"]
            intervals.setdefault(name, {})[metric] = added["interval"]
    return {**report, "scores": scores, "intervals": intervals}


class Judge(Gated, preflight="finery_eval.preflight:JudgePreflight"):
    """Judge models on the same rows."""

    rows: Dataset = takes(
        help="Rows with an expected answer each. The rest of a row is the prompt."
    )

    def check_rows(self, job: Job) -> None:
        """Raise `DataError` for rows that can't be judged."""

    def check_sample(self, rows: Iterable[Row]) -> None:
        """Raise `DataError` for settings that don't fit the rows, as far as the first ones show it.

        Rows that aren't built yet look as in their source, e.g. records of a file.
        """

    def check_columns(self, columns: Collection[str]) -> None:
        """Raise `DataError` for slices that no row can have. columns: all that rows can have."""


class Evaluator(Judge, engines=True):
    """Have models answer the rows and judge the answers."""

    max_tokens: int = setting(
        64,
        ge=1,
        help="Longest answer, in tokens. A longer one is cut off there and judged as it is.",
    )
    temperature: float = setting(
        0.0, ge=0.0, help="Sampling temperature. 0 always takes the most likely token."
    )
    extract: str | None = setting(
        None,
        help="A regular expression with one group that captures the answer in a longer text. "
        "Where it doesn't match, the whole text is the answer.",
        examples=[r"(?i)answer:\s*(\w+)"],
    )
    ignore_case: bool = setting(False, help="Treat 'High' and 'high' as the same answer.")
    slices: list[str] = setting(
        [],
        help="What to break the scores down by: columns of the rows, fields of the expected answer "
        "or of its label, and `length`, thirds of the rows by the length of their prompts.",
        examples=[["source", "length"]],
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        super().check()
        check_pattern(self.extract)

    def check_nested(self) -> None:
        """Raise `UsageError` for settings that only `run` obeys.

        Inside another step, only `judging` is called, see `finery_eval.nested`.
        """

    def judging(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], Verdicts]:
        """Read what the rows expect; the result judges the models' answers to their prompts.

        Raises `DataError` for rows that can't be judged. The result is used once.
        """
        raise NotImplementedError

    def unjudged(self, rows: Sequence[Row]) -> list[Unjudged]:
        """Turns that people may think are judged, but that aren't."""
        return []

    def run(self, job: Job) -> Metrics:
        """Get the answers, judge them, write the metrics."""
        self.check()
        rows = read_rows(self.rows)
        judge = self.judging(job, rows)
        self.check_slices(rows)
        unjudged = unjudged_tables(job, self.unjudged(rows))
        answers = ask(self, job, rows)
        verdicts = judge(answers).with_tables(unjudged)
        return write(job, rows, answers, verdicts, models=self.models, slices=self.slices)

    def check_rows(self, job: Job) -> None:
        """Raise `DataError` for rows that can't be judged."""
        rows = read_rows(self.rows)
        self.judging(job, rows)
        self.check_slices(rows)

    def check_columns(self, columns: Collection[str]) -> None:
        """Raise `DataError` for slices that no row can have. columns: all that rows can have."""
        fields = self.answer_fields(None)
        if fields is not None:
            slicing.check_names(columns, self.slices, fields)

    def check_slices(self, rows: Sequence[Row]) -> None:
        """Raise `DataError` for slices that no row has."""
        if self.slices:
            slicing.check(rows, self.slices, self.answer_fields(rows) or ())

    def answer_fields(self, rows: Sequence[Row] | None) -> Collection[str] | None:
        """The fields of the expected answers, which rows can be sliced by.

        rows: None before they are known; then None if the fields depend on them.
        """
        return ()


def check_pattern(pattern: str | None) -> None:
    """Raise `UsageError` unless it is a regular expression with one group."""
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groups
    except (re.error, RecursionError) as error:
        raise UsageError(
            f"not a regular expression: {error}", where=f"extract: {pattern}", fix="correct it"
        ) from None
    if groups != 1:
        raise UsageError(
            f"the expression must have one group, but has {groups}",
            where=f"extract: {pattern}",
            fix="put ( ) around the answer, and (?: ) around anything else",
        )


def read_rows(dataset: Dataset) -> list[Row]:
    """The rows; `DataError` if there is none, or one that no engine can be asked."""
    rows = some(list(dataset))
    refuse(
        "some rows have no prompt",
        (row["id"] for row in rows if not split_turns(row)[0]),
        fix="give every row a user message, or drop it",
    )
    return rows


def refuse_calls(rows: Iterable[Row]) -> None:
    """Raise `DataError` for rows whose expected answer is a tool call, where texts are judged."""
    refuse(
        "the expected answer of some rows is a tool call, but texts are judged",
        (place_of(row) for row in rows if not answer_text(row).strip() and _has_calls(row)),
        fix="judge them with eval.tools, or drop them (in eval.dialog: turns: answers)",
    )


def _has_calls(row: Row) -> bool:
    return any(turn.get("tool_calls") for turn in split_turns(row)[1])


def some(rows: list[Row]) -> list[Row]:
    """The rows; `DataError` if there is none."""
    if not rows:
        raise DataError(
            "`rows` has no rows to judge the models on", fix="check the step that makes `rows`"
        )
    return rows


def refuse(what: str, rows: Iterable[str], fix: str) -> None:
    """Raise a `DataError` that lists `rows` (ids, or `id: reason`) if there are any."""
    named = list(rows)
    if named:
        more = [f"and {len(named) - SHOWN} more"] if len(named) > SHOWN else []
        raise DataError(what, details=[f"row {row}" for row in named[:SHOWN]] + more, fix=fix)


def ask(step: Evaluator, job: Job, rows: Sequence[Row]) -> Answers:
    """Every model's answers to every row's prompt."""
    prompts = [split_turns(row)[0] for row in rows]
    tools = [row.get("tools") for row in rows]
    answers: Answers = {}
    for model in step.models:
        answers[model.name] = generate(step, job, job.engine(model), model.name, prompts, tools)
        gc.collect()  # the next model may need the memory of this one
        log_answers(step, job, model.name, answers[model.name])
    log_rows(step, job, rows, answers)
    return answers


def generate(
    step: Evaluator,
    job: Job,
    engine: CachedEngine,
    name: str,
    prompts: Sequence[Conversation],
    tools: Sequence[list[dict[str, Any]] | None],
) -> list[Completion]:
    """One model's answers. name: of the model, for the progress bar."""
    return engine.generate(
        prompts,
        max_tokens=step.max_tokens,
        temperature=step.temperature,
        # At temperature 0 the seed can't matter: a fixed one lets steps share their cached answers.
        seed=job.seed if step.temperature > 0 else 0,
        tools=tools,
        refusals=True,
        progress=name,
    )


def log_answers(step: Evaluator, job: Job, name: str, answers: Sequence[Completion]) -> None:
    """Log how many answers of a model were cut off, refused, or ended while it was thinking."""
    cut = truncated(answers)
    if cut:
        limit = f"max_tokens: {step.max_tokens}"
        job.log(f"{name}: {cut} of {len(answers)} answers were cut off at {limit}")
    unanswered = sum(a.finish_reason == "length" and a.is_empty for a in answers)
    if unanswered and any(a.reasoning for a in answers):
        job.log(f"{name}: {unanswered} of them while it was thinking, so they have no answer")
    thoughts = sum(
        a.finish_reason != "length" and a.is_empty and bool(a.reasoning) for a in answers
    )
    if thoughts:
        of_all = f"{thoughts} of {len(answers)} answers"
        job.log(f"{name}: {of_all} are only thinking, which isn't closed or has nothing after it")
    refused = sum(answer.finish_reason == "refusal" for answer in answers)
    if refused:
        job.log(f"{name}: refused or filtered {refused} of {len(answers)} rows")


def log_rows(step: Evaluator, job: Job, rows: Sequence[Row], answers: Answers) -> None:
    """Log an `extract` that never matches."""
    if step.extract and not any(
        search_in(a.text, step.extract, "extract")
        for completions in answers.values()
        for a in completions
    ):
        job.log(f"extract: {step.extract!r} matches no answer of any model")


def names_metric(name: str) -> bool:
    """Whether a metric can have this name: `require` must be able to read `<model>.<metric>`."""
    return bool(name.strip()) and name == name.strip() and not set(".:\n") & set(name)


def truncated(answers: Sequence[Completion]) -> int:
    """How many answers were cut off at `max_tokens`."""
    return sum(answer.finish_reason == "length" for answer in answers)


def unjudged_tables(job: Job, parts: Sequence[Unjudged]) -> list[dict[str, Any]]:
    """The table of what isn't judged, which is also logged; empty if all is."""
    for part in parts:
        turns, rows = counted(part.turns, "turn"), counted(part.rows, "row")
        job.log(f"not judged: {turns} in {rows}: {part.what}")
    return [table("Not judged", ["what", "rows", "turns"], parts)] if parts else []


def answers_table(answers: Answers, invalid: Mapping[str, int] | None = None) -> dict[str, Any]:
    """How long the answers are, how many were cut off and, if known, how many are invalid.

    The length of the thinking, which isn't judged, is there if any model thinks.
    """
    columns = ["model", "answers", "cut off at max_tokens", "tokens an answer"]
    rows: list[list[Any]] = [
        [
            name,
            len(completions),
            truncated(completions),
            sum(a.completion_tokens for a in completions) / len(completions),
        ]
        for name, completions in answers.items()
    ]
    if invalid is not None:
        columns.append("invalid")
        rows = [[*row, invalid[row[0]]] for row in rows]
    if any(a.reasoning for completions in answers.values() for a in completions):
        columns += ["with thinking", "characters of thinking an answer"]
        rows = [[*row, *_thinking(answers[row[0]])] for row in rows]
    return table("Answers", columns, rows)


def _thinking(answers: Sequence[Completion]) -> tuple[int, float]:
    """How many answers come with thinking, and its mean length over all answers."""
    lengths = [len(answer.reasoning or "") for answer in answers]
    return sum(map(bool, lengths)), sum(lengths) / len(lengths)


def predictions(
    rows: Sequence[Row], answers: Answers, judged: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """The lines of `predictions.jsonl`: each model's answer to each row, and its verdict.

    Where rows belong together, each line names the `group` of its row.
    """
    grouped = facts_of(rows)
    for i, row in enumerate(rows):
        prompt = prompt_of(row)
        for name, completions in answers.items():
            yield {
                "id": row["id"],
                "model": name,
                "prompt": prompt[:PROMPT_SHOWN],
                "answer": completions[i].text,
                **_unspoken(completions[i]),
                **judged[name][i],
                "finish_reason": completions[i].finish_reason,
                **grouped[i],
            }


def _unspoken(answer: Completion) -> dict[str, Any]:
    """What an answer has beside its text: tool calls and thinking."""
    parts = {"tool_calls": answer.tool_calls, "reasoning": answer.reasoning}
    return {name: part for name, part in parts.items() if part}


def write(
    job: Job,
    rows: Sequence[Row],
    answers: Answers,
    verdicts: Verdicts,
    *,
    models: Sequence[Model] = (),
    slices: Sequence[str] = (),
) -> Metrics:
    """Write `Metrics`, and compare the models with each other.

    Rows that belong together, e.g. paraphrases of one row, count as one in intervals and tests.
    models: the judged ones; exported files among them are compared with what they were made of.
    slices: names that scores are broken down by. Raises `DataError` for one that no row has.
    """
    groups = dependent(job, rows)
    scored = score(verdicts, groups)
    correct = {name: judged.correct for name, judged in verdicts.judged.items()}
    comparisons = compare(correct, groups)
    exports = compared_exports(models, correct, partial(compare, groups=groups))
    test = MCNEMAR if groups is None else SIGN_FLIPS
    baselines, against = compared_baselines(models, scored, verdicts.headline)
    sliced = slicing.details_of(rows, verdicts, slices, groups)
    tables = [
        *comparison_tables(comparisons, test),
        *slicing.tables_of(sliced, verdicts.headline[0]),
        *against,
        *verdicts.tables,
    ]
    facts = {name: judged.facts for name, judged in verdicts.judged.items()}
    details = {**verdicts.details, "headline": verdicts.headline, "comparisons": comparisons}
    details |= {"pairs": scored.pairs, **({"groups": len(groups)} if groups else {}), **baselines}
    details |= {"slices": sliced} if sliced else {}
    details |= {"tables": tables, **({"exports": exports} if exports else {})}
    lines = predictions(rows, answers, facts)
    metrics = write_scored(job, len(rows), scored.scores, details, lines, answers)
    return with_speeds(metrics, models)


def compared_baselines(
    models: Sequence[Model], scored: Scored, metrics: Sequence[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The cheap baselines among models, as `details`, and the tables of the others against them."""
    cheap = [model.name for model in models if BASELINE in model.meta]
    values = {n: {m: value for m, (value, _) in of.items()} for n, of in scored.scores.items()}
    tables = baseline_tables(scored.pairs, values, cheap, metrics)
    return ({"baselines": cheap} if cheap else {}), tables


def dependent(job: Job, rows: Sequence[Row]) -> list[Group] | None:
    """The groups of rows that belong together, which are logged; None if each stands alone."""
    groups = together(rows)
    if groups is None:
        return None
    job.log(
        f"{len(rows)} rows form {counted(len(groups), 'group')}: rows that repeat each other or "
        "have a common parent count together in intervals and tests"
    )
    return groups


def write_scored(
    job: Job,
    rows: int,
    scored: Mapping[str, Mapping[str, Score]],
    details: Mapping[str, Any],
    lines: Iterable[dict[str, Any]],
    answers: Answers,
) -> Metrics:
    """Write scores, model → metric → (value, interval), and log each model's headline.

    lines: of `predictions.jsonl`.
    """
    values = {n: {m: value for m, (value, _) in of.items()} for n, of in scored.items()}
    intervals = {n: {m: list(ci) for m, (_, ci) in of.items()} for n, of in scored.items()}
    log_scores(job, values, intervals)
    cut = {name: truncated(completions) for name, completions in answers.items()}
    return Metrics.write(
        job.out,
        rows=rows,
        scores=values,
        intervals=intervals,
        details={**details, "truncated": cut},
        predictions=lines,
    )


def majority_table(columns: Mapping[str, Sequence[str]], noun: str) -> dict[str, Any]:
    """The score of a model that always gives the most frequent expected answer.

    columns: field → what each row expects. noun: what that is, e.g. `class`.
    """
    rows = []
    for column, expected in columns.items():
        value, n = Counter(expected).most_common(1)[0]
        rows.append([column, value, n / len(expected)])
    heads = ["field", noun, "accuracy"]
    title = f"Always the most frequent {noun}"
    return table(title, heads, rows, units={"accuracy": "share"})


def log_scores(
    job: Job,
    scores: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, Sequence[float]]],
) -> None:
    """Log each model's headline."""
    for name, of in scores.items():
        metric, value = next(iter(of.items()))
        low, high = intervals[name][metric]
        interval = f"{100 * low:.1f} – {100 * high:.1f}"
        job.log(f"{name}: {metric} {percent(value)} (95 % CI {interval})")
