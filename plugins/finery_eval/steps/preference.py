"""`eval.preference`: does a model give the better of two answers a higher probability?"""

import gc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finery import Dataset, Job, Key, Metrics, takes
from finery.rows import Row, Turns, is_preference
from finery_eval.asking import refuse_rows, require_rows
from finery_eval.evaluation import write
from finery_eval.evaluator import Better, Judge
from finery_eval.verdicts import Verdict, Verdicts
from finery_transformers.precision import auto_dtype

if TYPE_CHECKING:
    from finery_transformers.scoring import Likelihood

MARGIN = "margin"
METRICS = ("accuracy", "a_token", MARGIN)
PACKAGES = ("torch", "transformers", "peft", "tokenizers", "gguf")


class Preference(Judge, packages=PACKAGES, seeded=False, gpus=1):
    """Judge models by preferences: how often they find the chosen answer more likely.

    `accuracy` compares the log-probabilities of the whole answers, end of turn included, as DPO
    does. `a_token` compares the mean per token, which doesn't favour short answers. `margin` is the
    mean difference of the whole answers, in nats. Nothing is generated. Intervals: Wilson (1927)
    for shares, bootstrap over rows (Efron and Tibshirani 1993) for `margin`. Each further model is
    compared with the first on the same rows: exact McNemar test, for `margin` the paired bootstrap
    and the exact sign test. Rows that belong together, e.g. pairs with one prompt, count as one in
    intervals and tests: bootstrap over groups and exact sign flips.

    Models are loaded with transformers: Hugging Face folders, adapters, GGUF files (dequantised).
    """

    rows: Dataset = takes(help="Preferences: rows with a prompt, a chosen and a rejected answer.")

    def metric_names(self) -> list[str]:
        """The metrics of each model; the first one decides."""
        return list(METRICS)

    def unbounded(self) -> Mapping[str, Better]:
        """The margin, in nats."""
        return {MARGIN: "higher"}

    def cache_key(self) -> Key:
        """Also the dtype that the models are loaded in."""
        return super().cache_key() | Key(facts={"dtype": auto_dtype()})

    def run(self, job: Job) -> Metrics:
        """Score both answers of each row with each model."""
        rows = self.prepare(job)
        judged = {model.name: self._score(model, rows, job) for model in self.models}
        verdicts = Verdicts(judged, METRICS, METRICS[:2], unbounded=[MARGIN], continuous=[MARGIN])
        return write(job, rows, None, verdicts)

    def prepare(self, job: Job) -> list[Row]:
        """The preferences."""
        rows = list(self.rows)
        refuse_rows(
            "some rows have no prompt, no chosen or no rejected answer",
            (r["id"] for r in rows if not is_preference(r)),
            fix="read preferences with data.file `format: preference`",
        )
        refuse_rows(
            "some rows have the same chosen and rejected answer",
            (r["id"] for r in rows if r["chosen"] == r["rejected"]),
            fix="drop these rows",
        )
        return require_rows(rows)

    def _score(self, model: Any, rows: Sequence[Row], job: Job) -> list[Verdict]:
        """The log-probabilities that a model assigns to both answers of each row."""
        from finery_transformers.scoring import likelihoods

        sides = []
        for row in rows:
            turns, tools = Turns.of(row), row.get("tools")
            sides += [
                (turns.prompt, turns.answer, tools),
                (turns.prompt, turns.rejected or [], tools),
            ]
        scores = likelihoods(
            model, sides, lambda done, total: job.progress(done, total, model.name)
        )
        gc.collect()  # the next model may need the memory of this one
        return [_verdict(*pair) for pair in zip(scores[::2], scores[1::2], strict=True)]


def _verdict(chosen: "Likelihood", rejected: "Likelihood") -> Verdict:
    values = {
        "accuracy": chosen.logprob > rejected.logprob,
        "a_token": chosen.a_token > rejected.a_token,
        MARGIN: chosen.logprob - rejected.logprob,
    }
    facts = {
        "chosen_logprob": chosen.logprob,
        "rejected_logprob": rejected.logprob,
        "chosen_tokens": chosen.tokens,
        "rejected_tokens": rejected.tokens,
    }
    return Verdict(values, facts)
