"""Proves that vLLM uses an adapter, because it answers like the base if the adapter doesn't fit."""

from collections.abc import Callable, Sequence
from typing import Any

from finery import StepError, outside_key
from finery_vllm.bundle.adapters import MERGE

TOKENS = 4
LIKELIEST = 5
LEAST = 1e-4
"""The smallest difference of log-probabilities that counts."""
NOISE = 4.0
"""Minimum ratio of the adapter's effect to the base's own variation between two calls."""
UNLIKE = 10.0
"""Stands for the difference where the likeliest tokens have none in common."""

Ask = Callable[[dict[str, Any]], Any]
"""Sends a body to /v1/completions, and returns the answer."""


@outside_key
def prove(ask: Ask, prompts: Sequence[list[int]], *, base: str, adapter: str) -> float:
    """The largest difference of a token's log-probability between the adapter and its base.

    prompts: token ids. base, adapter: the server's names of both. `StepError` if they answer alike.
    """
    difference = noise = 0.0
    for prompt in prompts:
        own = _likelihoods(ask, base, prompt)
        noise = max(noise, _difference(own, _likelihoods(ask, base, prompt)))
        difference = max(difference, _difference(own, _likelihoods(ask, adapter, prompt)))
        if difference > max(LEAST, NOISE * noise):
            return difference
    raise StepError(
        f"vLLM answers with the adapter '{adapter}' as it does without it",
        details=[
            f"over {len(prompts)} prompts, no token's log-probability differs by more than "
            f"{difference:.1e}; between two calls of the base it differs by {noise:.1e}"
        ],
        fix=f"the adapter's layers don't fit this model in vLLM, or it learned nothing; {MERGE}",
    )


def _likelihoods(ask: Ask, name: str, prompt: list[int]) -> list[dict[str, float]]:
    """The likeliest tokens at each place of a greedy answer, with their log-probabilities."""
    answer = ask({
        "model": name, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0.0,
        "logprobs": LIKELIEST, "ignore_eos": True, "return_tokens_as_token_ids": True,
        "add_special_tokens": False,
    })  # fmt: skip
    tokens: list[dict[str, float]] = answer["choices"][0]["logprobs"]["top_logprobs"]
    return tokens


def _difference(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """The largest difference, up to the place after which the answers have different tokens."""
    largest = 0.0
    for mine, theirs in zip(one, other, strict=False):
        shared = mine.keys() & theirs.keys()
        if not shared:
            return UNLIKE
        largest = max(largest, *(abs(mine[token] - theirs[token]) for token in shared))
        if max(mine, key=mine.__getitem__) != max(theirs, key=theirs.__getitem__):
            break
    return largest
