"""`prompt.model`: a model with a system prompt and examples."""

from collections.abc import Iterable
from itertools import chain, zip_longest
from typing import Any, Literal

import msgspec
from blake3 import blake3

from finery import DataError, Dataset, Job, Model, Step, setting, takes
from finery.rows import Conversation, Row, Turns, answer_text, row_id
from finery_prompt.messages import EXAMPLES, without_system


class PromptModel(Step, sections=("models",)):
    """Put a system prompt, and rows as examples, before every prompt to a model.

    The result is a model like any other: the baseline that fine-tuning has to beat, or a teacher
    that knows the task.
    """

    model: Model = takes(help="The model that answers.")
    examples: Dataset | None = takes(
        None, role="examples", help="Rows to take examples from, e.g. `split.train`."
    )
    system: str = setting(
        "",
        help="The system prompt. A conversation's own system prompt follows it after a blank line.",
    )
    shots: int = setting(
        0,
        ge=0,
        help="How many rows of `examples` to show, each as a user turn and an assistant turn, "
        "without the row's system prompt. `pick` says which.",
    )
    pick: Literal["spread", "nearest"] = setting(
        "spread",
        help="Which rows to show. spread: the same for every prompt, selected by the seed, with as "
        "many different answers (the row's `label`, else its text) as possible. nearest: for each "
        "prompt those whose prompts are most similar to it, the most similar last (the rows that "
        "`baseline.nearest` finds).",
    )

    def run(self, job: Job) -> Model:
        """Choose the messages. The model isn't used yet."""
        self._check()
        rows = [] if self.pick == "nearest" else self._picked(job)
        messages: Conversation = []
        if self.system.strip():
            messages.append({"role": "system", "content": self.system})
        messages += [message for row in rows for message in _turns(row)]
        meta: dict[str, Any] = {
            "format": "prompted",
            "messages": messages,
            "examples": [row.get("id", row_id(row)) for row in rows],
        }
        if self.pick == "nearest":
            meta["nearest"] = {"shots": self.shots, "rows": self._retrievable(job)}
        return Model(job.out, meta=meta, refs={"model": self.model})

    def _check(self) -> None:
        if self.shots and self.examples is None:
            raise DataError(
                f"shots: {self.shots} needs examples", fix="set examples to a step with rows"
            )
        if self.examples is not None and not self.shots:
            raise DataError(
                "examples are set, but shots is 0",
                fix="set shots to the number of rows to show",
            )
        if self.pick == "nearest" and not self.shots:
            raise DataError(
                "pick: nearest needs examples", fix="set examples, and shots to how many to show"
            )
        if not self.system.strip() and not self.shots:
            raise DataError(
                "system and examples are both missing", fix="set system, or examples and shots"
            )

    def _picked(self, job: Job) -> list[Row]:
        if self.examples is None:
            return []
        return pick(self._usable(job).values(), self.shots, job.seed)

    def _retrievable(self, job: Job) -> int:
        """Write the rows that prompts are compared with; their number."""
        rows = self._usable(job).values()
        lines = [msgspec.json.encode(_turns(row)) for row in rows]
        (job.out / EXAMPLES).write_bytes(b"\n".join(lines) + b"\n")
        return len(lines)

    def _usable(self, job: Job) -> dict[str, Row]:
        """The rows that can be shown, by their content."""
        assert self.examples is not None
        usable = {row_id(row): row for row in self.examples if _is_example(row)}
        if left := len(self.examples) - len(usable):
            job.log(f"{left} rows can't be examples: no prompt, no answer, or repeated")
        if len(usable) < self.shots:
            raise DataError(
                f"shots: {self.shots} needs that many different rows with a prompt and an answer, "
                f"but examples has {len(usable)}",
                fix=f"set shots to at most {len(usable)}",
            )
        return usable


def pick(rows: Iterable[Row], count: int, seed: int) -> list[Row]:
    """`count` rows, selected by `seed` and independent of their order, spread over the answers.

    Rows are sorted by a hash of seed and content, then taken in turn from each answer. So `count`
    rows show min(`count`, answers) different answers.
    """
    ordered = sorted(rows, key=lambda row: blake3(f"{seed} {row_id(row)}".encode()).digest())
    by_answer: dict[bytes, list[Row]] = {}
    for row in ordered:
        by_answer.setdefault(_answer(row), []).append(row)
    rounds = chain.from_iterable(zip_longest(*by_answer.values()))
    return [row for row in rounds if row is not None][:count]


def _answer(row: Row) -> bytes:
    """The settings that distinguish rows with different answers."""
    answer = row["label"] if row.get("label") is not None else answer_text(row)
    return msgspec.json.encode(answer, order="deterministic")


def _is_example(row: Row) -> bool:
    turns = Turns.of(row)
    return bool(turns.answer) and bool(without_system(turns.prompt))


def _turns(row: Row) -> Conversation:
    return without_system(Turns.of(row).conversation)
