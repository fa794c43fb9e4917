"""`data.validate`: find out what is wrong with rows."""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

import msgspec

from finery import (
    DataError,
    Dataset,
    File,
    Job,
    Key,
    Look,
    UsageError,
    setting,
    takes,
)
from finery.advanced import did_you_mean
from finery.rows import Row, Turns
from finery.rows.badrow import BadRow
from finery.rows.chat.turns import turn_problems
from finery.rows.conditions import conditions_of
from finery.rows.dropped import Drops, Findings, reason_counts
from finery.rows.parts import (
    answer_or_none,
    missing_text_error,
    per_text_setting,
    prompt_text,
    read_numbered,
    row_label,
    text_by_name,
)
from finery.rows.templates.limits import limit_patterns
from finery_data.checks import encoding, personal
from finery_data.checks.labels import Labels
from finery_data.checks.language import check_codes, foreign_language
from finery_data.steps.filter import RowFilter

Action = Literal["error", "drop", "report"]
Finding = tuple[str, str]
"""(check, what it found)."""
ACTIONS: dict[str, Action] = {
    "size": "error",
    "empty": "error",
    "turns": "error",
    "tools": "error",
    "json": "error",
    "schema": "error",
    "label": "error",
    "length": "error",
    "language": "error",
    "label-typo": "report",
    "label-conflict": "report",
    "encoding": "report",
    **dict.fromkeys(personal.KINDS, "report"),
}
"""Check → what is done about a row that fails it, unless `actions` says otherwise."""
GROUPS = {"personal": personal.KINDS}
LISTED = 20


class Validate(
    RowFilter,
    packages=("jsonschema", "py3langid", "rensa"),
    version="1",
):
    """Check rows; stop, drop or report those that fail.

    Checks, by their names in `actions`:
    - `size`: more bytes than `max_bytes`. Such a row isn't checked any further.
    - `empty`: an empty turn. `turns`: unknown roles, turns out of order, broken tool calls.
    - `tools`: an answer with a call of a tool that isn't among the row's `tools`, unless it is the
      rejected one.
    - `json`: an answer that isn't JSON. `schema`: one that breaks the JSON Schema.
    - `label`: a label that isn't allowed, or none. `label-typo`: one letter from a label five times
      as frequent. `label-conflict`: the same prompt, or a near copy of it (0.7 similar), with
      another label.
    - `length`: too short or too long. `language`: another language, with a probability of 0.8.
    - `email`, `phone`, `iban`, `card`, `ip`, together `personal`: personal data by its form.
    - `encoding`: UTF-8 read as Latin-1, U+FFFD, control characters.

    By default, a row that breaks a requirement stops the build. Findings that may be intended are
    only reported: label typos and conflicts, personal data, encodings, JSON that wasn't required.
    Reported rows stay; `findings.jsonl` and `finery show` list them. Rows are streamed twice. Each
    row with a label needs 2 to 3 KB of memory.
    """

    rows: list[Dataset] = takes(help="Rows to check, in this order.")
    schema: File | None = setting(
        None,
        help="JSON Schema file that every answer must match. It can't refer to other files.",
    )
    json: bool | None = setting(
        None,
        help="Whether every answer must be JSON. Default: true with `schema`. Otherwise, if most "
        "answers are JSON, the others are reported.",
    )
    labels: list[str] = setting(
        [], help="Allowed labels. Default: any.", examples=[["billing", "shipping"]]
    )
    label: str | None = setting(
        None,
        column_of="rows",
        help="Column with the label; output: the answer's text. Rows without one are allowed. "
        "Default: label, or output if no row has that column and the answers repeat, each at least "
        "twice on average.",
    )
    min_characters: dict[str, int] = per_text_setting(
        "minimum number of characters", {"assistant": 2}
    )
    max_characters: dict[str, int] = per_text_setting(
        "maximum number of characters", {"user": 8000}
    )
    languages: list[str] = setting(
        [],
        help="Allowed languages of prompts and answers, as ISO 639-1 codes. Default: any. "
        "Needs finery[data].",
        examples=[["en", "de"]],
    )
    personal: list[Literal["email", "phone", "iban", "card", "ip"]] = setting(
        ["email", "phone", "iban", "card", "ip"],
        help="Personal data to look for, in all texts of a row.",
    )
    max_bytes: int = setting(1_000_000, ge=1, help="Maximum size of a row, in bytes of JSON.")
    actions: dict[str, Action] = setting(
        {},
        help="Check: error, drop or report. error: the build stops after checking all rows. "
        "drop: the row is dropped. report: the row stays.",
        examples=[{"personal": "drop", "language": "report"}],
    )

    def check(self) -> None:
        """Raise `UsageError` for checks that there aren't and settings that don't fit together."""
        known = [*ACTIONS, *GROUPS]
        for name in self.actions:
            if name not in known:
                raise UsageError(
                    f"there is no check '{name}'",
                    where=f"actions.{name}",
                    fix=did_you_mean(name, known),
                )
        if self.schema is not None and self.json is False:
            raise UsageError(
                "`schema` needs JSON answers, but `json` is false",
                where="json",
                fix="remove one of them",
            )
        conditions_of(self)
        check_codes(self.languages)

    def cache_key(self) -> Key:
        """The libraries that these settings use."""
        used = {"rensa": True, "jsonschema": self.schema, "py3langid": self.languages}
        return Key(packages=tuple(name for name, needed in used.items() if needed))

    def examine(self, look: Look) -> None:
        """Raise `DataError` for a schema that is none."""
        self.answer_schema()

    def answer_schema(self) -> Any:
        """The `AnswerSchema`, if one is given."""
        from finery.rows.answers.answerschema import AnswerSchema

        return None if self.schema is None else AnswerSchema(self.schema.path)

    def run(self, job: Job) -> Dataset:
        """Write the rows that may stay, what was found in them, and what was dropped."""
        checks = _Checks(self, job)
        with Drops(job.out) as drops, Findings(job.out) as findings:
            dataset = Dataset.write(job.out, self._passed(job, checks, drops, findings))
        if checks.refused:
            raise checks.error()
        drops.refuse_nothing_left(len(dataset), "relax the checks that drop rows")
        dataset.meta |= drops.meta() | findings.meta()
        job.log(drops.summary(len(dataset)))
        job.log(f"findings in rows that stay: {reason_counts(findings.counts) or 'none'}")
        return dataset

    def _passed(
        self, job: Job, checks: "_Checks", drops: Drops, written: Findings
    ) -> Iterator[Row]:
        for number, row in read_numbered(job, self.rows):
            findings = list(checks.of(number, row))
            if checks.refuse(number, row, findings):
                continue
            fatal = [(check, what) for check, what in findings if checks.action(check) == "drop"]
            if fatal:
                drops.add(row, fatal[0][0], "; ".join(what for _, what in fatal))
                continue
            written.add(number, row, findings)
            yield row


