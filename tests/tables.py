"""Models that answer from a table, under the fixture `tables_answer`."""

from collections.abc import Sequence
from pathlib import Path

from finery import Dataset, Model
from finery.inference.engine import Completion, Engine, Request, Sampling
from finery.testing import dataset


class Table(Engine):
    """Answers with what `meta["answers"]` says to the last message; "…" ends what is cut off."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Look the answers up."""
        table = self.model.meta["answers"]
        texts = [table.get(request.messages[-1]["content"], "") for request in requests]
        return [
            Completion(
                text=text.removesuffix("…"),
                finish_reason="length" if text.endswith("…") else "stop",
                prompt_tokens=1,
                completion_tokens=len(text.split()),
            )
            for text in texts
        ]


def model(name: str, **answers: str) -> Model:
    """A model that the recipe calls `name`, and its answers by prompt."""
    made = Model(Path(), meta={"format": "table", "answers": answers})
    made.ref = name
    return made


def rows(folder: Path, **answers: str) -> Dataset:
    """Rows of prompt → expected answer."""
    return dataset(folder / "rows", [{"prompt": p, "completion": c} for p, c in answers.items()])
