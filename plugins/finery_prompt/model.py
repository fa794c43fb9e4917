"""`prompt.model`: a model with a system prompt and examples."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, zip_longest
from typing import Any, Literal

import msgspec
from blake3 import blake3

from finery import DataError, Dataset, Job, Model, Promise, Step, setting, takes
from finery.rows import Conversation, Row, Turns, answer_text, row_id
from finery.views import Output, Part, Text, View, record_of
from finery_prompt.engine import EXAMPLES, without_system


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

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format for the checks of steps that take it."""
        return {"": Promise(Model, {"format": "prompted"})}

    def run(self, job: Job) -> Model:
        """Choose the messages. The model isn't used yet."""
        self._check()
        usable = [] if self.examples is None else self._usable(self.examples, job)
        rows = [] if self.pick == "nearest" else pick(usable, self.shots, job.seed)
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
            lines = [msgspec.json.encode(_turns(row)) for row in usable]
            (job.out / EXAMPLES).write_bytes(b"\n".join(lines) + b"\n")
            meta["nearest"] = {"shots": self.shots, "rows": len(lines)}
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

    def _usable(self, examples: Dataset, job: Job) -> list[Row]:
        """The rows that can be shown, each content once."""
        usable: dict[str, Row] = {}
        for row in examples:
            turns = Turns.of(row)
            if turns.answer and without_system(turns.prompt):
                usable[row_id(row)] = row
        if left := len(examples) - len(usable):
            job.log(f"{left} rows can't be examples: no prompt, no answer, or repeated")
        if len(usable) < self.shots:
            raise DataError(
                f"shots: {self.shots} needs that many different rows with a prompt and an answer, "
                f"but examples has {len(usable)}",
                fix=f"set shots to at most {len(usable)}",
            )
        return list(usable.values())


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


def _turns(row: Row) -> Conversation:
    return without_system(Turns.of(row).conversation)


SHOWN = 6
"""Maximum number of messages that are printed."""


class PromptedView(View):
    """Shows prompted models."""

    def facts(self, output: Output) -> Mapping[str, Any]:
        """`meta` without the messages, which are printed as turns."""
        return {name: v for name, v in output.manifest.meta.items() if name != "messages"}

    def overview(self, output: Output) -> Iterator[Part]:
        """Facts, files and the first messages."""
        yield from super().overview(output)
        messages = output.manifest.meta.get("messages", [])
        yield record_of({"messages": messages[:SHOWN]})
        if len(messages) > SHOWN:
            yield Text(f"… and {len(messages) - SHOWN} more messages", "soft")
