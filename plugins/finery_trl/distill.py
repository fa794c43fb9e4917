"""`trl.distill`: a model learns a teacher's view of its own answers."""

from typing import TYPE_CHECKING, Any

import msgspec

from finery import Job, Model, UsageError, setting, takes
from finery.advanced import Proof
from finery_trl.on_policy import OnPolicy
from finery_trl.settings import TARGET_MODULES

if TYPE_CHECKING:
    from finery_trl.rows.tokens import Tokens


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

        proof, *others = super().prove(job, samples)
        tokens = Tokens.of_model(self.model)
        rows = (row for dataset in self.rows for row in dataset)
        read: Any = self.read(rows, self.reading(tokens, job, "rows"))
        prompts = Teacher(self, tokens).prompts([prompt.row for prompt in read])
        longest = f"the teacher's prompts have up to {max(map(len, prompts)):,} tokens"
        return [msgspec.structs.replace(proof, notes=[*proof.notes, longest]), *others]

    def arguments(self, tokens: "Tokens", job: Job) -> dict[str, Any]:
        """Also the teacher."""
        from finery_trl.train.teacher import Teacher

        return {**super().arguments(tokens, job), "teacher": Teacher(self, tokens)}

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """TRL's DistillationTrainer."""
        from trl.trainer.distillation_config import DistillationConfig

        from finery_trl.train.distillation import DistillTrainer

        settings = {
            "max_completion_length": self.max_completion_length,
            "temperature": self.temperature,
            "beta": self.beta,
        }
        return DistillTrainer, DistillationConfig, settings
