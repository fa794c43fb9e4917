"""`eval.tools`: does a model call the right tools with the right arguments?"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

from finery import CachedEngine, Completion, Job, Key, Look, Metrics, UsageError, setting
from finery.rows import Row, split_turns
from finery.rows.answers.reading import extract_answer
from finery_eval import asking
from finery_eval.arguments import Equality
from finery_eval.calls import (
    SAMPLED,
    BadTools,
    Toolbox,
    answered_calls,
    arguments_of,
    expected_calls,
    sampled_arguments,
)
from finery_eval.evaluation import Unjudged, answers_table
from finery_eval.evaluator import BatchEvaluator, evaluate, judge_of, longest_answer
from finery_eval.functions import Execute, Functions
from finery_eval.matches import Match, Wanted, calls_table, due_table, malformed_table
from finery_eval.tasks import Expect, Play, Task, split_task, steps_table, task_of
from finery_eval.turns import place_of
from finery_eval.verdicts import Answers, Verdicts

T = TypeVar("T")
EARLIER = "calls before the last turn; eval.dialog judges every turn, `execute` what the calls do"
EXECUTED = "calls before the last turn of the user, which are executed as the row has them"
METRICS = ("accuracy", "tool", "arguments", "no_call", "valid")


class ToolCalls(BatchEvaluator, packages=("jsonschema",), task="extraction"):
    """Judge models by the tools that they call: the right ones, with the right arguments.

    Each row offers `tools` and ends with an assistant turn. Its tool calls are the expected ones;
    if it has none, no call is due. The text of a turn isn't judged. In a conversation, the last
    assistant turn is judged; `eval.dialog` judges every turn.

    Metrics, each from 0 to 1 with a 95 % interval:
    - `accuracy`: of all rows, those whose turn is right: the expected calls with the expected
      arguments and no other call, or no call if none is due.
    - `tool`: of the rows in which a call is due, those that call the expected tools, each as often
      as expected, with any arguments.
    - `arguments`: of the rows that count for `tool`, those in which all arguments are right.
    - `no_call`: of the rows in which no call is due, those with a text and without a call, even a
      malformed one. So an answer that was cut off while the model was thinking is wrong.
    - `valid`: of the answers with calls, those without a malformed one. A call is malformed if it
      can't be read, names a tool that isn't offered, or breaks the JSON Schema of its tool. It is
      never right. A call whose check takes more than 10 s of CPU time is malformed too.

    A metric that applies to no row is left out. So `arguments` can't be compared between models
    that call different tools.

    The calls of a turn are a set: their order doesn't matter, and each expected call is matched
    once. Arguments are compared value by value, as the JSON Schema of the tool reads them:
    - numbers by value (3 is 3.0), texts exactly, and never a number with a text, see `coerce`;
    - objects without the order of their keys, lists in order, unless the schema has `uniqueItems`
      or `unordered` names them;
    - a missing argument has the default of its schema; if there is no default, it differs from
      null;
    - dates, units and numbers inside texts aren't interpreted.

    With `execute`, rows are tasks in several steps. The turns after the user's last turn are the
    expectation, and may include calls and the answers of tools. The model is prompted, your
    functions execute its calls, and it is prompted again with the results, until it answers without
    a call. A row is right if that happens within `max_steps`, and if the functions are then in the
    same state as after the calls of the row, or the answer is the same, see `expect`. The metrics
    are then:
    - `accuracy`: of all rows, those that are right.
    - `state`, `answer`: of all rows, those with that part right, if `expect` names it.
    - `finished`: of all rows, those that end within `max_steps` with a turn that has no calls and
      isn't cut off.
    - `no_call`, `valid`: as above, over all calls of a row.

    The functions run in a separate process that the step starts, with your rights, without a
    sandbox, one call at a time. The state is separate for each row and model; to verify this, the
    calls of each row are executed twice. A malformed call isn't executed. Such a call, an
    exception, a result that can't be written as JSON, and a call that takes longer than `seconds`
    are answered with `{"error": …}`. If the call can't even be parsed, a turn of the user contains
    the error. A call that takes too long is stopped and has no effect.

    Intervals: Wilson score (Wilson 1927). Each further model is compared with the first on the same
    rows: exact McNemar test (McNemar 1947), Newcombe's paired difference (1998, method 10).

    Raises DataError for rows without tools or without an expected turn, and for rows with a
    malformed call or tool; StepError for functions that can't be used; UsageError for settings that
    can't work.
    """

    free: list[str] = setting(
        [],
        help="Arguments with free text: they must be given, and not be blank, but their content "
        "isn't judged. By tool and name; `tool.argument.field` inside an object.",
        examples=[["book_meeting.title"]],
    )
    unordered: list[str] = setting(
        [],
        help="Arguments with lists of which the order doesn't matter, named as in `free`. Lists "
        "with `uniqueItems` in their schema never have an order.",
        examples=[["book_meeting.guests"]],
    )
    coerce: bool = setting(
        False,
        help='Read "3" as 3 if the schema asks for a number, and likewise truth values, lists '
        "and objects in texts, as some servers do before they run a call.",
    )
    ignore_case: bool = setting(
        False, help="Treat 'Oslo' and 'oslo' as the same text. Values of an `enum` stay exact."
    )
    strip: bool = setting(
        False, help="Ignore white space around texts. Values of an `enum` stay exact."
    )
    execute: Execute | None = setting(
        None, help="Functions that execute the calls, for tasks in several steps."
    )
    max_tokens: int = longest_answer(256)

    def metric_names(self) -> list[str]:
        """The metrics of each model; the first one decides."""
        return list(METRICS) if self.execute is None else self.expect().metrics()

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        if self.execute is not None:
            self.execute.check()
        for name in ("free", "unordered"):
            for path in getattr(self, name):
                if not all(path.split(".")) or "." not in path:
                    raise UsageError(
                        f"{path!r} doesn't name an argument of a tool",
                        where=name,
                        fix="write tool.argument, e.g. book_meeting.title",
                    )
                if self.execute is not None:
                    raise UsageError(
                        f"`{name}` can't be used with `execute`: calls are judged by what they do",
                        where=name,
                        fix="remove it",
                    )
        if self.extract is not None and "answer" not in (
            self.execute.expect if self.execute else ()
        ):
            raise UsageError(
                "`extract` selects a part of the answer, but only calls are judged",
                where="extract",
                fix="remove it, or set execute.expect: [answer]",
            )
        super().check()

    def check_nested(self) -> None:
        """Raise `UsageError` for `execute`, for which models answer in another way."""
        if self.execute is not None:
            raise UsageError(
                "`execute` can't be used inside another step, because it judges complete rows",
                where="execute",
                fix="remove it, or use eval.tools as a separate step",
            )

    def examine(self, look: Look) -> None:
        """Also raise errors for functions that can't be used, and for arguments of no tool."""
        if self.execute is not None:
            self.execute.check_file()
        super().examine(look)
        rows = look.rows("rows", SAMPLED + 1) if self.free or self.unordered else None
        arguments = sampled_arguments(rows.value) if rows else None
        if arguments is not None:
            arguments.check(self.free, self.unordered)

    def cache_key(self) -> Key:
        """Also the functions that execute calls."""
        key = super().cache_key()
        return key | self.execute.cache_key() if self.execute is not None else key

    def run(self, job: Job) -> Metrics:
        """Get the answers, execute their calls if the recipe says so, judge them."""
        if self.execute is None:
            return super().run(job)
        rows = asking.read_rows(self.rows)
        plays: dict[str, list[Play]] = {}
        with closing(Functions(self.execute)) as functions:
            tasks = self.tasks(job, rows, functions)

            def work(engine: CachedEngine, name: str) -> list[Completion]:
                plays[name] = [Play(task, functions, coerce=self.coerce) for task in tasks]
                asking.run_exchanges(self, job, engine, name, plays[name], "step")
                return [play.end() for play in plays[name]]

            judge = judge_of(self, job, rows, partial(self.task_verdicts, plays))
            return evaluate(self, job, rows, judge, work)

    def prepare(self, job: Job) -> Any:
        """As of any evaluator; with `execute`, also execute the calls of the rows."""
        if self.execute is None:
            return super().prepare(job)
        with closing(Functions(self.execute)) as functions:
            return self.tasks(job, asking.read_rows(self.rows), functions)

    def tasks(self, job: Job, rows: Sequence[Row], functions: Functions) -> list[Task]:
        """The tasks of the rows, whose calls are executed.

        Raises `DataError` listing rows that are no tasks, and `StepError` for broken functions.
        """
        toolbox, by_state = Toolbox(), "answer" not in functions.settings.expect
        read = partial(task_of, toolbox=toolbox, functions=functions, by_state=by_state)
        tasks = self.readable(rows, partial(read, coerce=self.coerce))
        for subject, errors in (
            ("calls before the last turn of the user", [task.errors.before for task in tasks]),
            ("expected calls", [task.errors.expected for task in tasks]),
        ):
            if any(errors):
                failed = sum(map(bool, errors))
                job.log(f"the {subject} of {failed} of {len(rows)} rows end in an error")
        return tasks

    def expect(self) -> Expect:
        """What must match after the calls were executed; only with `execute`."""
        assert self.execute is not None
        return Expect(frozenset(self.execute.expect), self.text)

    def text(self, text: str) -> str:
        """An answer as it is compared."""
        text = extract_answer(text, self.extract).strip()
        return text.casefold() if self.ignore_case else text

    def task_verdicts(self, plays: Mapping[str, Sequence[Play]], answers: Answers) -> Verdicts:
        """Compare the states and answers with those of the rows; only with `execute`."""
        assert self.execute is not None
        expect = self.expect()
        calls = {
            name: [c for each in model_plays for c in each.calls]
            for name, model_plays in plays.items()
        }
        return self.verdicts(
            answers,
            {name: list(map(expect.verdict, model_plays)) for name, model_plays in plays.items()},
            [
                answers_table(answers),
                steps_table(plays, self.execute.max_steps),
                *malformed_table(calls),
            ],
        )

    def judging(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], Verdicts]:
        """Read the expected calls and the tools of each row."""
        expectations = self.readable(rows, partial(self.expected, toolbox=Toolbox()))
        arguments = arguments_of(t for want in expectations for t in want.tools.values())
        arguments.check(self.free, self.unordered)
        return partial(self.judged, expectations)

    def unjudged(self, rows: Sequence[Row]) -> list[Unjudged]:
        """Turns with calls before those that are judged."""
        split, what = (split_turns, EARLIER) if self.execute is None else (split_task, EXECUTED)
        turns = [sum(bool(turn.get("tool_calls")) for turn in split(row)[0]) for row in rows]
        return [Unjudged(what, sum(map(bool, turns)), sum(turns))] if any(turns) else []

    def readable(self, rows: Sequence[Row], read: Callable[[Row], T]) -> list[T]:
        """The result of `read` for each row. Raises `DataError` with those that it can't read."""
        results: list[T] = []
        failed: list[str] = []
        for row in rows:
            try:
                results.append(read(row))
            except BadTools as error:
                failed.append(f"{place_of(row, error.turn)}: {error}")
        asking.refuse_rows(
            "the expected calls of some rows can't be read",
            failed,
            fix="give each row `tools` and an assistant turn whose calls follow their schemas, or "
            "drop it",
        )
        return results

    def expected(self, row: Row, toolbox: Toolbox) -> Wanted:
        """The expectation of a row. Raises `BadTools`."""
        tools, completion = toolbox.of(row), split_turns(row)[1]
        if not completion:
            raise BadTools("there is no assistant turn to expect")
        if len(completion) > 1:
            raise BadTools(
                f"{len(completion)} turns are expected, but only one is judged: use eval.dialog"
            )
        (turn,) = completion
        calls = expected_calls(turn, tools, coerce=self.coerce)
        text = str(turn.get("content") or "")
        if not calls and not text.strip():
            raise BadTools("the assistant turn has neither calls nor a text")
        return Wanted(calls, tools, text)

    def equality(self) -> Equality:
        """When two arguments are the same."""
        return Equality(
            ignore_case=self.ignore_case,
            strip=self.strip,
            free=frozenset(self.free),
            unordered=frozenset(self.unordered),
        )

    def judged(self, expectations: Sequence[Wanted], answers: Answers) -> Verdicts:
        """Read the calls in the answers and compare them with the expected ones."""
        equality = self.equality()
        matches = {
            name: [
                Match(
                    want, answered_calls(answer, want.tools, coerce=self.coerce), equality, answer
                )
                for want, answer in zip(expectations, completions, strict=True)
            ]
            for name, completions in answers.items()
        }
        invalid = {
            name: sum(match.is_valid is False for match in model_matches)
            for name, model_matches in matches.items()
        }
        calls = {
            name: [c for match in model_matches for c in match.calls]
            for name, model_matches in matches.items()
        }
        return self.verdicts(
            answers,
            {
                name: [match.verdict() for match in model_matches]
                for name, model_matches in matches.items()
            },
            [
                answers_table(answers, invalid),
                due_table(matches),
                *(
                    t
                    for name, model_matches in matches.items()
                    for t in calls_table(name, model_matches)
                ),
                *malformed_table(calls),
            ],
        )
