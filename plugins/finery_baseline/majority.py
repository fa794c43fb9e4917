"""`baseline.majority`: always the most frequent answer."""

from collections import Counter

from finery import Job, Model
from finery_baseline.answers import FieldsStep, lessons_of


class Majority(FieldsStep, sections=("models",), seeded=False):
    """Answer every prompt with the most frequent answer of the training rows.

    The lowest bar: a model that doesn't beat it has learned nothing. Answers that consist of lines
    like `priority: high`, or of a JSON object, are learned field by field. Of equally frequent
    values, the one that occurs first is used.
    """

    def run(self, job: Job) -> Model:
        """Count the values."""
        shape, lessons = lessons_of(self.rows, self.fields)
        columns = zip(*(lesson.parts for lesson in lessons), strict=True)
        values = [Counter(column).most_common(1)[0][0] for column in columns]
        meta = {
            "format": "baseline-majority",
            "baseline": "majority",
            "rows": len(lessons),
            "answer": shape.written(values),
        }
        return Model(job.out, meta=meta)
