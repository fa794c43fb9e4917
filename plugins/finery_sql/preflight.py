"""Checks of a query before it runs."""

from collections.abc import Mapping

from finery_data.preflight import SourcePreflight


class QueryPreflight(SourcePreflight):
    """Compiles the templates of `columns`."""

    def packages(self) -> Mapping[str, str]:
        """The packages that connect to databases."""
        return {"sqlalchemy": "finery[sql]"}
