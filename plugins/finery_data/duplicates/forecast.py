"""What can be said of a split before it is made."""

from collections.abc import Collection, Mapping, Sequence

from finery import Count, Forecast
from finery_data.steps.split import Split


class SplitForecast(Forecast[Split]):
    """Counts by the shares of the parts."""

    def rows(self, output: str, taken: Mapping[str, Sequence[Count | None]]) -> Count | None:
        """The output's share of all rows; None while one of the inputs isn't counted."""
        counts = taken.get("rows", ())
        known = [count.rows for count in counts if count is not None]
        if not counts or len(known) < len(counts):
            return None
        return Count(round(sum(known) * self.step.shares()[output]), exact=False)

    def passes(self) -> Collection[str]:
        """Rows stay as they are."""
        return ("rows",)

    def keeps_apart(self) -> bool:
        """Whether near copies across the parts are dropped."""
        return self.step.decontaminate
