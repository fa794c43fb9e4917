"""How generated rows were made: `generated.jsonl`, next to the rows of a dataset.

A line for each row, in the order of the rows. The same rows always give the same bytes: it has no
times, no costs, and nothing that depends on the state of the cache.

    {
      "id": "9f2c…",                     the row's id
      "parents": ["51aa…"],              ids of the rows it was made from
      "use": "synth.paraphrase",         the step type
      "model": "gpt-4.1-mini",           who wrote it; missing if the row was only judged
      "template": {"name": "prompts/paraphrase.jinja", "digest": "3be1…"},   name: "default" for
                                         the step type's own
      "prompt": [{"role": "user", "content": "…"}],   the messages, as they were sent
      "variant": 2,                      which of the requests for the same thing, from 0
      "attempt": 1,                      how many earlier attempts had another outcome
      "answer": "…",                     the model's answer, unless the row contains it verbatim
      "checks": [{"check": "regex", "passed": true, "value": …, "detail": "…"}],
      "judge": {"model": "gpt-4.1", "score": 4, "reason": "…", …}
    }

Empty and unknown values are omitted. A step may add its own fields in `more`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from blake3 import blake3

from finery.rows.files import SideFile
from finery.rows.row import Conversation

if TYPE_CHECKING:
    from finery.artifact.kinds import Model

GENERATED = "generated.jsonl"
"""In the dataset's folder: a line for each generated row."""
DEFAULT_TEMPLATE = "default"
"""The name of a step type's own template."""


class Template(msgspec.Struct, frozen=True):
    """The template of a prompt: its file, as the recipe names it, and 16 digits of its digest."""

    name: str
    digest: str

    @classmethod
    def of(cls, source: str, name: str = DEFAULT_TEMPLATE) -> "Template":
        """That of a template with this text."""
        return cls(name, blake3(source.encode()).hexdigest()[:16])


class CheckResult(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The result of a check of a row.

    check: its name. value: what it measured, e.g. a similarity or a score. detail: an explanation
    for people, above all if the check failed.
    """

    check: str
    passed: bool
    value: Any = None
    detail: str = ""


class Origin(msgspec.Struct, omit_defaults=True, kw_only=True):
    """How a row was made: a line of `generated.jsonl`, see the module."""

    id: str
    use: str
    model: str = ""
    prompt: Conversation = []
    parents: list[str] = []
    template: Template | None = None
    variant: int = 0
    attempt: int = 0
    answer: str | None = None
    checks: list[CheckResult] = []
    judge: dict[str, Any] | None = None
    more: dict[str, Any] = {}


class Origins(SideFile):
    """Writes `generated.jsonl` as rows are written. Used as a context manager around that."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / GENERATED)

    def add(self, origin: Origin) -> None:
        """Note how the next row was made."""
        self.write(msgspec.json.encode(origin))


def author_name(model: "Model") -> str:
    """The name that identifies a model as the author of a row.

    The server's name for a model behind an API, the file name of a file, and otherwise the format
    and a digest of the content.
    """
    under: Any = model.refs.get("model")
    if model.format == "prompted" and under is not None:
        return f"{author_name(under)} (prompted)"
    for fact in ("name", "repo", "file"):
        if isinstance(model.meta.get(fact), str):
            return str(model.meta[fact])
    return f"{model.format} {model.digest[:12]}".strip()
