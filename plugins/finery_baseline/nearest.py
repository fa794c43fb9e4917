"""`baseline.nearest`: the answer of the most similar training row."""

import msgspec

from finery import Dataset, Job, Model, Step, takes
from finery_baseline.answers import ROWS, lessons_of


class Nearest(Step, sections=("models",), seeded=False):
    """Answer every prompt with the answer of the training row whose prompt is most similar.

    Similar means the cosine of TF-IDF vectors over words and their four-letter pieces (Salton and
    Buckley 1988), of all turns but the system prompt. If no row shares a rarer word with the
    prompt, the first row answers. To show the same rows to a model, see `pick: nearest` of
    `prompt.model`.
    """

    is_baseline = True

    rows: Dataset = takes(role="train", help="Rows to learn from, e.g. `split.train`.")

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
