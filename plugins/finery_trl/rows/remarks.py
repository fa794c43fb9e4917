"""What is worth knowing about rows that can be trained on: counts, facts and notes for people.

A model learns calls that don't fit the tools on offer, and takes a `<|im_end|>` in a user's text
for a real one. Both may be intended, e.g. before the correction of a failed call, so such rows are
kept and reported.
"""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from finery import outside_key
from finery.advanced import MAX_NAMED, Proof, ProofBuilder, counted, some_of
from finery.rows import Row, Turns
from finery_transformers.chat import thinking_of
from finery_trl.rows.example import Example, Proven, continues
from finery_trl.rows.turns import Learn, learned_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finery_trl.rows.tokens import Tokens
    from finery_trl.settings import Training

REFUSED_LABELS = (False, "false")
"""Labels of rated answers that the model learns not to give."""


@outside_key
class Remarks:
    """Examines rows as they are read, and counts their turns and those of their examples.

    Add each row before its examples. ids: of all rows. Turns are only counted for trainings that
    learn by turns. In the documents of a pre-training, control tokens are plain text.
    """

    def __init__(self, step: "Training", tokens: "Tokens") -> None:
        self.ids: list[str] = []
        self._learn = step.learn()
        of_text = type(step).__spec__.learns == "text"
        self._control = Control(tokens.tokenizer, "plain text" if of_text else "real")
        self._calls = Calls(self._learn)
        self._tokens = tokens
        self._row: Row = {}
        self._turns = self._learned = self._in_prompts = self._unchosen = 0
        self._thoughts = self._thoughtless = self._weighted = 0
        self._rows = self._split_rows = self._parts = self._part_tokens = self._whole_tokens = 0
        self._last: list[Example] = []

    def add_row(self, row: Row) -> None:
        """Examine a row; its turns are counted once it has an example."""
        self.ids.append(row["id"])
        self._control.add(row)
        self._calls.add(row)
        self._row = row

    def add_example(self, example: Proven) -> None:
        """Count an example of the row that was added last."""
        if self._learn is None or not isinstance(example, Example):
            return
        if example.part == 0:
            self._close()
            self._count_row(self._row, self._learn)
        self._learned += example.turns
        self._last.append(example)

    def facts(self) -> dict[str, str]:
        """Facts about the turns of all rows, as text."""
        if self._learn is None:
            return {}
        self._close()
        facts = {
            "turns": f"{self._learned:,} of {self._turns:,} assistant turns have loss "
            f"(loss: {self._learn.loss})"
        }
        if self._learned > self._rows:
            facts["sequences"] = self._sequences()
        if thinking := self._thinking():
            facts["thinking"] = thinking
        return facts

    def notes(self) -> list[str]:
        """Lines about what may be a mistake."""
        self._close()
        notes = [*self._control.notes(), *self._calls.notes()]
        if self._turns > self._learned:
            notes.append(
                f"{self._turns - self._learned:,} of {self._turns:,} assistant turns have no loss: "
                f"{', '.join(self._reasons())}"
            )
        if self._rows and not self._thoughts and self._learn is not None:
            nothing = "thinking: masked, but no turn with loss has thinking (`reasoning_content`)"
            notes += [nothing] if self._learn.thinking == "masked" else []
        if self._weighted and self._learn is not None and self._learn.loss != "marked":
            notes.append(
                f"loss: {self._learn.loss} ignores the `weight` of "
                f"{counted(self._weighted, 'assistant turn')}; loss: marked uses it"
            )
        return notes

    def lines(self) -> list[str]:
        """The log of a training about its rows: unusual facts, and the notes."""
        facts = self.facts()
        split = [facts["sequences"]] if self._split_rows else []
        thinking = [f"thinking: {facts['thinking']}"] if "thinking" in facts else []
        return [*split, *thinking, *self.notes()]

    def _count_row(self, row: Row, learn: Learn) -> None:
        turns = Turns.of(row)
        messages, eligible = turns.conversation, turns.replies
        count = sum(m.get("role") == "assistant" for m in messages)
        chosen = learned_turns(turns, learn.loss)
        self._rows += 1
        self._turns += count
        self._in_prompts += count - len(eligible)
        self._unchosen += len(eligible) - len(chosen)
        self._thoughts += sum(bool(thinking_of(messages[i])) for i in chosen)
        self._thoughtless += not any(map(thinking_of, messages))
        self._weighted += sum("weight" in messages[i] for i in eligible)

    def _close(self) -> None:
        """Count the parts of the last row."""
        if len(self._last) > 1:
            self._split_rows += 1
            self._parts += len(self._last)
            self._part_tokens += sum(e.size for e in self._last)
            self._whole_tokens += max(e.size for e in self._last)
        self._last = []

    def _reasons(self) -> list[str]:
        choice = {"last_turn": "loss: last_turn", "marked": "weight: 0"}
        loss = self._learn.loss if self._learn is not None else "all_turns"
        reasons = [choice[loss]] if self._unchosen else []
        reasons += ["they are in prompts"] if self._in_prompts else []
        without = self._turns - self._learned - self._unchosen - self._in_prompts
        return reasons + (["longer than max_length"] if without else [])

    def _sequences(self) -> str:
        if not self._split_rows:
            return "one a row: the template writes earlier turns as they were learned"
        times = self._part_tokens / self._whole_tokens
        are = "is" if self._split_rows == 1 else "are"
        return (
            f"{counted(self._split_rows, 'row')} {are} split into {self._parts:,} examples, since "
            f"the template writes earlier turns differently: {self._part_tokens:,} tokens instead "
            f"of {self._whole_tokens:,} ({times:.1f} times)"
        )

    def _thinking(self) -> str:
        assert self._learn is not None
        switch = self._tokens.template.thinking_switch()
        if not self._thoughts and switch is None:
            return ""
        parts = []
        if self._thoughts:
            loss = "with loss" if self._learn.thinking == "learned" else "without loss"
            setting = f"thinking: {self._learn.thinking}"
            parts.append(f"{counted(self._thoughts, 'turn')} with thinking, {loss} ({setting})")
        if self._thoughtless:
            way = "as the template writes them"
            if self._learn.without_thinking == "switch" and switch is not None:
                way = "with " + ", ".join(f"{k}: {str(v).lower()}" for k, v in switch.items())
            parts.append(
                f"{counted(self._thoughtless, 'row')} without, rendered {way} "
                f"(without_thinking: {self._learn.without_thinking})"
            )
        return "; ".join(parts)


