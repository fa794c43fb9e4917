"""`trl.grpo`: reinforcement learning from rewards that can be verified."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from finery import File, Job, Look, Settings, Step, UsageError, nested_step, outside_key, setting
from finery.advanced import Proof
from finery.rows import Row
from finery.rows.chat.turns import turn_problems
from finery_trl.on_policy import OnPolicy

if TYPE_CHECKING:
    from finery_trl.rows.tokens import Tokens


class Functions(Settings):
    """Functions of a Python file that reward answers."""

    file: File = setting(help="The Python file, whose content is part of the key.")
    weights: dict[str, float] = setting(
        help="Function → its weight. A function takes a row and an answer (`answer.text`), and "
        "returns a number, True, False, or None if it doesn't apply.",
        min_length=1,
        examples=[{"brevity": 0.2}],
    )


class Grpo(OnPolicy, learns="rewards"):
    """Train a model on the rewards of its own answers, with TRL's GRPO or RLOO.

    Group relative policy optimization (Shao et al. 2024, https://arxiv.org/abs/2402.03300). The
    model answers each prompt several times, and answers with a higher reward than the others of
    their group become likelier. Rewards are the metrics of evaluators, or functions. Use it after
    `trl.sft`, where a rule, a query or a test can tell good answers from bad ones: the model must
    give good answers sometimes, or no group has anything to learn from.

    Before the first optimizer step, finery verifies that expected answers get higher rewards than
    those of other rows and than the model's own. With `watch`, a training ends once the watched
    metric is significantly lower than at its best while the reward has risen, since the model then
    exploits the reward; the weights with the best watched metric are kept.
    """

    reward: Step | list[Step] | None = nested_step(
        "evaluate",
        given={"models": "model", "rows": "rows"},
        help="The evaluator whose metrics reward each answer, e.g. `{use: eval.sql, schema: "
        "data/schema.sql}`, or a list of evaluators.",
    )
    weights: dict[str, float] = setting(
        {},
        help="Metric of `reward` → its weight in the sum of the rewards. A metric that several "
        "evaluators have is written with the step type, `eval.rules.accuracy`. Default: the first "
        "metric of each evaluator with weight 1.",
        examples=[{"brief": 1, "calm": 0.5}],
    )
    functions: Functions | None = setting(None, help="Functions that also reward answers.")
    algorithm: Literal["grpo", "rloo"] = setting(
        "grpo",
        help="How answers of a group are compared: grpo with their mean and spread, rloo each with "
        "the mean of the others (Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740).",
    )
    num_generations: int = setting(8, ge=2, help="Answers to each prompt, which form a group.")
    effective_batch_size: int = setting(
        32, ge=2, help="Answers per optimizer step, a multiple of num_generations."
    )
    num_iterations: int = setting(1, ge=1, help="Optimizer steps that learn from the same answers.")
    beta: float = setting(
        0.0,
        ge=0,
        help="How strongly the model is held to itself before the training (KL divergence); 0 "
        "doesn't measure it.",
    )
    epsilon: float = setting(
        0.2, gt=0, help="Largest change of a token's probability ratio that is learned."
    )
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = setting(
        "dapo",
        help="How the losses of tokens are averaged, as named by TRL: dapo over all tokens, grpo "
        "first over each answer, dr_grpo over the longest possible answers. Only for grpo.",
    )
    scale_rewards: Literal["group", "batch", "none"] = setting(
        "group", help="What a reward's distance from the mean is divided by: the spread. Only grpo."
    )

    config = "trl.trainer.grpo_config:GRPOConfig"
    watches_start = True

    def check(self) -> None:
        """Also refuse rewards that can't be computed, and batches without complete groups."""
        super().check()
        from finery_trl.train.rewards import weights_of

        weights_of(self)
        if self.effective_batch_size % self.num_generations:
            whole = -(-self.effective_batch_size // self.num_generations) * self.num_generations
            raise UsageError(
                f"effective_batch_size {self.effective_batch_size} is not a multiple of "
                f"num_generations {self.num_generations}",
                where="effective_batch_size",
                fix=f"effective_batch_size: {whole}",
            )
        if self.beta and self.lora is None:
            raise UsageError(
                "beta needs an adapter, without which there is no copy of the initial model",
                where="beta",
                fix="remove beta, or `lora: null`",
            )

    def stop_reason(self, history: Sequence[Mapping[str, Any]], job: Job) -> str | None:
        """The model exploits the reward, see `exploited`."""
        from finery_trl.train.watch import exploited

        return exploited(self.best_by, history, job)

    @property
    def answers_per_row(self) -> int:
        """The size of a group."""
        return self.num_generations

    @property
    def shared_steps(self) -> int:
        """Optimizer steps that learn from the same answers."""
        return self.num_iterations

    def arguments(self, tokens: "Tokens", job: Job) -> dict[str, Any]:
        """Also the rewards."""
        from finery_trl.train.rewards import Rewards

        return {
            **super().arguments(tokens, job),
            "rewards": Rewards(self, job.scratch / "rewards"),
            "job": job,
        }

    def examine(self, look: Look) -> None:
        """Reward the expected answers of the first rows, which must be worth more than others."""
        from finery_trl.train.rewards import CHECKED

        rows = look.rows("rows", CHECKED)
        turned = [
            {"id": f"{number}", **row}  # records of files have no id
            for number, row in enumerate(rows.value if rows else (), 1)
            if isinstance(row.get("messages"), list) or isinstance(row.get("prompt"), str | list)
        ]
        self._check_rewards([row for row in turned if not turn_problems(row)], look.job)

    def prove(self, job: Job, samples: int) -> list[Proof]:
        """A proof of the prompts, after rewarding the expected answers of rows."""
        notes = self._check_rewards([row for dataset in self.rows for row in dataset], job)
        proof, *others = super().prove(job, samples)
        return [msgspec.structs.replace(proof, notes=[*proof.notes, *notes]), *others]

    @outside_key
    def _check_rewards(self, rows: Sequence[Row], job: Job) -> list[str]:
        from finery_trl.train.rewards import CHECKED, Rewards, check_rewards, spread

        return check_rewards(Rewards(self, job.scratch / "checked"), spread(rows, CHECKED))

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """TRL's GRPOTrainer or RLOOTrainer."""
        from trl.trainer.grpo_config import GRPOConfig
        from trl.trainer.rloo_config import RLOOConfig

        from finery_trl.train.reinforce import GrpoTrainer, RlooTrainer
        from finery_trl.train.rewards import weights_of

        settings: dict[str, Any] = {
            "num_generations": self.num_generations,
            "num_iterations": self.num_iterations,
            "max_completion_length": self.max_completion_length,
            "temperature": self.temperature,
            "beta": self.beta,
            "epsilon": self.epsilon,
            "reward_weights": list(weights_of(self).values()),
        }
        if self.algorithm == "rloo":
            return RlooTrainer, RLOOConfig, settings
        losses = {"loss_type": self.loss_type, "scale_rewards": self.scale_rewards}
        return GrpoTrainer, GRPOConfig, settings | losses
