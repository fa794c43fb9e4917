"""The teacher of a distillation: its prompts, and whether it fits the model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finery import DataError, Model
from finery.rows import Row, Turns
from finery_local.facts import ModelFiles
from finery_prompt.engine import FixedMessages
from finery_trl.model.loading import compute_dtype
from finery_trl.rows.tokens import Tokens

if TYPE_CHECKING:
    from finery_trl.on_policy import Distill

FORMATS = ("transformers", "adapter", "gguf")
OFF_POLICY = "or let the teacher write answers (synth.answer), and learn them with trl.sft"


class Teacher:
    """A teacher, with the messages that it gets before each prompt.

    Raises `DataError` for a teacher without weights, for the model itself without messages, and for
    one with another vocabulary or other ends of turn than the model.
    """

    def __init__(self, step: "Distill", student: Tokens) -> None:
        self._step = step
        self._fixed: list[FixedMessages] = []  # the outermost first
        model = step.teacher
        while model.format == "prompted":
            self._fixed.append(FixedMessages(model))
            under = model.refs["model"]
            assert isinstance(under, Model)
            model = under
        if model.format not in FORMATS:
            raise DataError(
                f"a model of the format {model.format} can't teach: the training compares the "
                "probabilities of all tokens, which need its weights",
                where="teacher",
                fix=f"use a model with weights, {OFF_POLICY}",
            )
        self._model = model
        self._tokens = Tokens.of_model(model)
        self._check_tokens(student)

    def prompts(self, rows: Sequence[Row]) -> list[list[int]]:
        """The tokens of each row's prompt as the teacher gets it.

        Raises `DataError` if the longest has no room for an answer in the teacher's context.
        """
        prompts = [self._prompt(row) for row in rows]
        context, room = ModelFiles(self._model).context, self._step.max_completion_length
        longest = max(map(len, prompts))
        if context is not None and longest + room > context:
            raise DataError(
                f"the longest prompt of the teacher has {longest:,} tokens, and with an answer of "
                f"{room:,} more than the teacher's context of {context:,}",
                where="teacher",
                fix="shorten the teacher's system prompt or examples, or lower "
                "max_completion_length",
            )
        return prompts

    def load(self) -> Any:
        """The transformers model, in the dtype of the computation."""
        from finery_transformers.loading import load_model

        return load_model(self._model, compute_dtype(self._step))

    def check_size(self, student: Any, teacher: Any) -> None:
        """Raise `DataError` if the output layers of the loaded models differ in size."""
        sizes = [m.config.get_text_config().vocab_size for m in (student, teacher)]
        if sizes[0] != sizes[1]:
            raise DataError(
                f"the output layers differ in size: {sizes[0]:,} tokens of the model, and "
                f"{sizes[1]:,} of the teacher",
                where="teacher",
                fix=f"use a teacher with an output layer of the same size, {OFF_POLICY}",
            )

    def _prompt(self, row: Row) -> list[int]:
        messages = Turns.of(row).prompt
        for fixed in self._fixed:
            messages = fixed.before(messages)
        return self._tokens.template.prompt_tokens(messages, row.get("tools"))

    def _check_tokens(self, student: Tokens) -> None:
        ours, theirs = (t.tokenizer.get_vocab() for t in (student, self._tokens))
        if ours != theirs:
            differing = len({*ours.items()} ^ {*theirs.items()})
            raise DataError(
                f"the teacher has another vocabulary than the model: {len(theirs):,} tokens "
                f"instead of {len(ours):,}, of which {differing:,} differ",
                where="teacher",
                fix=f"use a teacher of the same family, {OFF_POLICY}",
            )
        if student.ends != self._tokens.ends:
            ends = [
                " or ".join(student.tokenizer.convert_ids_to_tokens(sorted(tokens.ends)))
                for tokens in (student, self._tokens)
            ]
            raise DataError(
                f"the model ends its answers with {ends[0]}, and the teacher with {ends[1]}, so "
                "the model would learn not to stop",
                where="teacher",
                fix="give both the same chat template, with chat_template: in their steps",
            )
