"""The rewards of answers: metrics of evaluators, and functions of a file."""

import math
import runpy
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from copy import deepcopy
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, SupportsFloat

from finery import Completion, DataError, Job, Model, StepError, UsageError, outside_key
from finery.advanced import did_you_mean
from finery.rows import Row, Turns
from finery.rows.templates.limits import TimeExceeded, time_limit
from finery_eval.evaluator import BatchEvaluator
from finery_eval.nested import Nested
from finery_trl.train.watch import QuietJob, live_engine

if TYPE_CHECKING:
    from finery_trl.on_policy import Functions, Grpo
    from finery_trl.rows.tokens import Tokens

CHECKED, ASKED = 200, 20
"""Rows whose expected answers are rewarded before the training, and how many the model answers."""
SECONDS = 30.0
"""CPU time for loading a file with functions, and for rewarding an answer."""
Function = Callable[[Row, Completion], Any]
Values = dict[str, list[float | None]]
"""Reward → its value for each answer; None where it doesn't apply."""


def evaluators_of(step: "Grpo") -> list[Nested]:
    """The evaluators in `reward`. Raises `UsageError` for one that can't reward single answers."""
    settings: dict[str, Any] = {"reward": step.reward}
    if isinstance(step.reward, list):
        settings = {f"reward.{index}": entry for index, entry in enumerate(step.reward)}
    evaluators: list[Nested] = []
    for setting, evaluator in settings.items():
        if evaluator is None:
            continue
        kind: Any = type(evaluator)
        if not issubclass(kind, BatchEvaluator) or kind.judging is BatchEvaluator.judging:
            raise UsageError(
                "this step type doesn't judge answers one by one",
                where=setting,
                fix="use one that does, e.g. reward: {use: eval.exact}",
            )
        assert isinstance(evaluator, BatchEvaluator)
        models = [
            f for f in evaluator.__struct_fields__ if isinstance(getattr(evaluator, f), Model)
        ]
        if models:
            raise UsageError(
                "a reward is computed for each of thousands of answers, so it can't ask another "
                "model",
                where=f"{setting}.{models[0]}",
                fix="judge the trained model in a step of the section evaluate, and reward with "
                "e.g. eval.rules or a function",
            )
        if evaluator.use in [rival.evaluator.use for rival in evaluators]:
            raise UsageError(
                f"`reward` has two evaluators of the step type {evaluator.use}",
                where=setting,
                fix="use one evaluator of each type, or reward with a function",
            )
        evaluators.append(Nested(evaluator, setting))
    return evaluators


def metrics_of(evaluators: Sequence[Nested]) -> dict[str, tuple[str, str]]:
    """Reward → (setting of its evaluator, metric), for the metrics that can reward.

    A reward has the name of the metric, or `eval.rules.accuracy` if several evaluators have it.
    """
    usable: list[tuple[Nested, str]] = []
    for nested in evaluators:
        unusable = {*nested.evaluator.statistics(), *nested.evaluator.unbounded()}
        names = nested.evaluator.metric_names()
        usable += [(nested, metric) for metric in names if metric not in unusable]
    having = Counter(metric for _, metric in usable)
    metrics = {}
    for nested, metric in usable:
        name = metric if having[metric] == 1 else f"{nested.evaluator.use}.{metric}"
        metrics[name] = nested.setting, metric
    return metrics


def _check_settings(nested: Nested) -> None:
    """Raise `UsageError` for settings with which an evaluator can't reward."""
    nested.check(slices=False)
    if getattr(nested.evaluator, "labels", ()) is None:
        raise UsageError(
            "by default, the allowed classes are those that the rows expect, but a reward is "
            "computed from the rows of one optimizer step",
            where=f"{nested.setting}.labels",
            fix="list all classes: labels: [spam, ham]",
        )
    if getattr(nested.evaluator, "abstain_below", None) is not None:
        raise UsageError(
            "answers of a language model have no probability",
            where=f"{nested.setting}.abstain_below",
            fix="remove abstain_below",
        )


