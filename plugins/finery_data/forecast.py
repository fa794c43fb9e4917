"""What is known before a step of this plugin runs."""

from collections.abc import Collection

from finery import Forecast, Step


class SomeRows(Forecast[Step]):
    """Of steps that leave out rows, and the others as they are; how many isn't known before."""

    def passes(self) -> Collection[str]:
        """Those of `rows`."""
        return ("rows",)
