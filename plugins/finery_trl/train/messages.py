"""Messages of a training: about its schedule, a date in its prompts, and resources that ran out."""

import errno
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from finery import StepError, outside_key
from finery_transformers.hardware import is_out_of_memory
from finery_trl.train.saving.save import base_name
from finery_trl.train.schedule import Schedule

if TYPE_CHECKING:
    from finery_trl.rows.tokens import Tokens
    from finery_trl.settings import Training


@outside_key
def training_notes(step: "Training", schedule: Schedule, tokens: "Tokens") -> list[str]:
    """Notes on a training as a whole, whatever its rows."""
    return [*_schedule_notes(step, schedule), *_date_notes(step, tokens)]


def _schedule_notes(step: "Training", schedule: Schedule) -> list[str]:
    """Notes on settings that need more optimizer steps than the training has."""
    validates = step.validation is not None or step.watch is not None
    if not validates or step.eval_steps is None or step.eval_steps <= schedule.steps:
        return []
    return [
        f"eval_steps is {step.eval_steps}, but the training has {schedule.steps} optimizer steps: "
        "its only validation is at the end"
    ]


def _date_notes(step: "Training", tokens: "Tokens") -> list[str]:
    """A note on a chat template that writes today's date."""
    from finery_transformers.dates import writes_date

    date = writes_date(tokens.tokenizer, tokens.arguments)
    if date is None:
        return []
    name = base_name(step.model)
    whose = f"the chat template of {name}" if name else "the model's chat template"
    fix = (
        f"`chat_template_kwargs: {{{date.argument}: {json.dumps(date.today)}}}`"
        if date.argument
        else "`chat_template: ./chat.jinja`, a copy of the template with a fixed date,"
    )
    return [
        f"{whose} writes today's date ({date.today}) in prompts: the model learns the day of its "
        f"training and is used on others, and a training on another day differs. Set {fix} on the "
        "model to write the same date everywhere"
    ]


@outside_key
def exhaustion(error: Exception, step: "Training", schedule: Schedule) -> StepError | None:
    """The error to show if memory or disk space ran out, None for any other error."""
    text = str(error).strip()
    if is_out_of_memory(error):
        return StepError(
            f"not enough memory for {schedule.size} rows of up to {schedule.longest} tokens at "
            "once",
            details=text.splitlines()[:1],
            fix=_less_memory(step, schedule.size),
        )
    if any(map(_lacks_space, _chain(error))):
        return StepError(
            "no disk space left for a checkpoint",
            where=str(schedule.folder),
            fix="free some space and build again: the training continues from its last checkpoint",
        )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those during whose handling it was raised."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _lacks_space(error: BaseException) -> bool:
    # The file writer of torch has no exception class of its own; the second text follows the first
    # one, and sometimes comes alone (the disk is full when a file is closed).
    text = str(error)
    written = "file write failed" in text or "unexpected pos" in text
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or written


def _less_memory(step: "Training", size: int) -> str:
    ways = [f"per_device_train_batch_size: {size // 2}"] if size > 1 else []
    ways += [] if step.gradient_checkpointing else ["gradient_checkpointing: true"]
    ways += ["quantization: nf4"] if step.lora and step.quantization is None else []
    ways += [] if step.lora else ["an adapter instead of all weights (lora: {})"]
    return ", or ".join([*ways, "a lower max_length", "a smaller model"])
