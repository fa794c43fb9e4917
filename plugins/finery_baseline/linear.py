"""`baseline.linear`: logistic regression on words and letters, for each field of the answer."""

from finery import DataError, Job, Model, setting
from finery_baseline.answers import FieldsStep, Lesson, Shape, lessons_of
from finery_baseline.vectors import fit, save

MOST_CLASSES = 500
"""More values than that in a field are free text."""


class Linear(
    FieldsStep,
    sections=("models",),
    isolated=True,
    seeded=False,
    packages=("scikit-learn", "scipy"),
):
    """Train a linear classifier on the rows, the bar for any classification.

    Each field of the answer (or the answer as a whole) has a separate logistic regression, on
    TF-IDF vectors of the prompt's words, pairs of words, and pieces of 2 to 5 letters within words.
    Training takes seconds. On many classification tasks with a few hundred rows, such a model is
    hard to beat.

    The model is data, without code: the features as JSON, the coefficients as a NumPy array, to
    four digits. It doesn't depend on the number of threads.

    Raises DataError for answers that are free text.
    """

    c: float = setting(
        10.0,
        gt=0,
        help="Inverse strength of the regularisation. A larger value fits the training rows more "
        "closely.",
    )
    max_features: int = setting(
        50_000, ge=1, help="Words and pieces to keep, the most frequent ones of each kind."
    )

    def run(self, job: Job) -> Model:
        """Fit a classifier for each field."""
        shape, lessons = lessons_of(self.rows, self.fields)
        classes = classes_of(shape, lessons)
        job.log(f"fits {len(lessons)} rows, {', '.join(_sizes(shape, classes))}")
        classifier = fit(
            [lesson.question for lesson in lessons],
            [[lesson.parts[i] for lesson in lessons] for i in range(len(classes))],
            c=self.c,
            max_features=self.max_features,
        )
        save(classifier, job.out)
        meta = {
            "format": "baseline-linear",
            "baseline": "linear",
            "rows": len(lessons),
            "features": sum(map(len, classifier.features)),
            "shape": {"form": shape.form, "fields": list(shape.fields)},
        }
        return Model(job.out, meta=meta)


def classes_of(shape: Shape, lessons: list[Lesson]) -> list[list[str]]:
    """The classes of each field. Raises `DataError` for a field of free text."""
    columns = [sorted(set(column)) for column in zip(*(x.parts for x in lessons), strict=True)]
    for name, classes in zip(shape.fields or ("answer",), columns, strict=True):
        if len(classes) > min(MOST_CLASSES, max(20, len(lessons) // 2)):
            labels = [f for f, of in zip(shape.fields, columns, strict=False) if of != classes]
            raise DataError(
                f"the {name} of {len(lessons)} rows has {len(classes)} different values: it is "
                "free text, not a label",
                where="rows",
                fix=f"name the fields that are labels, e.g. fields: [{labels[0]}]"
                if labels
                else "use baseline.nearest",
            )
    return columns


def _sizes(shape: Shape, classes: list[list[str]]) -> list[str]:
    names = shape.fields or ("answer",)
    return [f"{name}: {len(of)} classes" for name, of in zip(names, classes, strict=True)]
