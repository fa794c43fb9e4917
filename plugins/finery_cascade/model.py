"""`cascade.model`: small models that answer what they are sure of, before a larger one."""

from collections.abc import Callable, Sequence
from typing import Any

from finery import (
    DataError,
    Dataset,
    Job,
    Look,
    Model,
    Promise,
    Step,
    UsageError,
    nested_step,
    setting,
    takes,
)
from finery.advanced import counted, percent
from finery.rows import Row, split_turns
from finery_baseline.answers import answer_of
from finery_cascade.confidence import UNSURE, confidence_of, without_confidence
from finery_cascade.stages import role
from finery_cascade.thresholds import Certificate, certify, levels_of, rows_needed
from finery_eval.asking import Limits, ask_each, generate, read_rows, refuse_empty
from finery_eval.nested import Nested
from finery_eval.verdicts import Answers, Verdicts, groups_of

BUNDLE = "serve.bundle"


class CascadeModel(
    Step,
    engines=True,
    sections=("models",),
    rehearsal={"risk": 0.999, "confidence": 0.5, "max_tokens": 8},
):
    """Answer with the first model that is sure enough, else with the next one.

    With probability `confidence`, at most the share `risk` of what each model but the last answers
    is wrong: for rows like those of `calibrate`, of which the models have seen none, not even a
    near copy. Each threshold is the laxest one that passes an exact binomial test, in a fixed
    sequence of thresholds (Learn then Test, Angelopoulos et al. 2021). A model that passes at none
    of them answers nothing.

    How sure a classifier is, is its probability; of a language model, that of its answer's tokens.
    An answer that is cut off isn't sure. The last model isn't asked here.

    Raises DataError if `calibrate` has too few rows to show such an error.
    """

    models: list[Model] = takes(
        uses_name=True,
        help="The models, from the cheapest to the dearest, e.g. `[head, sft, api]`. The last one "
        "answers what no other does.",
    )
    calibrate: Dataset = takes(
        role="held_out",
        help="Rows to choose the thresholds by, with an answer each. "
        "No model may have learned from them. Of related rows (a common parent), the first counts.",
    )
    judge: Step | None = nested_step(
        "evaluate",
        given={"models": "models", "rows": "calibrate"},
        help="The evaluator that says which answers are right, by its first metric. [default: an "
        "answer is right if its text is the row's]",
    )
    risk: float = setting(
        0.05, gt=0, lt=1, help="Largest share of wrong answers among those of each model."
    )
    confidence: float = setting(
        0.95, ge=0.5, lt=1, help="Probability with which all models but the last keep to `risk`."
    )
    max_tokens: int = setting(
        64, ge=1, help="Longest answer to a calibration row, in tokens. Evaluate with the same."
    )

    def check(self) -> None:
        """Raise `UsageError` for models and settings that can't work. Light: reads no input."""
        names = [model.name for model in self.models]
        is_nested = self.models and self.models[-1].meta.get("format") == "cascade"
        if len(names) < 2 or len({*names}) < len(names) or is_nested:
            raise UsageError(
                "a cascade needs at least two different models, none of which is a cascade",
                where="models",
                fix="list them from the cheapest to the dearest: models: [head, api]",
            )
        for model in self.models[:-1]:
            if model.meta.get("format") in UNSURE:
                raise without_confidence(model.name)
        if judge := self._judge():
            judge.check()

    def examine(self, look: Look) -> None:
        """Raise `DataError` for too few rows."""
        if meta := look.meta("calibrate"):
            self._require(meta.value.get("rows"))

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format, and the step type that ships it if one does."""
        *small, last = [model.meta for model in self.models] or [{}]
        is_shipped = all(meta.get("bundle") == BUNDLE for meta in small)
        is_reached = last.get("bundle") == BUNDLE or last.get("format") == "api"
        facts = {"bundle": BUNDLE} if is_shipped and is_reached else {}
        return {"": Promise(Model, {"format": "cascade", **facts})}

    def run(self, job: Job) -> Model:
        """Ask all models but the last, and choose their thresholds."""
        small = self.models[:-1]
        for model in small:
            if model.formats & UNSURE:
                raise without_confidence(model.name)
        _check_forms(self.models)
        rows = self._independent(job)
        errors_of = self._errors(job, rows)  # before any model is asked
        prompts, tools = [split_turns(row)[0] for row in rows], [row.get("tools") for row in rows]
        limits = Limits(self.max_tokens)
        answers = ask_each(
            limits, job, small,
            lambda engine, name: generate(limits, job, engine, name, prompts, tools),
        )  # fmt: skip
        scores = [[confidence_of(a, name) for a in given] for name, given in answers.items()]
        certificates = certify(scores, errors_of(answers), self.risk, self.confidence)
        stages = [self._stage(job, *of) for of in zip(answers, certificates, strict=True)]
        example = next((m.meta[EXAMPLE] for m in small if EXAMPLE in m.meta), None)
        meta = {
            **self.outputs()[""].meta,
            "risk": self.risk,
            "confidence": self.confidence,
            "stages": [*stages, {"model": self.models[-1].name}],
            **({EXAMPLE: example} if example else {}),
        }
        refs = {role(number): model for number, model in enumerate(self.models)}
        return Model(job.out, meta=meta, refs=refs)

    def _judge(self) -> Nested | None:
        nested = Nested.of(self, "judge", rows="calibrate")
        if nested is not None:
            nested.evaluator.models = self.models[:-1]
        return nested

    def _errors(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], list[list[bool]]]:
        """What says of each model which answers are wrong. `DataError` for rows without any."""
        if judge := self._judge():
            judging = judge.judging(job, rows)
            return lambda answers: _wrong(judging(answers))
        expected = [answer_of(row) for row in rows]
        refuse_empty(rows, expected)
        return lambda answers: [
            [answer.text.strip() != text for answer, text in zip(given, expected, strict=True)]
            for given in answers.values()
        ]

    def _independent(self, job: Job) -> list[Row]:
        """The first row of each group of related ones. `DataError` if they are too few."""
        rows = read_rows(self.calibrate)
        firsts = sorted(group[0] for group in groups_of(rows))
        if len(firsts) < len(rows):
            job.log(
                f"{len(rows)} rows form {counted(len(firsts), 'group')}; their first rows count"
            )
        self._require(len(firsts))
        return [rows[i] for i in firsts]

    def _require(self, rows: int | None) -> None:
        """Raise `DataError` for too few rows. rows: None if their number isn't known."""
        level = levels_of(len(self.models) - 1, self.confidence)[-1]
        needed = rows_needed(self.risk, level)
        if rows is not None and rows < needed:
            raise DataError(
                f"{counted(rows, 'independent row')} can't show with a confidence of "
                f"{100 * self.confidence:g} % that at most {100 * self.risk:g} % of the answers "
                f"are wrong, even if none is: {needed} rows are needed",
                where="calibrate",
                fix=f"give it {needed} rows or more (several times as many let more be answered), "
                "raise risk, or lower confidence",
            )

    def _stage(self, job: Job, name: str, certificate: Certificate) -> dict[str, Any]:
        """The facts about a model, which are logged. `note`: why it never answers, if so."""
        rows, bound = certificate.rows, certificate.bound
        facts = {"model": name, **certificate._asdict(), "bound": bound}
        if bound is not None:
            job.log(
                f"{name} answers {certificate.answered} of {rows} rows, {certificate.errors} of "
                f"them wrong: an error of at most {percent(bound)}"
            )
            return facts
        needed = rows_needed(self.risk, certificate.level)
        why = f"none of its thresholds shows an error of at most {100 * self.risk:g} %"
        why = why if rows >= needed else f"{rows} rows reach it, and {needed} are needed"
        job.log(f"{name} never answers: {why}")
        return {**facts, "note": why}


EXAMPLE = "training_example"
"""The fact in `meta` with a request that clients of a bundle send."""


def _check_forms(models: Sequence[Model]) -> None:
    """Raise `UsageError` for classifiers whose answers have different forms or fields."""
    forms = {m.name: m.meta["shape"] for m in models if "shape" in m.meta}
    if any(form != next(iter(forms.values())) for form in forms.values()):
        listed = "; ".join(
            f"{name}: {', '.join(form['fields']) or 'one text'}, as {form['form']}"
            for name, form in forms.items()
        )
        raise UsageError(
            f"the models answer in different forms: {listed}",
            where="models",
            fix="train them on rows with answers of one form",
        )


def _wrong(verdicts: Verdicts) -> list[list[bool]]:
    """Which answers of each model are wrong. `UsageError` if the evaluator doesn't say so."""
    values = verdicts.values(verdicts.metrics[0])
    if not all(value in (True, False, None) for of in values.values() for value in of):
        raise UsageError(
            f"the evaluator's first metric, {verdicts.metrics[0]}, isn't yes or no, so it doesn't "
            "say which answers are wrong",
            where="judge",
            fix="use eval.classification, eval.exact or another one that does",
        )
    return [[not value for value in column] for column in values.values()]
