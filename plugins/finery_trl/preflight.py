"""Checks of a training before it starts: its rows and its layers.

Rows are verified in the same way as by the training itself, and shown as a `Proof`.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from finery import Dataset, FineryError, Job
from finery.advanced import Proof, ProofBuilder, SamplePiece, raise_all
from finery_local.facts import ModelFiles
from finery_trl.model.loading import check_context, check_targets
from finery_trl.rows.example import Proven, continues
from finery_trl.rows.remarks import Remarks, add
from finery_trl.rows.tokens import Tokens, read_rows
from finery_trl.train.messages import check_half, check_optimizer, check_sharding, training_notes
from finery_trl.train.schedule import Schedule

if TYPE_CHECKING:
    from finery_trl.settings import Training


def prove(step: "Training", job: Job, samples: int) -> list[Proof]:
    """A proof for each data set of a training, read in the same way as by the training itself.

    Only the tokenizer, chat template and configuration of `step.model` are read. Raises the errors
    that `step.read` raises for invalid rows, and `DataError` if rows don't fit into the model's
    context; the errors of all data sets together.
    """
    reading = _Reading(
        step, Tokens.of_model(step.model), ModelFiles(step.model).context, job, samples
    )
    inputs = {"rows": step.rows}
    if step.validation is not None:
        inputs["validation"] = [step.validation]
    prove_rows = reading.text if type(step).__spec__.learns == "text" else reading.rows
    proofs: list[Proof] = []
    errors: list[FineryError] = []
    for name, datasets in inputs.items():
        try:
            proofs.append(prove_rows(name, datasets))
        except FineryError as error:
            errors.append(error)
    checks: Sequence[Callable[[], None]] = (
        step.check,
        lambda: check_targets(step),
        lambda: check_sharding(step),
        lambda: check_optimizer(step),
        lambda: check_half(step),
    )
    for check in checks:
        try:
            check()
        except FineryError as error:
            errors.append(error)
    raise_all(errors)
    return proofs


class _Reading(NamedTuple):
    """How a training reads rows. context: of its model. samples: rows to show of a data set."""

    step: "Training"
    tokens: Tokens
    context: int | None
    job: Job
    samples: int

    def rows(self, name: str, datasets: Sequence[Dataset]) -> Proof:
        """The proof of rows with answers or prompts."""
        step, tokens, _, job, samples = self
        proven: set[str] = set()
        builder, ends = ProofBuilder(name), Counter[int]()
        total = sum(len(dataset) for dataset in datasets)
        remarks = Remarks(step, tokens)
        for example in read_rows(step, datasets, step.reading(tokens, job, name), remarks):
            if _is_due(example, builder, samples, builder.rows / max(total, 1)):
                builder.add_sample(example.row_id, _pieces(example, tokens))
            add(builder, example)
            last = [token for a in example.answers() for token in a.tokens[-1:]]
            ends.update(token for token in last if token in tokens.ends)
            proven.add(example.row_id)
        dropped = [row_id for row_id in remarks.ids if row_id not in proven]
        facts = self.facts_of_prompts() if step.on_policy else self.facts(ends, remarks.facts())
        return self.proof(builder, remarks, facts, dropped)

    def text(self, name: str, datasets: Sequence[Dataset]) -> Proof:
        """The proof of documents, whose blocks count as rows."""
        builder = ProofBuilder(name)
        remarks = Remarks(self.step, self.tokens)
        reading = self.step.reading(self.tokens, self.job, name)
        for block in read_rows(self.step, datasets, reading, remarks):
            add(builder, block)
            if len(builder.samples) < self.samples:
                text = self.tokens.template.decoded(block.columns()["input_ids"])
                builder.add_sample(block.row_id, [SamplePiece(text, loss=True)])
        end = self.tokens.tokenizer.eos_token
        facts = {
            "masking": "none: all tokens have loss, but the first of each document",
            "end of document": f"{end}, learned after every document",
        }
        return self.proof(builder, remarks, facts)

    def proof(
        self,
        builder: ProofBuilder,
        remarks: Remarks,
        facts: Mapping[str, str],
        dropped: Sequence[str] = (),
    ) -> Proof:
        """The proof of what was read. `DataError` for a row that the model's context can't hold."""
        notes = remarks.notes()
        if builder.input == "rows":
            schedule = Schedule.of(self.step, builder.examples, builder.longest, self.job)
            notes += training_notes(self.step, schedule, self.tokens)
        check_context(self.context, builder.longest, builder.input)
        return builder.proof(dropped=dropped, facts=facts, notes=notes)

    def facts(self, ends: Counter[int], covered: Mapping[str, str]) -> dict[str, str]:
        """Facts that hold for all rows, as text. covered: those about turns."""
        step = self.step
        tokenizer: Any = self.tokens.tokenizer
        names = [tokenizer.convert_ids_to_tokens(i) for i, _ in ends.most_common()]
        unit = "turn"
        masking = "by turns, each with its prompt at inference; loss only on the assistant's"
        if step.learn() is None:
            unit, masking = "row", "by prompt and completion, loss only on the completion"
        padding = "also the end of turn: masked after a row, learned within it"
        return {
            "prompt": "the exact tokens used at inference, compared in every row",
            "masking": f"{masking}; {_marks(tokenizer)}",
            **covered,
            "end of turn": f"{' or '.join(names)}, learned in every {unit}",
            "padding": f"{tokenizer.pad_token}, "
            + (padding if tokenizer.pad_token_id in ends else "masked"),
            "max_length": f"{step.max_length:,} tokens; longer rows: {step.too_long}; never "
            "truncated",
            **self.facts_of_model(),
        }

    def facts_of_prompts(self) -> dict[str, str]:
        """Facts that hold for all rows, where the model writes the answers."""
        step, tokens = self.step, self.tokens
        ends = tokens.tokenizer.convert_ids_to_tokens(sorted(tokens.ends))
        return {
            "prompt": "the exact tokens used at inference",
            "answers": "sampled from the model during the training; answers of rows aren't learned",
            "end of turn": f"{' or '.join(ends)}, as at inference",
            "max_length": f"{step.max_length:,} tokens with the longest answer; longer rows: "
            f"{step.too_long}; never truncated",
            **self.facts_of_model(),
        }

    def facts_of_model(self) -> dict[str, str]:
        """Its context, and the arguments of its template."""
        facts = {} if self.context is None else {"context": f"{self.context:,} tokens"}
        if arguments := self.tokens.template.arguments:
            texts = (f"{name}={json.dumps(value)}" for name, value in arguments.items())
            facts["template"] = ", ".join(texts)
        return facts


def _is_due(example: Proven, builder: ProofBuilder, samples: int, read: float) -> bool:
    """Whether to show an example: all parts of a row, of rows spread over all data sets.

    read: the share of rows before it.
    """
    if continues(example):
        return bool(builder.samples) and builder.samples[-1].row == example.row_id
    rows = len({sample.row for sample in builder.samples})
    return rows < samples and read * samples >= rows


def _pieces(example: Proven, tokens: Tokens) -> Iterator[SamplePiece]:
    """The text of an example, in pieces with and without loss."""
    written, text = "", tokens.template.decoded
    for prompt_ids, answer, label in example.answers():
        prompt, full_text = text(prompt_ids), text([*prompt_ids, *answer])
        if prompt.startswith(written):  # not the prompt of another answer
            yield SamplePiece(prompt[len(written) :], loss=False)
        # Decoded alone, an answer may differ: its first token may lose its leading space.
        alone = full_text[len(prompt) :] if full_text.startswith(prompt) else text(answer)
        if answer:  # else the model writes it
            yield SamplePiece(alone, loss=True, label=label)
        written = full_text


def _marks(tokenizer: Any) -> str:
    """Whether the chat template itself marks the tokens of the assistant."""
    if re.search(r"\{%[-+]?\s*generation\b", str(tokenizer.chat_template)):
        return "the generation marks of the template aren't needed"
    return "the template has no generation marks, and none are needed"
