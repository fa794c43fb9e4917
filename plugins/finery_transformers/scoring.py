"""The likelihood of given answers under a model, computed with transformers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from finery import Model, StepError
from finery.rows import Conversation

BATCH_TOKENS = 4096
"""Limit of sequences × longest sequence of a batch."""


class Likelihood(NamedTuple):
    """The sum of the natural log-probabilities of an answer's tokens, and their number."""

    logprob: float
    tokens: int

    @property
    def a_token(self) -> float:
        """The mean log-probability of a token."""
        return self.logprob / self.tokens


def likelihoods(
    model: Model,
    answered: Sequence[tuple[Conversation, Conversation, Sequence[Mapping[str, Any]] | None]],
    progress: Callable[[int, int], None],
) -> list[Likelihood]:
    """The likelihood of each completion after its prompt, end of turn included, in order.

    answered: (prompt, completion, tools or None) each. progress: called with (done, total).
    Raises `StepError` if the chat template writes a prompt differently once it is answered.
    """
    import torch

    from finery_transformers.loading import load_model

    rows = _in_tokens(model, answered)
    loaded: Any = load_model(model)
    loaded.to("cuda" if torch.cuda.is_available() else "cpu")
    scored: dict[int, Likelihood] = {}
    for batch in _batches([len(whole) for _, whole in rows]):
        values = _score(loaded, [rows[i] for i in batch])
        scored.update(zip(batch, values, strict=True))
        progress(len(scored), len(rows))
    return [scored[i] for i in range(len(rows))]


def _in_tokens(model: Model, answered: Sequence[Any]) -> list[tuple[int, list[int]]]:
    """(tokens of the prompt, token ids of all) of each."""
    from finery_transformers.chat import PromptDiffers, end_of_turn, row_tokens
    from finery_transformers.loading import load_tokenizer, template_arguments

    tokenizer, arguments = load_tokenizer(model), template_arguments(model)
    ends = end_of_turn(tokenizer, arguments)
    rows = []
    for prompt, completion, tools in answered:
        try:
            asked, whole = row_tokens(
                tokenizer, prompt, completion, ends, tools=tools, arguments=arguments
            )
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
    with torch.no_grad():
        # The model keeps the logits of the last positions, counted from the end.
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=longest - first).logits
        logprobs = logits[:, :-1].float().log_softmax(-1)
    chosen = logprobs.gather(-1, ids[:, first + 1 :, None])[..., 0].double()
    scores = []
    for (asked, whole), row in zip(rows, chosen, strict=True):
        part = row[asked - first - 1 : len(whole) - first - 1]
        scores.append(Likelihood(float(part.sum()), len(part)))
    return scores
