"""Checks of an evaluator's rows before a model answers them."""

from finery import Job, Preflight
from finery_eval.evaluator import Judge


class JudgePreflight(Preflight[Judge]):
    """Reads the rows as the evaluator will."""

    def check_inputs(self, job: Job) -> None:
        """Raise `DataError` for rows that can't be judged."""
        self.step.check_rows(job)
