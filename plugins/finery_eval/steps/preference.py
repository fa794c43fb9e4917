"""`eval.preference`: does a model give the better of two answers a higher probability?"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finery import Dataset, Job, Metrics, load_reference, takes
from finery.rows import Row, split_turns
from finery.rows.parts import prompt as prompt_of
from finery_eval import evaluator
from finery_eval.evaluator import Better, Judge
from finery_eval.paired import AnyScore, Values, merged, pairs_of
from finery_eval.scoring import differences
from finery_eval.scoring.groups import Group, facts_of
from finery_eval.scoring.scored import Scored, score
from finery_eval.scoring.tables import comparison_tables
from finery_eval.verdicts import Judged, Verdicts

if TYPE_CHECKING:
    from finery_transformers.scoring import Likelihood

AUTO_DTYPE = "finery_transformers.precision:auto_dtype"
"""By name, since the dtype itself is in the key."""
MARGIN = "margin"
METRICS = ("accuracy", "a_token", MARGIN)
PACKAGES = ("torch", "transformers", "peft", "tokenizers", "gguf")


class Preference(Judge, packages=PACKAGES, seeded=False):
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
        """The metrics of each model, the headline first."""
        return list(METRICS)

    def unbounded(self) -> Mapping[str, Better]:
        """The margin, in nats."""
        return {MARGIN: "higher"}

    def key_facts(self) -> Mapping[str, Any]:
        """The dtype that the models are loaded in."""
        return {"dtype": load_reference(AUTO_DTYPE)()}

    def gpu_count(self) -> int:
        """One, for the models, which are scored one after the other."""
        return 1

    def run(self, job: Job) -> Metrics:
        """Score both answers of each row with each model."""
        self.check()
        rows = self._preferences()
        scored = {model.name: self._score(model, rows, job) for model in self.models}
        right = {
            name: {
                "accuracy": [good.logprob > bad.logprob for good, bad in pairs],
                "a_token": [good.a_token > bad.a_token for good, bad in pairs],
            }
            for name, pairs in scored.items()
        }
        groups = evaluator.dependent(job, rows)
        margins = _margins(scored).in_groups(groups)
        shares, pairs = _of_shares(right, groups)
        every: dict[str, dict[str, AnyScore]] = {
            name: {**of, MARGIN: margins.score(name)} for name, of in shares.items()
        }
        scores = {n: {m: value for m, (value, _) in of.items()} for n, of in every.items()}
        intervals = {n: {m: list(ci) for m, (_, ci) in of.items() if ci} for n, of in every.items()}
        evaluator.log_scores(job, scores, intervals)
        correct = {name: of["accuracy"] for name, of in right.items()}
        comparisons = differences.compare(correct, groups)
        test = differences.MCNEMAR if groups is None else differences.SIGN_FLIPS
        return Metrics.write(
            job.out,
            rows=len(rows),
            scores=scores,
            intervals=intervals,
            details={
                "headline": ["accuracy", "a_token"],
                "unbounded": list(self.unbounded()),
                "tables": comparison_tables(comparisons, test),
                **({"groups": len(groups)} if groups else {}),
                "comparisons": comparisons,
                "pairs": merged(pairs, pairs_of(list(right), {MARGIN: margins})),
            },
            predictions=_predictions(rows, scored, right),
        )

    def check_rows(self, job: Job) -> None:
        """Raise `DataError` for rows that can't be judged."""
        self._preferences()

    def _preferences(self) -> list[Row]:
        rows = list(self.rows)
        evaluator.refuse(
            "some rows have no prompt, no chosen or no rejected answer",
            (r["id"] for r in rows if not all(r.get(k) for k in ("prompt", "chosen", "rejected"))),
            fix="read preferences with data.file `format: preference`",
        )
        evaluator.refuse(
            "some rows have the same chosen and rejected answer",
            (r["id"] for r in rows if r["chosen"] == r["rejected"]),
            fix="drop these rows",
        )
        return evaluator.some(rows)

    def _score(
        self, model: Any, rows: Sequence[Row], job: Job
    ) -> "list[tuple[Likelihood, Likelihood]]":
        """(of the chosen, of the rejected answer) of each row."""
        from finery_transformers.scoring import likelihoods

        answered = []
        for row in rows:
            prompt, chosen = split_turns(row)
            _, rejected = split_turns({"prompt": row["prompt"], "completion": row["rejected"]})
            answered += [(prompt, side, row.get("tools")) for side in (chosen, rejected)]
        scores = likelihoods(
            model, answered, lambda done, total: job.progress(done, total, model.name)
        )
        gc.collect()  # the next model may need the memory of this one
        return list(zip(scores[::2], scores[1::2], strict=True))


def _margins(scored: "Mapping[str, Sequence[tuple[Likelihood, Likelihood]]]") -> Values:
    """The difference of the two answers' log-probabilities in each row, in nats."""
    nats = {n: [(g.logprob - b.logprob, 1.0) for g, b in of] for n, of in scored.items()}
    return Values(nats, is_continuous=True)


def _of_shares(
    right: Mapping[str, Mapping[str, Sequence[bool]]], groups: Sequence[Group] | None
) -> Scored:
    """The scores and comparisons of the metrics that are shares of rows."""
    judged = {name: Judged([], of) for name, of in right.items()}
    return score(Verdicts(judged, [m for m in METRICS if m != MARGIN], []), groups)


def _predictions(
    rows: Sequence[Row],
    scored: "Mapping[str, Sequence[tuple[Likelihood, Likelihood]]]",
    right: Mapping[str, Mapping[str, Sequence[bool]]],
) -> Iterator[dict[str, Any]]:
    grouped = facts_of(rows)
    for i, row in enumerate(rows):
        prompt = prompt_of(row)
        for name, pairs in scored.items():
            chosen, rejected = pairs[i]
            yield {
                "id": row["id"],
                "model": name,
                "prompt": prompt[: evaluator.PROMPT_SHOWN],
                "correct": right[name]["accuracy"][i],
                "chosen_logprob": chosen.logprob,
                "rejected_logprob": rejected.logprob,
                "chosen_tokens": chosen.tokens,
                "rejected_tokens": rejected.tokens,
                **grouped[i],
            }
