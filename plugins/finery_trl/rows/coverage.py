"""Counts of assistant turns: with and without loss, with thinking, in split rows."""

from typing import TYPE_CHECKING

from finery import counted
from finery.rows import Row, Turns
from finery_trl.rows.example import Example, Proven
from finery_trl.rows.turns import Learn, learned_turns, thinking_of

if TYPE_CHECKING:
    from finery_trl.rows.tokens import Tokens


class Coverage:
    """Counts the turns of rows as they are read, and those of the examples made of them.

    Add each row before its examples. learn: what is learned of rows; None counts nothing, for
    trainings that don't learn by turns.
    """

    def __init__(self, learn: Learn | None, tokens: "Tokens") -> None:
        self._learn = learn
        self._tokens = tokens
        self._row: Row = {}
        self._turns = self._learned = self._in_prompts = self._unchosen = 0
        self._thoughts = self._thoughtless = self._weighted = 0
        self._rows = self._split_rows = self._parts = self._part_tokens = self._whole_tokens = 0
        self._last: list[Example] = []

    def add_row(self, row: Row) -> None:
        """Take a row; it is counted once it has an example."""
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
        """Facts about all rows, as text."""
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
        """Lines about turns without loss, and about weights that aren't used."""
        self._close()
        notes = []
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
        """What a training logs: the notes, and facts about rows that aren't as usual."""
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
        from finery_transformers.chat import thinking_switch

        assert self._learn is not None
        switch = thinking_switch(self._tokens.tokenizer, self._tokens.arguments)
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
