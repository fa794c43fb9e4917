"""Conversations that a model leads itself: its own answers are the history of its next turn."""

from collections.abc import Sequence
from typing import NamedTuple

from finery import CachedEngine, Completion, Job
from finery.rows import Conversation, Message
from finery_eval.asking import generate
from finery_eval.calls.arguments import Equality
from finery_eval.calls.calls import BadTools, Toolbox, answered_calls, expected_calls
from finery_eval.calls.matches import Match, Wanted
from finery_eval.evaluator import BatchEvaluator
from finery_eval.turns import Turn, assistant_turn


class Compare(NamedTuple):
    """When the calls of a model are those of the row."""

    equality: Equality
    coerce: bool
    toolbox: Toolbox

    def same(self, turn: Turn, answer: Completion) -> bool:
        """Whether an answer has the same calls as the row's turn, or both have none."""
        own = turn.conversation[turn.place]
        if not own.get("tool_calls"):
            return not answer.tool_calls and not answer.call_error
        try:
            tools = self.toolbox.of(turn.row)
            wanted = Wanted(expected_calls(own, tools, coerce=self.coerce), tools, "")
        except BadTools:
            return False
        calls = answered_calls(answer, tools, coerce=self.coerce)
        return Match(wanted, calls, self.equality, answer).is_right


class Rollout:
    """A row's conversation as one model leads it.

    history: the next prompt. replaced: the number of its turns for which the row's own turn had to
    be substituted.
    """

    def __init__(self, turns: Sequence[Turn], compare: Compare) -> None:
        self.turns = turns
        self.answers: list[Completion] = []
        self.replaced = 0
        self._compare = compare
        self.history: Conversation = list(turns[0].conversation[: turns[0].place])

    def add(self, answer: Completion) -> None:
        """Go on with an answer, up to the next turn that is judged."""
        turn = self.turns[len(self.answers)]
        self.answers.append(answer)
        if len(self.answers) == len(self.turns):
            return
        following = self.turns[len(self.answers)].place
        own = turn.conversation[turn.place]
        self.history += [
            self._turn(turn, own, answer),
            *turn.conversation[turn.place + 1 : following],
        ]

    def _turn(self, turn: Turn, own: Message, answer: Completion) -> Message:
        """The model's turn; the row's where the turns after it would make no sense otherwise."""
        if not self._compare.same(turn, answer):
            self.replaced += 1
            return own
        said = assistant_turn(answer, len(self.answers))
        # The row's calls have the ids that the answers of the tools refer to.
        return {**said, "tool_calls": own["tool_calls"]} if own.get("tool_calls") else said


def roll_out(
    step: BatchEvaluator,
    job: Job,
    engine: CachedEngine,
    name: str,
    turns: Sequence[Sequence[Turn]],
    compare: Compare,
) -> list[Rollout]:
    """Have a model lead all conversations, the same turn of each at a time.

    turns: of each row, at least one.
    """
    rollouts = [Rollout(of, compare) for of in turns]
    for number in range(max(map(len, turns))):
        active = [rollout for rollout in rollouts if len(rollout.turns) > number]
        answers = generate(
            step,
            job,
            engine,
            f"{name}, turn {number + 1}",
            [rollout.history for rollout in active],
            [rollout.turns[0].row.get("tools") for rollout in active],
        )
        for rollout, answer in zip(active, answers, strict=True):
            rollout.add(answer)
    return rollouts
