"""Why rows can't be trained on: the faults, and the error that names the rows with each."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from finery import DataError, FineryError, Job, StepError
from finery.rows import Row
from finery.util.text import NAMED, some_of
from finery_trl.rows.example import Example


class Fault(NamedTuple):
    """Why rows can't be trained on: what they have, and how to fix it."""

    says: str
    fix: str
    error: type[FineryError]


REFUSED = Fault(
    "a conversation that the model's chat template refuses",
    "use roles that the template accepts, or give the model another template",
    DataError,
)
UNANSWERED = Fault("no answer to learn", "remove them, or add answers", DataError)
UNMARKED = Fault(
    "no turn to learn: each of their assistant turns has `weight: 0`",
    "remove them, or give a turn `weight: 1`",
    DataError,
)
WEIGHTLESS = Fault(
    "an assistant turn with a `weight` other than 0 and 1",
    "write `weight: 1` to learn a turn, and `weight: 0` not to",
    DataError,
)
EMPTY = Fault(
    "an empty answer, in which only the end of the turn has loss",
    "remove them, or write the answer that the model should give, e.g. `none`",
    DataError,
)
UNWRITTEN = Fault(
    "an answer that the model's chat template doesn't write, so that no token has loss",
    "use a chat template that writes the assistant's turns",
    StepError,
)
CHANGED = Fault(
    "a prompt that differs from the one used at inference",
    "use a chat template that writes earlier turns in the same way with and without an answer",
    StepError,
)
THOUGHTLESS = Fault(
    "thinking that the model's chat template doesn't write",
    "use a chat template that writes `reasoning_content`, or remove the thinking from the rows",
    StepError,
)
THOUGHT_TWICE = Fault(
    "two think blocks in an answer",
    "remove the think block from the text of the rows, or put it into `reasoning_content`",
    StepError,
)
TOOLLESS = Fault(
    "tools, calls or answers of tools that the model's chat template doesn't write",
    "set `tools_as: text` on the model",
    StepError,
)
MISREAD = Fault(
    "calls that can't be read back from what the model's chat template writes",
    "set `tools_as: text` on the model, or give it another template with `chat_template:`",
    StepError,
)
UNMASKED = Fault(
    "thinking in a notation that isn't recognised, so that it can't be masked",
    "put the thinking into `reasoning_content`, or set thinking: learned",
    DataError,
)
BOS_TWICE = Fault(
    "two BOS tokens at the beginning",
    "use a chat template that writes the BOS token once",
    StepError,
)
TWO_TEMPLATES = Fault(
    "a text that the chat template of the adapter writes differently from that of its base",
    "give both the same chat template: copy the chat_template.jinja of one into the other's folder",
    StepError,
)
ENDLESS = Fault(
    "an answer that doesn't end with an end-of-turn token",
    "use a chat template that writes an end-of-turn or EOS token after each answer, or the model "
    "won't learn to stop",
    StepError,
)
FAULTS = (
    REFUSED, WEIGHTLESS, UNANSWERED, UNMARKED, EMPTY, TWO_TEMPLATES, TOOLLESS, MISREAD,
    THOUGHTLESS, UNMASKED, THOUGHT_TWICE, UNWRITTEN, CHANGED, BOS_TWICE, ENDLESS,
)  # fmt: skip
"""In the order in which they are reported."""


class Faulty(Exception):
    """Raised for one row. fix: instead of the fault's own."""

    def __init__(self, fault: Fault, details: Sequence[str], fix: str = "") -> None:
        super().__init__(fault.says)
        self.fault = fault
        self.details = list(details)
        self.fix = fix


class Faults:
    """The rows that can't be trained on, by fault: their ids, and details of the first few.

    what: the name of the rows in errors. offer: fault → templates for a fix, in words.
    """

    def __init__(self, what: str, offer: Callable[[Fault], str]) -> None:
        self.what = what
        self.read = 0
        self._offer = offer
        self._learnable = 0
        self._ids: dict[Fault, list[str]] = {}
        self._details: dict[Fault, list[str]] = {}
        self._fixes: dict[Fault, str] = {}
        self._longer: dict[str, bool] = {}
        self._longest = 0
        self._prompts = 0

    def add(self, row: Row, error: Faulty) -> None:
        """Add a row with a fault."""
        ids = self._ids.setdefault(error.fault, [])
        details = self._details.setdefault(error.fault, [])
        if error.fault in (CHANGED, TWO_TEMPLATES):
            details += error.details if not ids else []
        elif len(ids) < NAMED:
            details += [f"{row['id']}: {line}" for line in error.details]
        ids.append(row["id"])
        self._fixes.setdefault(error.fault, error.fix)

    def fitting(self, examples: Sequence[Example], max_length: int) -> list[Example]:
        """The examples of a row that aren't too long, numbered; the others are counted."""
        fitting = [e for e in examples if e.size <= max_length]
        for example in examples:
            if example.size > max_length:
                self._add_longer(example, max_length, partly=bool(fitting))
        self._learnable += bool(fitting)
        return [example._replace(part=part) for part, example in enumerate(fitting)]

    def _add_longer(self, example: Example, max_length: int, *, partly: bool) -> None:
        first = example.row_id not in self._longer
        self._longer[example.row_id] = partly
        self._longest = max(self._longest, example.size)
        before = len(example.answers()[0].prompt)
        self._prompts += first and before >= max_length

    def refuse(self, job: Job, max_length: int, too_long: Literal["error", "drop"]) -> None:
        """Raise the first fault, with the others in its details; log the rows that are dropped."""
        if not self.read:
            raise DataError(f"{self.what}: there are no rows", fix=_no_rows(self.what))
        if self._ids:
            first, *others = (fault for fault in FAULTS if fault in self._ids)
            more = [f"also: {self._count(fault)}" for fault in others]
            raise first.error(
                f"{self.what}: {self._count(first)}",
                details=[*self._details[first], *more],
                fix=self._fixes[first] or self._offer(first) + first.fix,
            )
        if self._longer:
            self._check_longer(job, max_length, too_long)

    def _count(self, fault: Fault) -> str:
        ids = self._ids[fault]
        return f"{fault.says} in {len(ids):,} of {self.read:,} rows: {some_of(ids)}"

    def _check_longer(self, job: Job, max_length: int, too_long: str) -> None:
        ids, every = list(self._longer), not self._learnable
        text = (
            f"{self.what}: {len(ids):,} of {self.read:,} rows are longer than {max_length} tokens"
        )
        if too_long == "error" or every:
            prompts = f"in {self._prompts:,} of them, the prompt alone is" if self._prompts else ""
            raise DataError(
                f"{text}: {some_of(ids)}",
                where="max_length",
                details=[prompts] if prompts else [],
                fix=f"max_length: {self._longest}"
                + ("" if every else ", or too_long: drop to drop them"),
            )
        partly = sum(self._longer.values())
        except_for = f", except for the shorter turns of {partly:,} of them" if partly else ""
        job.log(f"{text} (up to {self._longest}) and were dropped{except_for}: {some_of(ids)}")


def _no_rows(what: str) -> str:
    return (
        "remove validation, or name a step with rows"
        if what == "validation"
        else ("check the step that they come from")
    )
