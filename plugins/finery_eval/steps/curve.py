"""`eval.curve`: would more training rows help?"""

from collections.abc import Collection, Iterable

from finery import DataError, Dataset, Job, Metrics, Model, Step, UsageError, nested_step, takes
from finery.rows import Row
from finery_eval import curve
from finery_eval.asking import ask, read_rows
from finery_eval.curve import Trained
from finery_eval.evaluation import write
from finery_eval.evaluator import Judge
from finery_eval.groups import together
from finery_eval.measure import scores_of
from finery_eval.nested import Nested

ROWS = "rows"
"""The fact that says how many rows a model was trained on."""


class Curve(Judge, engines=True):
    """Draw the learning curve: judge one training on several numbers of rows.

    The models are trainings that differ only in the number of their rows, e.g. on a quarter, half
    and all of them (`data.sample`), under one seed. The evaluator in `each` judges them. The result
    has the scores by rows, and for each metric that is a share what twice the rows would add: by a
    logistic regression on the logarithm of the rows, with a 95 % bootstrap interval over the test
    rows. It says in words whether more rows, more epochs or a larger model would help most.

    The interval covers the choice of test rows. It doesn't cover the choice of training rows and
    the seed, so a curve of three trainings shows a trend, no law.

    Raises DataError for models whose number of training rows isn't known, or is the same.
    """

    each: Step | None = nested_step(
        "evaluate",
        given={"models": "models", "rows": "rows"},
        help="The evaluator that judges the answers, e.g. `{use: eval.exact}`. Its models and rows "
        "are those of this step.",
    )
    models: list[Model] = takes(
        uses_name=True, help="Trainings on different numbers of rows, at least two."
    )
    rows: Dataset = takes(help="Rows to judge them on, e.g. `split.validation`.")

    def metric_names(self) -> list[str]:
        """The metrics of each model, the headline first."""
        return self.inner().evaluator.metric_names()

    def more_metrics(self) -> str:
        """How to add further metrics."""
        return self.inner().evaluator.more_metrics()

    def inner(self) -> Nested:
        """The evaluator. Raises `UsageError` if there is none."""
        return Nested.required(self, "each")

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        inner = self.inner()
        if len(self.models) < 2:
            raise UsageError(
                "a curve needs two models or more", where="models", fix="models: [half, sft]"
            )
        super().check()
        inner.check()

    def check_rows(self, job: Job) -> None:
        """Raise `DataError` for rows that can't be judged."""
        self.inner().check_rows(job, read_rows(self.rows))

    def check_sample(self, rows: Iterable[Row]) -> None:
        """Raise `DataError` for settings of `each` that don't fit the first rows."""
        self.inner().check_sample(rows)

    def check_columns(self, columns: Collection[str]) -> None:
        """Raise `DataError` for slices of `each` that no row can have."""
        self.inner().check_columns(columns)

    def run(self, job: Job) -> Metrics:
        """Judge the models, fit the line, write the metrics."""
        self.check()
        inner, trained = self.inner(), [trained_of(model) for model in self.models]
        if len({each.rows for each in trained}) < 2:
            raise DataError(
                f"all models were trained on {trained[0].rows:,} rows",
                where="models",
                fix="train on different numbers of rows, e.g. with data.sample",
            )
        rows = read_rows(self.rows)
        judge = inner.judging(job, rows)
        answers = ask(inner.evaluator, job, rows)
        verdicts = judge(answers)
        groups = together(rows)
        headline = verdicts.headline[0]
        grown = curve.curve_of(trained, verdicts, groups)
        words = curve.advice(trained, headline, grown[headline]) if headline in grown else []
        for line in words:
            job.log(line)
        measures = {headline: verdicts.measure(headline, groups)}
        scores = scores_of([each.name for each in trained], measures)
        tables = curve.tables_of(trained, scores, grown, headline)
        points = [each._asdict() for each in sorted(trained, key=lambda each: each.rows)]
        details = {
            **verdicts.details,
            "curve": {
                "points": points,
                "growth": {name: of._asdict() for name, of in grown.items()},
                "words": words,
            },
        }
        whole = verdicts._replace(tables=[*tables, *verdicts.tables], details=details)
        models, slices = self.models, inner.evaluator.slices
        return write(job, rows, answers, whole, models=models, slices=slices)


def trained_of(model: Model) -> Trained:
    """What is known of a model's training. Raises `DataError` where its rows aren't counted."""
    rows = model.meta.get(ROWS)
    if not isinstance(rows, int):
        raise DataError(
            f"it isn't known how many rows {model.name} was trained on",
            where="models",
            fix="name trainings (trl.sft) or baselines, not their exports",
        )
    validated = "eval_loss" in model.meta or "watch" in model.meta
    steps, best = model.meta.get("steps"), model.meta.get("best_step")
    return Trained(model.name, rows, *((steps, best) if validated else (None, None)))
