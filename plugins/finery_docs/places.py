"""The places in files from which chunks were read."""

from collections.abc import Collection, Iterator

from finery import Job, Traceable
from finery_docs.files import DocsFiles, Reading


class ChunkPlaces(Traceable[DocsFiles]):
    """Chunks by file and line, or page."""

    def trace(self, ids: Collection[str], job: Job) -> Iterator[tuple[str, str]]:
        """File and line, or page, of each chunk with one of `ids`."""
        reading = Reading(self.step, job)
        with reading.drops:
            for row in reading.rows():
                if row["id"] in ids:
                    page = f" (page {row['page']})" if "page" in row else f":{row['line']}"
                    yield row["id"], f"{row['source']}{page}"
