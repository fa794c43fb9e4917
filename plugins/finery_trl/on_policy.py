"""The step types whose model writes the answers that it learns from: `trl.grpo`, `trl.distill`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from finery import (
    Dataset,
    File,
    Job,
    Look,
    Model,
    Settings,
    Step,
    UsageError,
    nested_step,
    outside_key,
    setting,
    takes,
)
from finery.advanced import Proof
from finery.rows import Row
from finery.rows.chat.turns import turn_problems
from finery_trl.settings import MOST_EPOCHS, TARGET_MODULES
from finery_trl.steps import TrlTraining

if TYPE_CHECKING:
    from finery_trl.rows.example import Proven
    from finery_trl.rows.tokens import Reading, Tokens


class OnPolicy(TrlTraining, learns="rewards", rehearsal={"max_completion_length": 16}):
    """Train a model on its own answers to the prompts of rows.

    Subclasses set `learns` and `config`, and implement `trainer` with a subclass of
    `train.on_policy.OnPolicyTrainer` and `arguments`, which gives it more than the tokens.
    """

    estimated = False
    on_policy = True

    model: Model = takes(role="base", help="The model to train, usually the output of `trl.sft`.")
    rows: list[Dataset] = takes(
        role="train",
        help="Rows with prompts. Their answers are not learned, but may be what is expected.",
    )
    adapter: Literal["new", "continue"] = setting(
        "continue",
        help="If `model` is itself an adapter: `continue` trains it further (omit `lora`, since "
        "the adapter keeps its shape); `new` merges it and trains a new one on top.",
    )
    epochs: float = setting(1, gt=0, le=MOST_EPOCHS, help="Passes over the prompts.")
    learning_rate: float = setting(
        1e-5, gt=0, help="Peak learning rate, far lower than in supervised fine-tuning."
    )
    max_completion_length: int = setting(
        128, ge=1, help="Longest answer in tokens; longer ones are cut off."
    )
    max_length: int = setting(
        1024, ge=8, help="Maximum length of a prompt with the longest answer, in tokens."
    )
    temperature: float = setting(1.0, gt=0, help="Sampling temperature of the answers.")

    def check(self) -> None:
        """Also refuse what isn't supported where the model writes the answers."""
        super().check()
        if self.validation is not None:
            raise UsageError(
                "the answers of rows aren't learned here, so there is no validation loss",
                where="validation",
                fix="watch: an evaluator on these rows",
            )
        if self.launch is not None:
            raise UsageError(
                "this step type trains in one process",
                where="launch",
                fix="remove launch; on a GPU, args: {use_vllm: true, vllm_mode: colocate} answers "
                "faster",
            )
        if self.eval_steps is not None and self.eval_steps % self.shared_steps:
            raise UsageError(
                f"eval_steps {self.eval_steps} is not a multiple of the {self.shared_steps} "
                "optimizer steps that learn from the same answers",
                where="eval_steps",
                fix=f"eval_steps: {-(-self.eval_steps // self.shared_steps) * self.shared_steps}",
            )

    @property
    def best_by(self) -> str:
        """By default the first metric of `watch`, since there is no validation loss."""
        if self.watch is None or self.metric_for_best_model != "eval_loss":
            return self.metric_for_best_model
        names: list[str] = getattr(self.watch, "metric_names", lambda: ["eval_loss"])()
        return names[0]

    def read(self, rows: Iterable[Row], reading: "Reading") -> "Iterable[Proven]":
        """Prompts as tokens."""
        from finery_trl.rows.tokens import prompts_of

        return prompts_of(rows, reading, self.max_completion_length)

    def arguments(self, tokens: "Tokens", job: Job) -> dict[str, Any]:
        """The tokens, with which the trainer ends answers."""
        return {"tokens": tokens}


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
        for name in ("loss_type", "scale_rewards") if self.algorithm == "rloo" else ():
            if getattr(self, name) != type(self).__finery_fields__[name].default:
                raise UsageError(
                    f"algorithm: rloo ignores {name}",
                    where=name,
                    fix=f"remove {name}, or set algorithm: grpo",
                )
        if self.effective_batch_size % self.num_generations:
            size = -(-self.effective_batch_size // self.num_generations) * self.num_generations
            raise UsageError(
                f"effective_batch_size {self.effective_batch_size} is not a multiple of "
                f"num_generations {self.num_generations}",
                where="effective_batch_size",
                fix=f"effective_batch_size: {size}",
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
        proof, *other_proofs = super().prove(job, samples)
        return [msgspec.structs.replace(proof, notes=[*proof.notes, *notes]), *other_proofs]

    @outside_key
    def _check_rewards(self, rows: Sequence[Row], job: Job) -> list[str]:
        from finery_trl.train.rewards import CHECKED, Rewards, check_rewards, spread

        return check_rewards(Rewards(self, job.scratch / "checked"), spread(rows, CHECKED))

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """TRL's GRPOTrainer or RLOOTrainer."""
        from trl.trainer.grpo_config import GRPOConfig
        from trl.trainer.rloo_config import RLOOConfig

        from finery_trl.train.on_policy import GrpoTrainer, RlooTrainer
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


class Distill(OnPolicy, learns="teacher"):
    """Train a model to answer like a teacher, with TRL: on-policy distillation.

    The model answers the prompts of rows, and learns for each token of its own answers which next
    tokens the teacher expects there (Agarwal et al. 2023, https://arxiv.org/abs/2306.13649). The
    answers of rows aren't used. The teacher is a larger model with the same vocabulary, or the same
    model with a long prompt: an output of `prompt.model`. Then the teacher gets its system prompt
    and examples before each prompt, the trained model gets the prompt alone, and both score the
    same answer. This moves the system prompt and examples into the weights (Snell et al. 2022,
    https://arxiv.org/abs/2209.15189).

    The curve has the divergence as `loss`, and `agreement`: the share of tokens for which model and
    teacher expect the same one.
    """

    teacher: Model = takes(
        help="The teacher, e.g. an output of `prompt.model`. It is loaded next to the model.",
    )
    beta: float = setting(
        1.0,
        ge=0,
        le=1,
        help="The divergence: 1 reverse KL (answers only what the teacher would), 0 forward KL "
        "(covers all that the teacher might answer), between them generalized JSD.",
    )
    effective_batch_size: int = setting(16, ge=1, help="Prompts, and answers, per optimizer step.")
    learning_rate: float = setting(
        1e-4, gt=0, help="Peak learning rate, lower than in supervised fine-tuning."
    )
    temperature: float = setting(
        1.0, gt=0, help="Temperature of the answers, and of the probabilities that are compared."
    )

    config = "trl.trainer.distillation_config:DistillationConfig"

    def check(self) -> None:
        """Also refuse a teacher that has nothing to teach, and an adapter on the output layer."""
        super().check()
        if self.model.ref and self.model.ref == self.teacher.ref:
            raise UsageError(
                "teacher and model are the same, so there is nothing to learn",
                where="teacher",
                fix="a larger model, or this one with a prompt: {use: prompt.model, model: "
                f"{self.model.ref}, system: …}}",
            )
        targets = self.lora.target_modules if self.lora is not None else []
        if "lm_head" in targets:
            raise UsageError(
                "the output layer can't have an adapter, since the loss uses its weights alone",
                where=TARGET_MODULES,
                fix="remove lm_head from target_modules",
            )

    def prove(self, job: Job, samples: int) -> list[Proof]:
        """A proof of the prompts, with the length of those of the teacher.

        Also verifies that the teacher has the model's vocabulary, and that its prompts fit.
        """
        from finery_trl.rows.tokens import Tokens
        from finery_trl.train.teacher import Teacher

        proof, *other_proofs = super().prove(job, samples)
        tokens = Tokens.of_model(self.model)
        rows = (row for dataset in self.rows for row in dataset)
        read: Any = self.read(rows, self.reading(tokens, job, "rows"))
        prompts = Teacher(self, tokens).prompts([prompt.row for prompt in read])
        longest = f"the teacher's prompts have up to {max(map(len, prompts)):,} tokens"
        return [msgspec.structs.replace(proof, notes=[*proof.notes, longest]), *other_proofs]

    def arguments(self, tokens: "Tokens", job: Job) -> dict[str, Any]:
        """Also the teacher."""
        from finery_trl.train.teacher import Teacher

        return {**super().arguments(tokens, job), "teacher": Teacher(self, tokens)}

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """TRL's DistillationTrainer."""
        from trl.trainer.distillation_config import DistillationConfig

        from finery_trl.train.on_policy import DistillTrainer

        settings = {
            "max_completion_length": self.max_completion_length,
            "temperature": self.temperature,
            "beta": self.beta,
        }
        return DistillTrainer, DistillationConfig, settings
