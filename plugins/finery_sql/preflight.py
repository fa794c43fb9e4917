"""What is checked of a query before it runs."""

from collections.abc import Mapping

from finery_data.preflight import SourcePreflight


class QueryPreflight(SourcePreflight):
    """Compiles the templates of `columns`."""

    def packages(self) -> Mapping[str, str]:
        """What talks to databases."""
        return {"sqlalchemy": "finery[sql]"}
