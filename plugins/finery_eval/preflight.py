"""Checks of an evaluator's rows before a model answers them."""

from collections.abc import Collection, Iterable, Mapping

from finery import Job, Preflight
from finery.rows import Row
from finery_eval.evaluator import Judge


class JudgePreflight(Preflight[Judge]):
    """Reads the rows as the evaluator will."""

    def check_sample(self, samples: Mapping[str, Iterable[Row]]) -> None:
        """Raise `DataError` for settings that don't fit the first rows."""
        if "rows" in samples:
            self.step.check_sample(samples["rows"])

    def check_columns(self, columns: Mapping[str, Collection[str]]) -> None:
        """Raise `DataError` for slices that no row can have."""
        if "rows" in columns:
            self.step.check_columns(columns["rows"])

    def check_inputs(self, job: Job) -> None:
        """Raise `DataError` for rows that can't be judged."""
        self.step.check_rows(job)
