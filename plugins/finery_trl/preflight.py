"""What a training would learn, shown: rows in tokens as a `Proof`."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from finery import (
    DataError,
    Dataset,
    FineryError,
    Job,
    Model,
    Piece,
    Preflight,
    Proof,
    Sample,
    Tally,
)
from finery.rows import Row
from finery_trl.model.targets import check_targets
from finery_trl.rows.control import Control
from finery_trl.rows.pairs import Pair, Rating
from finery_trl.rows.tokens import Example, Tokens
from finery_trl.train.plan import Plan
from finery_trl.train.watch import check_watched

if TYPE_CHECKING:
    from finery_trl.settings import Proven, Training

EVERY = 500
"""Rows between two reports of progress."""


class _Answer(NamedTuple):
    """A prompt and one answer to it, in tokens, as they are trained on."""

    prompt: Sequence[int]
    answer: Sequence[int]
    label: str = ""


class TrainingPreflight(Preflight["Training"]):
    """Rows in tokens, proven as the training itself will prove them."""

    def prove(self, job: Job, samples: int) -> list[Proof]:
        """A `Proof` of each data set."""
        return prove(self.step, job, samples)


def prove(step: "Training", job: Job, samples: int) -> list[Proof]:
    """A proof of each data set that a training takes, made as the training itself reads them.

    Of `step.model` only tokenizer, chat template and configuration are read. Raises what
    `step.read` raises for rows that can't be learned, and `DataError` where rows don't fit the
    model's context; of several data sets all errors together.
    """
    from finery import raise_all
    from finery_transformers.loading import load_tokenizer, template_arguments

    tokens = Tokens.of(load_tokenizer(step.model), template_arguments(step.model))
    context = context_of(step.model)
    inputs = {"rows": step.rows}
    if step.validation is not None:
        inputs["validation"] = [step.validation]
    proofs: list[Proof] = []
    errors: list[FineryError] = []
    for name, datasets in inputs.items():
        try:
            proofs.append(_prove(step, name, datasets, tokens, context, job, samples))
        except FineryError as error:
            errors.append(error)
    for check in (step.check, lambda: check_targets(step), lambda: check_watched(step, job)):
        try:
            check()
        except FineryError as error:
            errors.append(error)
    raise_all(errors)
    return proofs


def count(name: str, rows: "Iterable[Proven]") -> Proof:
    """Only the counts, of rows that are read already: what a training's log says of them."""
    tally = Tally()
    for row in rows:
        _add(row, _answers(row), tally)
    return tally.proof(name)


def _add(row: "Proven", answers: "Sequence[_Answer]", tally: Tally) -> None:
    tokens = sum(len(a.prompt) + len(a.answer) for a in answers)
    tally.add(row.size, row.loss_tokens, tokens)


def _prove(
    step: "Training",
    name: str,
    datasets: Sequence[Dataset],
    tokens: Tokens,
    context: int | None,
    job: Job,
    samples: int,
) -> Proof:
    seen: list[str] = []
    kept: set[str] = set()
    tally, ends, shown = Tally(), Counter[int](), list[Sample]()
    total = sum(len(dataset) for dataset in datasets)
    control = Control(tokens.tokenizer)
    rows = control.watch(_watched(datasets, seen, total, job))
    for row in step.read(rows, tokens, job, name):
        answers = _answers(row)
        # Spread over the rows: those of several data sets come one after the other.
        if len(shown) < samples and len(tally) * samples >= len(shown) * total:
            shown.append(_sample(row.row_id, answers, tokens))
        _add(row, answers, tally)
        ends.update(a.answer[-1] for a in answers)
        kept.add(row.row_id)
    dropped = [i for i in seen if i not in kept]
    facts = _facts(step, tokens, ends, context)
    notes = control.notes()
    if name == "rows":
        notes += Plan.of(step, len(tally), tally.longest, job).notes(step)
    proof = tally.proof(name, dropped=dropped, facts=facts, notes=notes, samples=shown)
    if context is not None and proof.longest > context:
        raise DataError(
            f"{name}: the longest row has {proof.longest} tokens, more than the model's context "
            f"of {context}",
            fix=f"max_length: {context}, and too_long: drop to leave such rows out",
        )
    return proof