class _Checks:
    """The checks of one run, made ready by a first pass over the rows."""

    def __init__(self, step: Validate, job: Job) -> None:
        self.step = step
        self.refused: Counter[str] = Counter()
        self._rows_refused = 0
        self._total = 0
        self._listed: list[str] = []
        self._job = job
        self._labels = Labels(job.scratch, step.rows, step.label)
        self._conditions = conditions_of(step)
        self._json: Action | None = None  # what is done about an answer that is none
        self._survey(job)

    def action(self, check: str) -> Action:
        """What to do with a row that fails this check."""
        actions = self.step.actions
        for group, names in GROUPS.items():
            if check in names and check not in actions and group in actions:
                return actions[group]
        if check == "json" and check not in actions and self._json is not None:
            return self._json
        return actions.get(check, ACTIONS[check])

    def of(self, number: int, row: Row) -> Iterator[Finding]:
        """All findings in a row."""
        size = len(msgspec.json.encode(row))
        if size > self.step.max_bytes:
            yield "size", f"has {size:,} bytes, more than {self.step.max_bytes:,}"
            return
        broken = turn_problems(row)
        yield from broken
        yield from self._in_texts(row)
        if not any(check == "turns" for check, _ in broken):
            tools = row.get("tools")
            declared = [_tool_name(tool) for tool in tools] if isinstance(tools, list) else []
            turns = Turns.of(row).conversation
            called = [_tool_name(call) for turn in turns for call in turn.get("tool_calls") or ()]
            for name in dict.fromkeys(called):
                if name not in declared:
                    known = did_you_mean(name, filter(None, declared)) or "the row declares none"
                    yield "tools", f"the tool '{name}' is called but not declared; {known}"
            yield from self._lengths(number, row)
            yield from self._answers(number, row)
            yield from self._label(number, row)
            yield from self._language(row)

    def refuse(self, number: int, row: Row, findings: list[Finding]) -> bool:
        """Note the findings that stop the build; whether there are any."""
        fatal = [(check, what) for check, what in findings if self.action(check) == "error"]
        for check, what in fatal:
            self.refused[check] += 1
            line = f"{row_label(number, row)}: {check}: {what}"
            self._job.log(line)
            if len(self._listed) < LISTED:
                self._listed.append(line)
        self._rows_refused += bool(fatal)
        return bool(fatal)

    def error(self) -> DataError:
        """The error for all rows that were refused."""
        total = self.refused.total()
        more = [f"… and {total - LISTED:,} more, in the step's log"] if total > LISTED else []
        names = ", ".join(f"{name}: drop" for name in sorted(self.refused))
        return DataError(
            f"{self._rows_refused:,} of {self._total:,} rows fail ({reason_counts(self.refused)})",
            details=[*self._listed, *more],
            fix="repair the rows (`finery show --row ID` shows where a row comes from), or choose "
            f"another action: actions: {{{names}}}",
        )

    def _survey(self, job: Job) -> None:
        """Count the labels, and how many answers are JSON."""
        answers = json = 0
        for number, row in read_numbered(job, self.step.rows, "rows surveyed"):
            self._total = number
            if any(check == "turns" for check, _ in turn_problems(row)):
                continue
            self._labels.survey(number, row)
            text = _plain_answer(row)
            answers += text is not None
            json += text is not None and _is_container(text)
        wanted = self.step.json if self.step.json is not None else bool(self.step.schema)
        if wanted:
            self._json = ACTIONS["json"]
        elif self.step.json is None and json * 2 > answers:
            self._json = "report"
        if not self._labels.are_classes:
            column = self._labels.column
            job.log(f"labels aren't compared: '{column}' has too many different values")

    def _in_texts(self, row: Row) -> Iterator[Finding]:
        for place, text in encoding.texts_of(row):
            for kind, match in personal.personal_data(text, self.step.personal):
                yield kind, f"{place}: {match.what}, {match.masked()}"
        for problem in encoding.garbled_texts(row):
            yield "encoding", problem

    def _lengths(self, number: int, row: Row) -> Iterator[Finding]:
        for condition in self._conditions:
            text = text_by_name(row, condition.name)
            if text is None:
                raise missing_text_error(condition.field, condition.name, number, row)
            if problem := condition.problem(text):
                yield "length", problem

    def _answers(self, number: int, row: Row) -> Iterator[Finding]:
        from finery.rows.answers.jsonvalues import NotJson, parse

        text = _plain_answer(row)
        if self._json is None or text is None:
            return
        try:
            value = parse(text)
        except NotJson as error:
            yield "json", f"the answer is {error}"
            return
        problem = self._schema_problem(value, number, row) if self._schema else None
        if problem is not None:
            yield "schema", f"the answer breaks the schema: {problem.text}"

    def _schema_problem(self, value: Any, number: int, row: Row) -> Any:
        try:
            with limit_patterns("schema: one of its patterns"):
                return self._schema.problem(value)
        except BadRow as error:
            raise DataError(error.what, where=row_label(number, row), fix=error.fix) from error

    @cached_property
    def _schema(self) -> Any:
        return self.step.answer_schema()

    def _label(self, number: int, row: Row) -> Iterator[Finding]:
        column, allowed = self._labels.column, self.step.labels
        label = text_by_name(row, column)
        if not label:
            if allowed:
                yield "label", f"there is no label ({column})"
            return
        if allowed and label not in allowed:
            guess = did_you_mean(label, allowed) if len(label) < 100 else None
            yield "label", f"the label {label!r:.80} isn't allowed{f'; {guess}' if guess else ''}"
        elif typo := self._labels.typo(label):
            yield "label-typo", typo
        if conflict := self._labels.conflict(number, row):
            yield "label-conflict", conflict

    def _language(self, row: Row) -> Iterator[Finding]:
        if not self.step.languages:
            return
        for name, text in (("prompt", prompt_text(row)), ("answer", answer_or_none(row) or "")):
            other = foreign_language(text, self.step.languages) if text.strip() else None
            if other:
                yield "language", f"the {name} is in {other}"


def _plain_answer(row: Row) -> str | None:
    """The answer's text; None where there is none, or it calls tools."""
    calls = any(turn.get("tool_calls") for turn in Turns.of(row).answer[-1:])
    return None if calls else answer_or_none(row)


def _tool_name(tool: Any) -> str:
    """The name of a tool or of a tool call; empty for anything else."""
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    return str(function.get("name", "")) if isinstance(function, dict) else ""


def _is_container(text: str) -> bool:
    """Whether a text is a JSON object or list. A bare word or number doesn't suggest JSON."""
    if not text.lstrip().startswith(("{", "[", "```")):
        return False
    from finery.rows.answers.jsonvalues import NotJson, parse

    try:
        return isinstance(parse(text), dict | list)
    except NotJson:
        return False
