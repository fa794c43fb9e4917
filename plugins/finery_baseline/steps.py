"""The step types: cheap models that a trained one should beat."""

from collections import Counter

import msgspec

from finery import Dataset, Job, Model, Promise, Step, setting, takes
from finery.rows import example_request
from finery_baseline.answers import ROWS, FieldsStep, classes_of, lessons_of
from finery_baseline.classifier import written
from finery_baseline.vectors import fit, save


class Majority(FieldsStep, sections=("models",), seeded=False):
    """Answer every prompt with the most frequent answer of the training rows.

    The lowest bar: a model that doesn't beat it has learned nothing. Answers that consist of lines
    like `priority: high`, or of a JSON object, are learned field by field. Of equally frequent
    values, the one that occurs first is used.
    """

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format for the checks of steps that take it."""
        return {"": Promise(Model, {"format": "baseline-majority"})}

    def run(self, job: Job) -> Model:
        """Count the values."""
        shape, lessons = lessons_of(self.rows, self.fields)
        columns = zip(*(lesson.parts for lesson in lessons), strict=True)
        values = [Counter(column).most_common(1)[0][0] for column in columns]
        meta = {
            "format": "baseline-majority",
            "baseline": "majority",
            "rows": len(lessons),
            "answer": written(shape.form, shape.fields, values),
        }
        return Model(job.out, meta=meta)


class Nearest(Step, sections=("models",), seeded=False):
    """Answer every prompt with the answer of the training row whose prompt is most similar.

    Similar means the cosine of TF-IDF vectors over words and their four-letter pieces (Salton and
    Buckley 1988), of all turns but the system prompt. If no row shares a rarer word with the
    prompt, the first row answers. To show the same rows to a model, see `pick: nearest` of
    `prompt.model`.
    """

    is_baseline = True

    rows: Dataset = takes(role="train", help="Rows to learn from, e.g. `split.train`.")

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format for the checks of steps that take it."""
        return {"": Promise(Model, {"format": "baseline-nearest"})}

    def run(self, job: Job) -> Model:
        """Keep the rows: their prompts and answers."""
        _, lessons = lessons_of(self.rows, [])
        lines = [msgspec.json.encode([lesson.question, lesson.answer]) for lesson in lessons]
        (job.out / ROWS).write_bytes(b"\n".join(lines) + b"\n")
        meta = {
            "format": "baseline-nearest",
            "baseline": "nearest",
            "rows": len(lessons),
        }
        return Model(job.out, meta=meta)


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

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format and the step type that ships it."""
        return {"": Promise(Model, {"format": "baseline-linear", "bundle": "serve.bundle"})}

    def run(self, job: Job) -> Model:
        """Fit a classifier for each field."""
        shape, lessons = lessons_of(self.rows, self.fields)
        classes = classes_of(shape, lessons)
        names = zip(shape.fields or ("answer",), classes, strict=True)
        sizes = ", ".join(f"{name}: {len(of)} classes" for name, of in names)
        job.log(f"fits {len(lessons)} rows, {sizes}")
        classifier = fit(
            [lesson.question for lesson in lessons],
            [[lesson.parts[i] for lesson in lessons] for i in range(len(classes))],
            c=self.c,
            max_features=self.max_features,
        )
        save(classifier, job.out)
        meta = {
            "format": "baseline-linear",
            "bundle": "serve.bundle",
            "baseline": "linear",
            "rows": len(lessons),
            "features": sum(map(len, classifier.features)),
            "shape": {"form": shape.form, "fields": list(shape.fields)},
            "training_example": example_request({"prompt": lesson.question} for lesson in lessons),
        }
        return Model(job.out, meta=meta)
