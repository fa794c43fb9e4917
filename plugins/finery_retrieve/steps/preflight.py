"""What is checked before an index is made or used."""

from collections.abc import Mapping

from finery import Preflight
from finery_retrieve.steps.index import RetrieveIndex

LEXICAL = {"bm25s": "finery[retrieve]", "PyStemmer": "finery[retrieve]"}
COUNTING = {"transformers": "finery[train]"}


class IndexPreflight(Preflight[RetrieveIndex]):
    """Looks for the packages of the method."""

    def packages(self) -> Mapping[str, str]:
        """bm25s and its stemmer, unless the index is searched by embeddings alone; a tokenizer."""
        lexical = {} if self.step.method == "dense" else LEXICAL
        return lexical if self.step.tokenizer is None else {**lexical, **COUNTING}
