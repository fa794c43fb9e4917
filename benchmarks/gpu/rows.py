"""Rows of random words, always the same, whose number of tokens is known about beforehand."""

import json
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

Row = dict[str, Any]
TEMPLATE_TOKENS = 10
"""Of ChatML around a prompt and an answer."""


def words() -> list[str]:
    """Words of 2 and 3 letters: with a space, 3.5 characters a token, which a plan assumes."""
    short = ["".join(pair) for pair in product("bdfgkmnprst", "aeiou")]
    return [*short, *(f"{word}{end}" for word in short[::2] for end in "ln")]


def answer_rows(number: int, tokens: int, seed: int = 0) -> list[Row]:
    """Prompts and completions of about so many tokens together, a quarter of them to learn."""
    draw = random.Random(seed)
    answer = max(2, tokens // 4)
    return [
        {
            "prompt": _text(draw, max(4, tokens - answer - TEMPLATE_TOKENS)),
            "completion": _text(draw, answer),
        }
        for _ in range(number)
    ]


def preference_rows(number: int, tokens: int) -> list[Row]:
    """Rows with a chosen and a rejected answer of equal length."""
    rows, other = answer_rows(number, tokens), answer_rows(number, tokens, seed=1)
    return [
        {"prompt": a["prompt"], "chosen": a["completion"], "rejected": b["completion"]}
        for a, b in zip(rows, other, strict=True)
    ]


def rated_rows(number: int, tokens: int) -> list[Row]:
    """Rows with an answer that is good in every second one."""
    rows = answer_rows(number, tokens)
    return [{**row, "label": index % 2 == 0} for index, row in enumerate(rows)]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write them as JSON lines."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _text(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(words(), k=count))
