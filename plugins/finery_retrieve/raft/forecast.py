"""What is known of the rows of `synth.raft` before it runs."""

from collections.abc import Mapping, Sequence

from finery import Count, Forecast
from finery_retrieve.raft.step import Raft


class RaftForecast(Forecast[Raft]):
    """Each question makes one row, unless it is dropped."""

    def rows(self, output: str, taken: Mapping[str, Sequence[Count | None]]) -> Count | None:
        """The number of questions; None while an input isn't counted."""
        counts = taken.get("rows", ())
        known = [count.rows for count in counts if count is not None]
        if not counts or len(known) < len(counts):
            return None
        return Count(sum(known), exact=False)