def weights_of(step: "Grpo") -> dict[str, float]:
    """Reward → its weight: by default the first metric of each evaluator, then the functions.

    Raises `UsageError` for a metric that no evaluator has, or that isn't a value of each answer.
    """
    evaluators, weights = evaluators_of(step), dict(step.weights)
    functions = step.functions.weights if step.functions is not None else {}
    values = [*weights.values(), *functions.values()]
    if values and not any(values) and (weights or not evaluators):  # else first metrics have 1
        raise UsageError(
            "all weights are 0, so nothing is rewarded",
            where="weights" if weights else "functions.weights",
            fix="give what answers should have a weight above 0",
        )
    if not evaluators:
        if weights or not functions:
            raise UsageError(
                "`reward` is missing: the evaluator that rewards the answers",
                where="reward",
                fix="reward: {use: eval.exact}, or functions: {file: rewards.py, weights: {…}}",
            )
        return dict(functions)
    for nested in evaluators:
        _check_settings(nested)
    metrics = metrics_of(evaluators)
    if not weights:
        firsts = [(n.setting, n.evaluator.metric_names()[0]) for n in evaluators]
        names = {metric: name for name, metric in metrics.items()}
        weights = {names.get(first, first[1]): 1.0 for first in firsts}
    for name in weights:
        if name not in metrics:
            shared = any(metric == name for _, metric in metrics.values())
            raise UsageError(
                f"several evaluators of `reward` have a metric named '{name}'"
                if shared
                else f"`reward` measures nothing from 0 to 1 named '{name}' for each answer",
                where="weights",
                fix=f"one of: {', '.join(metrics)}"
                if len(evaluators) > 1
                else did_you_mean(name, metrics),
            )
        if name in functions:
            raise UsageError(
                f"a metric of `reward` and a function are both named '{name}'",
                where="functions.weights",
                fix="rename the function",
            )
    used = {metrics[name][0] for name in weights}
    for nested in evaluators:
        if nested.setting not in used:
            raise UsageError(
                f"no metric of {nested.evaluator.use} has a weight",
                where=nested.setting,
                fix="remove this evaluator, or give one of its metrics a weight",
            )
    return weights | functions


class Rewards:
    """What rewards answers. folder: for the evaluators' files. weights: reward → weight."""

    def __init__(self, step: "Grpo", folder: Path) -> None:
        self.weights = weights_of(step)
        self._step = step
        self._evaluators = evaluators_of(step)
        self._metrics = metrics_of(self._evaluators)
        self._job = QuietJob(folder)
        self._functions = load_functions(step.functions) if step.functions is not None else {}

    @property
    def may_see_form_only(self) -> bool:
        """Whether they may be equal for the expected answers of other rows."""
        return all(type(n.evaluator).__spec__.task == "style" for n in self._evaluators)

    def of(self, rows: Sequence[Row], answers: Sequence[Completion]) -> Values:
        """The rewards of an answer to each row. Raises `StepError` for a value that is no reward.

        A row may occur several times. Raises `DataError` for rows that can't be judged.
        """
        values: Values = {}
        for nested in self._evaluators:
            model = nested.evaluator.models[0].name
            verdicts = nested.judging(self._job, rows, ())({model: list(answers)})
            for name, (setting, metric) in self._metrics.items():
                if setting == nested.setting and name in self.weights:
                    judged = verdicts.values(metric)[model]
                    values[name] = [None if v is None else float(v) for v in judged]
        for name, function in self._functions.items():
            pairs = zip(rows, answers, strict=True)
            values[name] = [reward_of(name, function, row, answer) for row, answer in pairs]
        return {name: values[name] for name in self.weights}

    @outside_key
    def try_out(self, trainer: Any, tokens: "Tokens", rows: Sequence[Row], job: Job) -> None:
        """Log the rewards of expected answers and of answers of the model before the training.

        Raises `DataError` if they can't tell these apart, see `check_rewards`.
        """
        import torch

        check_rewards(self, spread(rows, CHECKED))
        probed = spread(rows, ASKED)
        short = torch.bfloat16 if trainer.args.bf16 else torch.float16
        dtype = short if trainer.args.bf16 or trainer.args.fp16 else torch.float32
        self._job.live = live_engine(self._step, tokens, dtype, trainer.model, self._job)
        job.progress(0, 1, "rewarding answers of the model")
        with torch.random.fork_rng():
            answers = self._job.engine(self._step.model).generate(
                [Turns.of(row).prompt for row in probed],
                max_tokens=self._step.max_completion_length,
                temperature=self._step.temperature,
                seed=job.seed,
                tools=[row.get("tools") for row in probed],
                refusals=True,
            )
        totals = self.totals(self.of(probed, answers))
        for row, answer, total in zip(probed, answers, totals, strict=True):
            job.log(
                f"reward {total:.3g} before the training, row {row['id']}: {answer.text!r:.100}"
            )
        for line in check_rewards(self, probed, answers):
            job.log(line)

    def totals(self, values: Values) -> list[float]:
        """The weighted sum of the rewards of each answer, as TRL computes it."""
        columns = [(weight, values[name]) for name, weight in self.weights.items()]
        count = len(columns[0][1])
        return [sum(weight * (c[i] or 0.0) for weight, c in columns) for i in range(count)]


# -- what rewards are worth -----------------------------------------------------------------------


