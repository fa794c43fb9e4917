"""`eval.tools`: does a model call the right tools with the right arguments?"""

from collections.abc import Callable, Sequence
from functools import partial

from finery import Completion, DataError, Job, UsageError, did_you_mean, setting
from finery.rows import Row, split_turns
from finery_eval import evaluator
from finery_eval.arguments import Equality
from finery_eval.calls import BadTools, Toolbox, answered_calls, argument_paths, expected_calls
from finery_eval.evaluator import Answers, Evaluator
from finery_eval.matches import Match, Wanted, hits_of
from finery_eval.tooltables import calls_table, due_table, malformed_table
from finery_eval.turns import place_of
from finery_eval.verdicts import Judged, Verdicts

METRICS = ("accuracy", "tool", "arguments", "no_call", "valid")


class ToolCalls(
    Evaluator, packages=("jsonschema",), task="extraction", hints="finery_eval.hints:TOOLS"
):
    """Judge models by the tools that they call: the right ones, with the right arguments.

    Each row offers `tools` and ends with an assistant turn: its tool calls are the expected ones,
    and if it has none, no call is due. The text of a turn isn't judged. In a conversation, the last
    assistant turn is judged; `eval.dialog` judges every turn.

    Metrics, each from 0 to 1 with a 95 % interval:
    - `accuracy`: of all rows, those with all of the turn right: the expected calls with the
      expected arguments and no other call, or no call where none is due.
    - `tool`: of the rows where a call is due, those that call the expected tools, each as often as
      expected, whatever the arguments.
    - `arguments`: of the rows that count for `tool`, those where all arguments are right.
    - `no_call`: of the rows where no call is due, those without a call, malformed ones included.
    - `valid`: of the answers with calls, those without a malformed one. A call is malformed if it
      can't be read, names a tool that isn't offered, or breaks the JSON Schema of its tool.

    A metric that applies to no row is left out. So `arguments` can't be compared between models
    that call different tools.

    The calls of a turn are a set: their order doesn't matter, and each expected call is matched
    once. Arguments are compared value by value, as the JSON Schema of the tool reads them:
    - numbers by value (3 is 3.0), texts exactly, and never a number with a text, see `coerce`;
    - objects without the order of their keys, lists in order, unless the schema has `uniqueItems`
      or `unordered` names them;
    - an argument that isn't given has the default of its schema; one without a default isn't null;
    - dates, units and numbers inside of texts aren't interpreted.

    Intervals: Wilson score (Wilson 1927). Each further model is compared with the first on the same
    rows: exact McNemar test (McNemar 1947), Newcombe's paired difference (1998, method 10).

    Raises DataError for rows without tools or without an expected turn, and for rows with a
    malformed call or tool; UsageError for settings that can't work.
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
        help='Read "3" as 3 where the schema asks for a number, and likewise truth values, lists '
        "and objects in texts, as some servers do before they run a call.",
    )
    ignore_case: bool = setting(
        False, help="Treat 'Oslo' and 'oslo' as the same text. Values of an `enum` stay exact."
    )
    strip: bool = setting(
        False, help="Ignore white space around texts. Values of an `enum` stay exact."
    )
    max_tokens: int = setting(
        256,
        ge=1,
        help="Longest answer, in tokens. A longer one is cut off there and judged as it is.",
    )

    def metric_names(self) -> list[str]:
        """The metrics of each model, the headline first."""
        return list(METRICS)

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        for name in ("free", "unordered"):
            for path in getattr(self, name):
                if not all(path.split(".")) or "." not in path:
                    raise UsageError(
                        f"{path!r} doesn't name an argument of a tool",
                        where=name,
                        fix="write tool.argument, e.g. book_meeting.title",
                    )
        if self.extract is not None:
            raise UsageError(
                "`extract` can't be used: calls are judged, not texts",
                where="extract",
                fix="remove it",
            )
        super().check()

    def judging(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], Verdicts]:
        """Read the expected calls and the tools of each row."""
        wanted = self.expectations(rows)
        self.check_paths(wanted)
        return partial(self.verdicts, wanted)

    def expectations(self, rows: Sequence[Row]) -> list[Wanted]:
        """What each row expects. Raises `DataError` listing rows and turns without it."""
        toolbox = Toolbox()
        wanted: list[Wanted] = []
        failed: list[str] = []
        for row in rows:
            try:
                wanted.append(self.expected(row, toolbox))
            except BadTools as error:
                failed.append(f"{place_of(row)}: {error}")
        evaluator.refuse(
            "the expected calls of some rows can't be read",
            failed,
            fix="give each row `tools` and one assistant turn whose calls follow their schemas, "
            "or drop it",
        )
        return wanted

    def expected(self, row: Row, toolbox: Toolbox) -> Wanted:
        """What a row expects. Raises `BadTools`."""
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

    def check_paths(self, wanted: Sequence[Wanted]) -> None:
        """Raise `DataError` for `free` or `unordered` arguments that no tool has."""
        known = {p for want in wanted for tool in want.tools.values() for p in argument_paths(tool)}
        for name in ("free", "unordered"):
            for path in getattr(self, name):
                if path not in known:
                    raise DataError(
                        f"no tool of the rows has the argument '{path}'",
                        where=name,
                        fix=did_you_mean(path, known),
                    )

    def equality(self) -> Equality:
        """When two arguments are the same."""
        return Equality(
            ignore_case=self.ignore_case,
            strip=self.strip,
            free=frozenset(self.free),
            unordered=frozenset(self.unordered),
        )

    def verdicts(self, wanted: Sequence[Wanted], answers: Answers) -> Verdicts:
        """Read the calls in the answers and compare them with the expected ones."""
        matches = {
            name: [self.match(want, a) for want, a in zip(wanted, completions, strict=True)]
            for name, completions in answers.items()
        }
        invalid = {
            name: sum(match.is_valid is False for match in of) for name, of in matches.items()
        }
        return Verdicts(
            judged={
                name: Judged([match.facts() for match in of], hits_of(of))
                for name, of in matches.items()
            },
            metrics=self.metric_names(),
            headline=self.metric_names(),
            tables=[
                evaluator.answers_table(answers, invalid),
                due_table(matches),
                *(calls_table(name, of) for name, of in matches.items()),
                *malformed_table(
                    {n: [c for m in of for c in m.calls] for n, of in matches.items()}
                ),
            ],
        )

    def match(self, want: Wanted, answer: Completion) -> Match:
        """Hold an answer's calls against the expected ones."""
        calls = answered_calls(answer, want.tools, coerce=self.coerce)
        return Match(want, calls, self.equality(), answer.text)
