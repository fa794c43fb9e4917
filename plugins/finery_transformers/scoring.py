"""The likelihood of given answers under a model, computed with transformers."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from finery import Model, StepError
from finery.rows import Conversation
from finery_transformers.hardware import exhausted, explained

if TYPE_CHECKING:
    import torch

BATCH_TOKENS = 4096
"""Limit of sequences × longest sequence of a batch."""
LOGITS = 2**25
"""Limit of the logits that are computed at once: 128 MiB in fp32, and their log-probabilities as
many again. All of a batch would be 2.5 GB with a vocabulary of 152,000."""


class Likelihood(NamedTuple):
    """The sum of the natural log-probabilities of an answer's tokens, and their number."""

    logprob: float
    tokens: int

    @property
    def a_token(self) -> float:
        """The mean log-probability of a token."""
        return self.logprob / self.tokens


class TextLikelihood(NamedTuple):
    """The sum of the natural log-probabilities of a text's tokens, their number, and their bytes.

    The first token isn't among them, unless the tokenizer puts a special token before it.
    """

    logprob: float
    tokens: int
    bytes: int


def text_likelihoods(
    model: Model, texts: Sequence[str], progress: Callable[[int, int], None]
) -> list[TextLikelihood]:
    """The likelihood of each text without a chat template, in order.

    The bytes make models with different tokenizers comparable. progress: called with (done, total).
    Raises `StepError` for a text with fewer than two tokens.
    """
    from finery_transformers.loading import load_tokenizer

    tokenizer = load_tokenizer(model)
    rows = [_text_in_tokens(tokenizer, text) for text in texts]
    scores = _score_rows(model, [(1, ids) for ids, _ in rows], progress)
    return [
        TextLikelihood(score.logprob, score.tokens, size)
        for score, (_, size) in zip(scores, rows, strict=True)
    ]


def _text_in_tokens(tokenizer: Any, text: str) -> tuple[list[int], int]:
    """(token ids, bytes after the first of them) of a text."""
    ids: list[int] = tokenizer(text)["input_ids"]
    while ids and ids[-1] in tokenizer.all_special_ids:
        ids.pop()
    if len(ids) < 2:
        raise StepError(
            "a text has fewer than two tokens, so it has no likelihood",
            details=[text[:100]],
            fix="use a longer text",
        )
    special = ids[0] in tokenizer.all_special_ids
    before = "" if special else tokenizer.decode(ids[:1])
    return ids, len(text.encode()) - len(before.encode())


def likelihoods(
    model: Model,
    answered: Sequence[tuple[Conversation, Conversation, Sequence[Mapping[str, Any]] | None]],
    progress: Callable[[int, int], None],
) -> list[Likelihood]:
    """The likelihood of each completion after its prompt, end of turn included, in order.

    answered: (prompt, completion, tools or None) each. progress: called with (done, total).
    Raises `StepError` if the chat template writes a prompt differently once it is answered.
    """
    return _score_rows(model, _in_tokens(model, answered), progress)


def _score_rows(
    model: Model, rows: Sequence[tuple[int, list[int]]], progress: Callable[[int, int], None]
) -> list[Likelihood]:
    """The likelihood of each row. rows: (tokens of the prompt, token ids of all)."""
    from finery_transformers.loading import load_model, to_device

    loaded: Any = load_model(model)
    to_device(loaded)
    scored: dict[int, Likelihood] = {}
    for batch in _batches([len(whole) for _, whole in rows]):
        scored.update(zip(batch, _score(loaded, [rows[i] for i in batch]), strict=True))
        progress(len(scored), len(rows))
    return [scored[i] for i in range(len(rows))]


def _in_tokens(model: Model, answered: Sequence[Any]) -> list[tuple[int, list[int]]]:
    """(tokens of the prompt, token ids of all) of each."""
    from finery_transformers.chat import PromptDiffers
    from finery_transformers.loading import load_template

    template = load_template(model)
    ends = template.ends_of_turn()
    rows = []
    for prompt, completion, tools in answered:
        try:
            asked, whole = template.row_tokens(prompt, completion, ends, tools)
        except PromptDiffers as error:
            raise _unscorable(completion, error.fix or "") from error
        if len(whole) == len(asked):
            raise _unscorable(completion, "remove empty answers")
        rows.append((len(asked), whole))
    return rows


def _unscorable(completion: Conversation, fix: str) -> StepError:
    return StepError(
        "an answer can't be scored after its prompt",
        details=[str(m.get("content"))[:100] for m in completion],
        fix=fix,
    )


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of rows of similar length, longest first."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches


def _score(model: Any, rows: Sequence[tuple[int, list[int]]]) -> list[Likelihood]:
    import torch

    longest = max(len(whole) for _, whole in rows)
    device = model.device
    ids = torch.tensor([w + [0] * (longest - len(w)) for _, w in rows], device=device)
    mask = torch.tensor([[1] * len(w) + [0] * (longest - len(w)) for _, w in rows], device=device)
    first = min(asked for asked, _ in rows) - 1  # the position that predicts the first answer token
    purpose = f"to score {len(rows)} answers of up to {longest} tokens at once, prompts included"
    fix = "use shorter rows or a smaller model"
    with torch.no_grad(), explained(lambda error: exhausted(error, purpose, fix)):
        chosen = _log_probs(model, ids, mask, first).double().cpu()
    scores = []
    for (asked, whole), row in zip(rows, chosen, strict=True):
        part = row[asked - first - 1 : len(whole) - first - 1]
        scores.append(Likelihood(float(part.sum()), len(part)))
    return scores


def _log_probs(model: Any, ids: "torch.Tensor", mask: "torch.Tensor", first: int) -> "torch.Tensor":
    """Log-probabilities of the tokens after position `first`: rows × such tokens.

    The logits are computed for some positions at a time, since those of all may need more memory
    than the model.
    """
    import torch

    targets = ids[:, first + 1 :]
    kept: list[Any] = []  # the input of the output layer: rows × tokens × features
    hook = model.base_model.register_forward_hook(lambda module, _, output: kept.append(output[0]))
    try:
        model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
    finally:
        hook.remove()
    hidden = kept[0][:, first:-1]
    width = max(1, LOGITS // (len(ids) * model.config.get_text_config().vocab_size))
    parts = []
    for start in range(0, targets.shape[1], width):
        part = slice(start, start + width)
        log_probs = _logits(model, hidden[:, part]).float().log_softmax(-1)
        parts.append(log_probs.gather(-1, targets[:, part, None])[..., 0])
    return torch.cat(parts, dim=1)


def _logits(model: Any, hidden: "torch.Tensor") -> "torch.Tensor":
    """The logits at these positions.

    The model itself computes them, since some scale or cap its output layer's. Only the layers
    before that are left out.
    """
    from transformers.modeling_outputs import MoeModelOutputWithPast

    backbone = model.base_model
    backbone.forward = lambda *_, **__: MoeModelOutputWithPast(last_hidden_state=hidden)
    try:
        logits: torch.Tensor = model(inputs_embeds=hidden, use_cache=False).logits
        return logits
    finally:
        del backbone.forward