def spread(rows: Sequence[Row], count: int) -> Sequence[Row]:
    """Up to `count` rows, from the first to the last part of all, which may be sorted."""
    return rows[:: max(1, len(rows) // count)][:count]


def expected_of(row: Row) -> Completion | None:
    """The expected answer of a row as a model's answer; None if it has none."""
    turns = Turns.of(row).answer
    if len(turns) != 1:
        return None
    text, calls = str(turns[0].get("content") or ""), turns[0].get("tool_calls")
    return Completion(
        text=text,
        finish_reason="tool_calls" if calls else "stop",
        prompt_tokens=0,
        completion_tokens=0,
        tool_calls=calls,
    )


def check_rewards(
    rewards: Rewards, rows: Sequence[Row], completions: Sequence[Completion] = ()
) -> list[str]:
    """Compare the rewards of expected answers with those of other answers to the same rows.

    The others are the expected answers of other rows and, if given, the model's `completions`.
    Returns the figures, and a note if only the form of an answer counts, as with rules and
    functions. Rows without an expected answer don't count. Raises `DataError` if expected
    answers aren't worth more.
    """
    expected = [expected_of(row) for row in rows]
    places = [i for i, answer in enumerate(expected) if answer is not None]
    right = [answer for answer in expected if answer is not None]
    if len({answer.text for answer in right}) < 2:  # nothing to exchange
        return []
    count = len(right)
    shifts = [next(s for s in range(1, count) if right[(i + s) % count] != right[i])
              for i in range(count)]  # fmt: skip
    answers = {
        "expected answers": right,
        "expected answers of other rows": [right[(i + s) % count] for i, s in enumerate(shifts)],
    }
    if completions:
        answers["answers of the model"] = [completions[i] for i in places]
    chosen = [rows[i] for i in places]
    means = {kind: fmean(rewards.totals(rewards.of(chosen, a))) for kind, a in answers.items()}
    figures = [f"mean reward of {kind}: {value:.3f}" for kind, value in means.items()]
    best = means["expected answers"]
    equal = [kind for kind, value in means.items() if kind != "expected answers" and value >= best]
    form = "expected answers of other rows"
    if rewards.may_see_form_only and form in equal:
        equal.remove(form)
        figures.append(
            "the reward depends on the form of an answer only: it can rise while answers get "
            "worse, so watch an evaluator of their content"
        )
    if equal:
        negative = [name for name, weight in rewards.weights.items() if weight < 0]
        fix = "use a reward that compares answers with what the row expects"
        if negative:
            fix = f"{negative[0]} has a negative weight: make it positive if more of it is better"
        elif equal[0] != form:
            fix = (
                "correct the reward or the expected answers; if the model is that good already, "
                "there is nothing to gain"
            )
        raise DataError(
            f"the reward of {count} rows doesn't prefer their expected answers to the {equal[0]}",
            where="weights" if negative else "reward",
            details=figures,
            fix=fix,
        )
    return figures


# -- functions of a user's file ------------------------------------------------------------------


def load_functions(settings: "Functions") -> dict[str, Function]:
    """The functions that have a weight. `UsageError` for a file that fails or lacks one of them."""
    name, path = settings.file.names[0], str(settings.file.path)
    try:
        with _contained():
            names = runpy.run_path(path)
    except (Exception, SystemExit) as error:  # a user's code can raise anything
        is_syntax = isinstance(error, SyntaxError) and error.filename == path
        reason = f"isn't Python: {error}" if is_syntax else f"fails on import: {_in_words(error)}"
        raise UsageError(
            f"{name} {reason}", where="functions.file", fix="correct the file"
        ) from error
    usable = {key: value for key, value in names.items() if callable(value)}
    for function in settings.weights:
        if function not in usable:
            raise UsageError(
                f"{name} has no function named '{function}'",
                where="functions.weights",
                fix=did_you_mean(function, usable) or f"write one: def {function}(row, answer): …",
            )
    return {function: usable[function] for function in settings.weights}


def reward_of(name: str, function: Function, row: Row, answer: Completion) -> float | None:
    """A function's value for an answer. `StepError` if it fails, or if that is no number.

    It gets copies, so that it can't change what another one sees.
    """
    try:
        with _contained():
            value = function(deepcopy(row), deepcopy(answer))
    except (Exception, SystemExit) as error:
        raise StepError(
            f"the reward '{name}' failed for row {row['id']}: {_in_words(error)}",
            where="functions",
            details=[f"answer: {answer.text[:200]!r}"],
            fix="correct the function",
        ) from error
    if value is None:
        return None
    number = math.nan
    if isinstance(value, SupportsFloat):  # also numbers of numpy and torch
        with suppress(TypeError, ValueError, OverflowError, RuntimeError):
            number = float(value)
    if not math.isfinite(number):
        raise StepError(
            f"the reward '{name}' is {value!r:.80} for row {row['id']}, not a finite number",
            where="functions",
            fix="return a number, True, False, or None if the reward doesn't apply",
        )
    return number


@contextmanager
def _contained() -> Iterator[None]:
    """Limit the CPU time, and keep what is printed out of results on stdout."""
    with redirect_stdout(sys.stderr), time_limit(SECONDS):
        yield


def _in_words(error: BaseException) -> str:
    return f"it {error}" if isinstance(error, TimeExceeded) else f"{type(error).__name__}: {error}"
