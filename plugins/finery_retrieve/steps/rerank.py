"""`retrieve.rerank`: an index whose best chunks a reranker puts in order."""

from finery import Index, Job, Model, Promise, Step, UsageError, setting, takes
from finery_retrieve.embed.steps import LOCAL
from finery_retrieve.formats import COUNTS_TOKENS, RERANKER
from finery_retrieve.index.chunks import FORMAT


class RetrieveRerank(Step, sections=("data",), seeded=False, installs=LOCAL):
    """Retrieve more chunks than needed, and put them in the order of a reranker.

    The result is an index like any other: models answer from it, and eval.retrieval compares it
    with the index that it is made of. Each question costs `candidates` passes of the reranker.
    """

    index: Index = takes(help="The index that retrieves the candidates.")
    model: Model = takes(help="The reranker, of `rerank.train`.")
    candidates: int = setting(
        20, ge=2, le=1000, help="Chunks to rerank. Those after them follow in their own order."
    )

    def outputs(self) -> dict[str, Promise]:
        """With whether the index counts tokens, for the checks of steps with a `limit`."""
        meta = {name: fact for name, fact in self.index.meta.items() if name == COUNTS_TOKENS}
        return {"": Promise(Index, meta)}

    def check(self) -> None:
        """Raise `UsageError` for inputs that can't work. Light: reads no input."""
        if (format_ := self.model.meta.get("format", RERANKER)) != RERANKER:
            raise UsageError(
                f"a model of the format '{format_}' can't rerank chunks",
                where="model",
                fix="name a step of rerank.train",
            )
        if self.index.meta.get("format", FORMAT) != FORMAT or "reranker" in self.index.refs:
            raise UsageError(
                "the index can't be reranked here: another plugin made it, or it already is",
                where="index",
                fix="name a step of retrieve.index",
            )

    def run(self, job: Job) -> Index:
        """Copy the index, and add the reranker."""
        root = self.index.path
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_file() and name != "manifest.json":  # finery's own
                job.copy(path, name)
        meta = {**self.index.meta, "reranker": self.model.digest, "candidates": self.candidates}
        refs = {**self.index.refs, "reranker": self.model}
        return Index(job.out, meta=meta, refs=refs, runtime=dict(self.index.runtime))
