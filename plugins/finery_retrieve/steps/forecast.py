"""What is known of rows with documents before they are made."""

from collections.abc import Mapping, Sequence

from finery import Count, Forecast
from finery_retrieve.steps.rows import RetrieveRows


class RowsForecast(Forecast[RetrieveRows]):
    """As many as there are questions."""

    def rows(self, output: str, taken: Mapping[str, Sequence[Count | None]]) -> Count | None:
        """The number of the rows that it takes."""
        return next(iter(taken.get("rows", ())), None)
