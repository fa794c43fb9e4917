"""TRL's trainers that reward sampled answers, with rewards of evaluators.

Imports torch, so import it inside a function.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from finery import Completion, Job, Request
from finery.rows import Turns
from finery_transformers.answering.answers import TokenReader
from finery_trl.rows.tokens import Prompt
from finery_trl.train.on_policy import OnPolicyTrainer

if TYPE_CHECKING:
    from finery_trl.rows.tokens import Tokens
    from finery_trl.train.rewards import Rewards

SAMPLES = 10
"""Answers that are kept at each validation."""


class Rewarded(OnPolicyTrainer):
    """Mixin that reads answers as engines do, and rewards them.

    rewards: what rewards an answer to a row.
    """

    reward_func_names: list[str]

    def __init__(
        self, *rest: Any, tokens: "Tokens", rewards: "Rewards", job: Job, **named: Any
    ) -> None:
        self._rewards = rewards
        self._job = job
        self._reader = TokenReader(tokens.template)
        self._samples: list[dict[str, Any]] = []
        functions = [rewards.of] * len(rewards.weights)
        super().__init__(*rest, tokens=tokens, reward_funcs=functions, **named)
        self.reward_func_names = list(rewards.weights)

    def prove_rows(self, tokens: "Tokens") -> None:
        """Verify the rewards with expected answers and with those of the model."""
        self._rewards.try_out(self, tokens, [prompt.row for prompt in self._prompts], self._job)

    def _calculate_rewards(
        self, inputs: Any, prompts: Sequence[str], completions: Any, completion_ids: Any
    ) -> torch.Tensor:
        """[answers, rewards], NaN where a reward doesn't apply."""
        asked = [self._prompts[int(number)] for number in prompts]
        pairs = zip(asked, completion_ids, strict=True)
        answers = [self._answer(prompt, ids) for prompt, ids in pairs]
        values = self._rewards.of([prompt.row for prompt in asked], answers)
        groups = self.args.num_generations  # type: ignore[attr-defined]
        self._samples = [
            {
                "row": asked[i].row_id,
                "prompt": str(Turns.of(asked[i].row).prompt[-1].get("content")),
                "answer": answers[i].text,
                "rewards": {name: of[i] for name, of in values.items()},
            }
            for i in spread(len(answers), groups)
        ]
        columns = [[float("nan") if v is None else v for v in of] for of in values.values()]
        return torch.tensor(columns, dtype=torch.float32).T

    def _answer(self, prompt: Prompt, ids: Sequence[int]) -> Completion:
        turns, tools = Turns.of(prompt.row).prompt, prompt.row.get("tools")
        ends: Any = self.eos_token_ids  # type: ignore[attr-defined]
        request = Request(messages=turns, tools=tools)
        return self._reader.completion(ids, ends, prompt=prompt.tokens, request=request, stop=())

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        """Add samples to the history where the training validates."""
        above: Any = super()
        above.log(logs, *rest)
        state: Any = self.state  # type: ignore[attr-defined]
        if "loss" in logs and self._callback.is_due(state):
            state.log_history[-1]["samples"] = self._samples


def spread(answers: int, groups: int) -> list[int]:
    """Up to `SAMPLES` places of answers, of as many groups as possible. groups: their size."""
    places = [g + k for k in range(groups) for g in range(0, answers, groups)]
    return sorted(places[:SAMPLES])


class GrpoTrainer(Rewarded, GRPOTrainer):
    """GRPOTrainer with rewards of evaluators."""


class RlooTrainer(Rewarded, RLOOTrainer):
    """RLOOTrainer with rewards of evaluators."""
