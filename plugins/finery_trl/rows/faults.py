"""Why rows can't be trained on: the faults, and the error that names the rows with each.

Nothing here can change a model: a training with a faulty row doesn't start.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Literal

from finery import DataError, FineryError, StepError, outside_key
from finery.advanced import MAX_NAMED, some_of
from finery.rows import Row, Turns
from finery_trl.rows.example import Proven

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finery_trl.rows.tokens import Reading


@outside_key
class Fault(Enum):
    """Why rows can't be trained on, in the order in which errors name it.

    says: what the rows have. fix: how to fix it. error: the exception to raise.
    """

    REFUSED = (
        "a conversation that the model's chat template refuses",
        "use roles that the template accepts, or give the model another template",
        DataError,
    )
    UNPROMPTED = ("no prompt to answer", "give each a user message, or drop it", DataError)
    WEIGHTLESS = (
        "an assistant turn with a `weight` other than 0 and 1",
        "write `weight: 1` to learn a turn, and `weight: 0` not to",
        DataError,
    )
    UNANSWERED = ("no answer to learn", "remove them, or add answers", DataError)
    UNMARKED = (
        "no turn to learn: each of their assistant turns has `weight: 0`",
        "remove them, or give a turn `weight: 1`",
        DataError,
    )
    EMPTY = (
        "an empty answer, in which only the end of the turn has loss",
        "remove them, or write the answer that the model should give, e.g. `none`",
        DataError,
    )
    TWO_TEMPLATES = (
        "a text that the chat template of the adapter writes differently from that of its base",
        "give both the same chat template: copy the chat_template.jinja of one into the other's "
        "folder",
        StepError,
    )
    TOOLLESS = (
        "tools, calls or answers of tools that the model's chat template doesn't write",
        "set `tools_as: text` on the model",
        StepError,
    )
    MISREAD = (
        "calls that can't be read back from what the model's chat template writes",
        "set `tools_as: text` on the model, or give it another template with `chat_template:`",
        StepError,
    )
    THOUGHTLESS = (
        "thinking that the model's chat template doesn't write",
        "use a chat template that writes `reasoning_content`, or remove the thinking from the rows",
        StepError,
    )
    UNMASKED = (
        "thinking in a notation that isn't recognised, so that it can't be masked",
        "put the thinking into `reasoning_content`, or set thinking: learned",
        DataError,
    )
    THOUGHT_TWICE = (
        "two think blocks in an answer",
        "remove the think block from the text of the rows, or put it into `reasoning_content`",
        StepError,
    )
    UNWRITTEN = (
        "an answer that the model's chat template doesn't write, so that no token has loss",
        "use a chat template that writes the assistant's turns",
        StepError,
    )
    CHANGED = (
        "a prompt that differs from the one used at inference",
        "use a chat template that writes earlier turns in the same way with and without an answer",
        StepError,
    )
    BOS_TWICE = (
        "two BOS tokens at the beginning",
        "use a chat template that writes the BOS token once",
        StepError,
    )
    ENDLESS = (
        "an answer that doesn't end with an end-of-turn token",
        "use a chat template that writes an end-of-turn or EOS token after each answer, or the "
        "model won't learn to stop",
        StepError,
    )

    def __init__(self, says: str, fix: str, error: type[FineryError]) -> None:
        self.says = says
        self.fix = fix
        self.error = error


NEEDED: Mapping[Fault, Literal["tools", "thinking"]] = {
    Fault.TOOLLESS: "tools",
    Fault.THOUGHTLESS: "thinking",
}
"""Fault → what a chat template must be able to do, so that it doesn't occur."""


@outside_key
class Faulty(Exception):
    """Raised for one row. fix: instead of the fault's own."""

    def __init__(self, fault: Fault, details: Sequence[str], fix: str = "") -> None:
        super().__init__(fault.says)
        self.fault = fault
        self.details = list(details)
        self.fix = fix


