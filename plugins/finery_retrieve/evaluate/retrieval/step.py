"""`eval.retrieval`: how often is the right chunk among those that are retrieved?"""

from collections.abc import Sequence

from finery import DataError, Dataset, Index, Job, Metrics, UsageError, setting, takes
from finery.util.text import counted
from finery_eval.evaluation import write_scored
from finery_eval.evaluator import Gate
from finery_eval.measure import pairs_of, scores_of
from finery_retrieve.evaluate import tables
from finery_retrieve.evaluate.measures import over_documents
from finery_retrieve.evaluate.retrieval.rankings import document_tables, predictions, ranked
from finery_retrieve.evaluate.rows import read_questions
from finery_retrieve.questions import Question


class Retrieval(
    Gate,
    engines=True,
    seeded=False,
    packages=("bm25s", "PyStemmer"),
    version="1",
):
    """Measure how often indices retrieve the chunk that a question was made from.

    - `recall@k`: the share of the right chunks that are among the first k. With one right chunk a
      question, it is the share of questions whose chunk is retrieved.
    - `mrr@k`: mean of 1 / the rank of the first right chunk, 0 beyond the largest k (Voorhees
      1999).
    - `ndcg@k`: normalised discounted cumulative gain for the largest k (Järvelin and Kekäläinen
      2002).

    The right chunk of a row is named by `chunk` or `parents`; synth.from_docs writes them. In an
    index without that id, it is the first chunk that contains the row's `quote`, in the document
    `source` if the row names one. So indices with chunks of different sizes can be compared, and
    questions can be written by hand. Another chunk with the same quote, e.g. an overlapping one,
    counts as the right one. Rows without a quote whose chunk an index lacks are refused. Rows
    with `answerable: false` are left out.

    Each metric has a 95 % interval. Questions about one document count together: intervals are
    bootstraps over documents (Efron and Tibshirani 1993), p-values are those of sign flips of
    documents (Fisher 1935, Pitman 1937). If each question is about a different document, shares
    have Wilson's interval, and differences Newcombe's and the exact McNemar test. Every further
    index is compared with the first.

    Raises DataError for rows without a question, or without a right chunk in any index, and for
    those that can't be looked up in all indices.
    """

    indices: list[Index] = takes(
        uses_name=True, help="The indices to compare on the same questions."
    )
    rows: Dataset = takes(help="Questions that name their chunk, e.g. of synth.from_docs.")
    k: list[int] = setting(
        [1, 3, 5, 10], min_length=1, help="Numbers of retrieved chunks to measure the recall of."
    )
    require: dict[str, str] = setting(
        {},
        affects_output=False,
        help="Conditions that the build must meet: <index>.<metric> compared (>=, >, <=, <) with a "
        "share from 0 to 1 or with another metric, or `not worse than` another index `by` a "
        "margin.",
        examples=[{"index.recall@5": ">= 0.9"}],
    )

    def metric_names(self) -> list[str]:
        """The metrics of each index, the recall of the largest k first."""
        *others, deepest = sorted(set(self.k))
        recalls = [f"recall@{k}" for k in (deepest, *others)]
        return [*recalls, f"mrr@{deepest}", f"ndcg@{deepest}"]

    def nouns(self) -> tuple[str, str]:
        """What is judged, in the singular and the plural, for errors."""
        return "index", "indices"

    def more_metrics(self) -> str:
        """How to add the recall of other numbers of chunks."""
        return f"for other numbers of chunks, add them to `k`, which is {self.k}"

    def measured(self) -> dict[str, list[str]]:
        """The indices → their metrics, for `require`."""
        return {index.name: self.metric_names() for index in self.indices}

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        names = [index.name for index in self.indices]
        if not names:
            raise UsageError("`indices` is empty", where="indices", fix="name one: [index]")
        if len(set(names)) < len(names):
            raise UsageError("an index is listed twice", where="indices", fix="list each once")
        if min(self.k) < 1:
            raise UsageError(f"k contains {min(self.k)}", where="k", fix="use numbers from 1")
        super().check()

    def run(self, job: Job) -> Metrics:
        """Search the indices, write the metrics."""
        questions = answerable(job, read_questions(self.rows))
        rankings = ranked(job, self.indices, questions, max(self.k))
        documents = [hit.source or hit.id for hit in rankings.right]
        tables.log_clusters(job, documents)
        names = list(rankings.by_index)
        metrics = self._useful_first(job)
        measures = {m: over_documents(rankings.values(m), documents) for m in metrics}
        pairs = pairs_of(names, measures)
        shown = [
            tables.intervals_table("Metrics", names, measures),
            *tables.pairs_tables(pairs, metrics),
            *document_tables(rankings, metrics[0]),
        ]
        details = {
            "headline": metrics, "pairs": pairs, "documents": len(set(documents)), "tables": shown,
            "intervals_cover": "the choice of questions only",
        }  # fmt: skip
        lines = predictions(rankings, metrics)
        return write_scored(job, len(questions), scores_of(names, measures), details, lines)

    def _useful_first(self, job: Job) -> list[str]:
        """The metrics, those last that any order of all chunks has at 100 %."""
        smallest = min(self.indices, key=lambda index: int(index.meta["chunks"]))
        chunks = int(smallest.meta["chunks"])
        whole = [f"recall@{k}" for k in sorted(set(self.k)) if k >= chunks]
        if whole:
            what = f"{smallest.name} has {counted(chunks, 'chunk')}"
            job.log(f"{', '.join(whole)} says nothing about the order of the chunks: {what}")
        others = [metric for metric in self.metric_names() if metric not in whole]
        recalls = sorted((m for m in others if m.startswith("recall")), key=_depth, reverse=True)
        headline = [*recalls[:1], *(m for m in others if m not in recalls[:1])]
        return [*headline, *whole]


def _depth(metric: str) -> int:
    return int(metric.partition("@")[2])


def answerable(job: Job, questions: Sequence[Question]) -> list[Question]:
    """The questions that the documents answer; logs how many others there are."""
    answered = [question for question in questions if question.is_answerable]
    if not answered:
        raise DataError(
            "no row has a question that the documents answer",
            fix="add questions of synth.from_docs, or remove answerable: false",
        )
    others = len(questions) - len(answered)
    if others:
        job.log(f"left out: {counted(others, 'row')} with answerable: false")
    return answered