@outside_key
def summary(name: str, rows: Iterable[Proven]) -> Proof:
    """The counts of rows. name: the input that they come from."""
    builder = ProofBuilder(name)
    for row in rows:
        add(builder, row)
    return builder.proof()


def add(builder: ProofBuilder, row: Proven) -> None:
    """Count one example of a row."""
    builder.add(row.size, row.loss_tokens, row.total_tokens, continues=continues(row))


class Calls:
    """Finds rows whose calls don't fit the tools that they offer, in the turns that are learned.

    learn: which those are; None for trainings that compare or rate answers.
    """

    def __init__(self, learn: Learn | None) -> None:
        from finery_eval.calls import CallChecker

        self._rates = learn is None
        self._loss = learn.loss if learn is not None else "all_turns"
        self._checker = CallChecker()
        self._calling = self._broken = 0
        self._details: list[str] = []

    def add(self, row: Row) -> None:
        """Check one row."""
        if self._rates and row.get("label") in REFUSED_LABELS:
            return
        turns = Turns.of(row)
        messages, learned = turns.conversation, learned_turns(turns, self._loss)
        self._calling += any(messages[index].get("tool_calls") for index in learned)
        broken = self._checker.broken(row, messages, learned)
        if broken:
            self._broken += 1
            self._details += [f"{row['id']}: {broken[0]}"] if self._broken <= MAX_NAMED else []

    def notes(self) -> list[str]:
        """A line about the rows whose calls don't fit, if there are any."""
        if not self._broken:
            return []
        omitted = self._broken - len(self._details)
        details = [*self._details, *([f"and {omitted:,} more"] if omitted else [])]
        return [
            "calls of tools that aren't offered, or with arguments that their schema doesn't "
            f"allow, in {self._broken:,} of {counted(self._calling, 'row')} with calls: "
            f"{'; '.join(details)}"
        ]


class Control:
    """Finds rows with control tokens of the model in their text. taken_for: what they are to it."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", taken_for: str) -> None:
        self._pattern = _pattern(tokenizer)
        self._taken_for = taken_for
        self._read = 0
        self._ids: list[str] = []
        self._tokens: dict[str, None] = {}

    def add(self, row: Row) -> None:
        """Search one row."""
        self._read += 1
        tokens = [t for text in _texts(row) for t in self._pattern.findall(text)]
        if tokens:
            self._ids.append(row["id"])
            self._tokens |= dict.fromkeys(tokens)

    def notes(self) -> list[str]:
        """A line about the rows with control tokens, if there are any."""
        if not self._ids:
            return []
        return [
            f"{len(self._ids):,} of {self._read:,} rows have control tokens in their text "
            f"({', '.join(self._tokens)}), which the model takes as {self._taken_for}: "
            f"{some_of(self._ids)}"
        ]


def _pattern(tokenizer: Any) -> re.Pattern[str]:
    """Matches any control token; nothing if the tokenizer splits them in texts."""
    if getattr(tokenizer, "split_special_tokens", False):
        return re.compile(r"(?!)")
    added = (t.content for t in tokenizer.added_tokens_decoder.values() if t.special)
    special_tokens = sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, special_tokens)) or r"(?!)")


def _texts(row: Row) -> Iterator[str]:
    """The texts of all turns of a row, or its text."""
    if isinstance(row.get("text"), str):
        yield row["text"]
    turns = Turns.of(row)
    for turn in (*turns.conversation, *(turns.rejected or ())):
        if isinstance(turn.get("content"), str):
            yield turn["content"]