@outside_key
class Faults:
    """Collects the rows that can't be trained on, by fault, with details of the first few."""

    def __init__(self, reading: "Reading") -> None:
        self._reading = reading
        self._what = reading.what
        self._read = self._learnable = 0
        self._weights = {0: 0, 1: 0, None: 0}  # of assistant turns
        self._ids: dict[Fault, list[str]] = {}
        self._details: dict[Fault, list[str]] = {}
        self._fixes: dict[Fault, str] = {}
        self._longer: dict[str, bool] = {}  # id → whether the row has shorter examples
        self._longest = 0
        self._prompts = 0

    def read(self, row: Row) -> None:
        """Count a row, and the weights of its turns."""
        self._read += 1
        turns = Turns.of(row)
        for place in turns.replies:
            weight = turns.conversation[place].get("weight")
            for value in self._weights:
                self._weights[value] += weight == value

    def add(self, row: Row, error: Faulty) -> None:
        """Add a row with a fault."""
        ids = self._ids.setdefault(error.fault, [])
        details = self._details.setdefault(error.fault, [])
        if error.fault in (Fault.CHANGED, Fault.TWO_TEMPLATES):
            details += error.details if not ids else []
        elif len(ids) < MAX_NAMED:
            details += [f"{row['id']}: {line}" for line in error.details]
        ids.append(row["id"])
        self._fixes.setdefault(error.fault, error.fix)

    def measure(self, examples: Sequence[Proven]) -> None:
        """Count those examples of a row that are too long."""
        max_length = self._reading.max_length
        longer = [example for example in examples if example.size > max_length]
        is_learnable = len(longer) < len(examples)
        self._learnable += is_learnable
        for example in longer:
            prompt = example.answers()[0].prompt
            self._prompts += example.row_id not in self._longer and len(prompt) >= max_length
            self._longer[example.row_id] = is_learnable
            self._longest = max(self._longest, example.size)

    def refuse(self, loss: str) -> None:
        """Raise the first fault, with the others in its details; log the rows that are dropped."""
        if not self._read:
            fix = "check the step that they come from"
            if self._what == "validation":
                fix = "remove validation, or name a step with rows"
            raise DataError(f"{self._what}: there are no rows", fix=fix)
        if self._ids:
            first, *other_faults = (fault for fault in Fault if fault in self._ids)
            further = [f"also: {self._count(fault)}" for fault in other_faults]
            raise first.error(
                f"{self._what}: {self._count(first)}",
                details=[*self._details[first], *further],
                fix=self._fixes[first] or _offer(first, self._reading.tokens.tokenizer) + first.fix,
            )
        if self._longer:
            self._check_longer()
        if loss == "marked":
            self._refuse_unmarked()

    def _count(self, fault: Fault) -> str:
        ids = self._ids[fault]
        return f"{fault.says} in {len(ids):,} of {self._read:,} rows: {some_of(ids)}"

    def _check_longer(self) -> None:
        ids, every = list(self._longer), not self._learnable
        text = f"{self._what}: {len(ids):,} of {self._read:,} rows are longer than "
        text += f"{self._reading.max_length} tokens"
        if self._reading.too_long == "error" or every:
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
        self._reading.job.log(
            f"{text} (up to {self._longest}) and were dropped{except_for}: {some_of(ids)}"
        )

    def _refuse_unmarked(self) -> None:
        """Raise `DataError` if no turn is marked, or if marks leave open what isn't learned."""
        if not self._weights[0] and not self._weights[1]:
            raise DataError(
                f"{self._what}: loss: marked, but no assistant turn has a `weight`",
                where="loss",
                fix="give turns `weight: 0` (not learned) or `weight: 1`, or set loss: all_turns",
            )
        if self._weights[None] and not self._weights[0]:
            raise DataError(
                f"{self._what}: loss: marked, but only `weight: 1` occurs, and turns without a "
                f"weight would be learned too: {self._weights[None]:,} of the assistant's",
                where="loss",
                fix="give the turns that aren't to be learned `weight: 0`",
            )


def _offer(fault: Fault, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The templates with which a fault wouldn't occur, as the beginning of a fix."""
    if fault not in NEEDED:
        return ""
    from finery_transformers.capabilities import templates_with

    names = templates_with(tokenizer, [NEEDED[fault]])
    if not names:
        return ""
    also = f" (or {', '.join(names[1:])})" if names[1:] else ""
    return (
        f"give the model a template with the same turns that writes them: chat_template: {names[0]}"
        f"{also}; or "
    )