def _watched(datasets: Sequence[Dataset], seen: list[str], total: int, job: Job) -> Iterator[Row]:
    """The rows, one by one; their ids are added to `seen`."""
    for dataset in datasets:
        for row in dataset:
            seen.append(row["id"])
            if len(seen) % EVERY == 0:
                job.progress(len(seen), total, "reading rows")
            yield row


def _answers(row: Any) -> list[_Answer]:
    """What is trained on of a row, whichever kind of training it is for."""
    match row:
        case Example():
            return [_Answer(*row.cut())]
        case Pair():
            return [
                _Answer(row.prompt, row.chosen, "chosen"),
                _Answer(row.prompt, row.rejected, "rejected"),
            ]
        case Rating():
            rated = "desirable" if row.desirable else "undesirable"
            return [_Answer(row.prompt, row.completion, rated)]
    raise TypeError(f"no answers are known of {type(row).__name__}")


def _sample(row_id: str, answers: Sequence[_Answer], tokens: Tokens) -> Sample:
    prompt = _text(answers[0].prompt, tokens)
    pieces = [Piece(prompt, loss=False)]
    for prompt_ids, answer, label in answers:
        whole = _text([*prompt_ids, *answer], tokens)
        # The text of tokens by themselves may differ: the first may lose its space.
        alone = whole[len(prompt) :] if whole.startswith(prompt) else _text(answer, tokens)
        pieces.append(Piece(alone, loss=True, label=label))
    return Sample(row_id, pieces)


def _text(ids: Sequence[int], tokens: Tokens) -> str:
    decode: Any = tokens.tokenizer.decode
    text: str = decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _facts(
    step: "Training", tokens: Tokens, ends: Counter[int], context: int | None
) -> dict[str, str]:
    """What holds for all rows, in words."""
    tokenizer: Any = tokens.tokenizer
    names = [tokenizer.convert_ids_to_tokens(i) for i, _ in ends.most_common()]
    padding = "the end of turn too: masked behind a row, learned in it"
    facts = {
        "prompt": "token for token what the model will be asked, compared in every row",
        "masking": f"by prompt and completion, loss on the completion alone; {_marks(tokenizer)}",
        "end of turn": f"{' or '.join(names)}, learned in every row",
        "padding": f"{tokenizer.pad_token}, "
        + (padding if tokenizer.pad_token_id in ends else "masked"),
        "max_length": f"{step.max_length:,} tokens; longer rows: {step.too_long}; none is cut",
    }
    if context is not None:
        facts["context"] = f"{context:,} tokens"
    if tokens.arguments:
        facts["template"] = ", ".join(
            f"{name}={json.dumps(value)}" for name, value in tokens.arguments.items()
        )
    return facts


def _marks(tokenizer: Any) -> str:
    """Whether the chat template marks the assistant's tokens itself."""
    if re.search(r"\{%[-+]?\s*generation\b", str(tokenizer.chat_template)):
        return "the template's generation marks aren't needed"
    return "the template has no generation marks, and none are guessed"


def context_of(model: Model) -> int | None:
    """The longest sequence that a model takes, in tokens; None where it doesn't say."""
    if model.format == "adapter":
        from finery_transformers.loading import base_of

        return context_of(base_of(model))
    if model.format == "gguf":
        return _gguf_context(model)
    path = model.file("config.json")
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    text = config.get("text_config", config)  # of models that see, too
    found = text.get("max_position_embeddings")
    return found if isinstance(found, int) else None


def _gguf_context(model: Model) -> int | None:
    from finery_local.gguf_header import read_header

    values = read_header(model.file(str(model.meta["file"]))).values
    context = values.get(f"{model.meta.get('architecture')}.context_length")
    return context if isinstance(context, int) else None
