"""What people write for `synth.raft` who come from other tools."""

from typing import Any

from finery import Hints

_VALUES = {
    "order": {
        **dict.fromkeys(("random", "shuffle", "mixed", "true"), "order: shuffled"),
        **dict.fromkeys(("retrieved", "rank", "score", "sorted", "false"), "order: ranked"),
    },
    "cite": {
        **dict.fromkeys(("quote", "both", "true"), "cite: quotes"),
        **dict.fromkeys(("number", "ids", "labels"), "cite: numbers"),
        **dict.fromkeys(("no", "off", "false"), "cite: none"),
    },
}


def _value(setting: str, value: Any) -> str | None:
    """What to write instead of a value that is no choice."""
    instead = _VALUES.get(setting, {}).get(str(value).lower())
    return f"write {instead}" if instead else None


RAFT = Hints(
    settings={
        "dataset": "rows", "questions": "rows", "documents": "index", "retriever": "index",
        "top_k": "k", "p": "oracle", "oracle_p": "oracle", "golden": "oracle",
        "template": "prompt", "shuffle": "order", "citations": "cite", "max_tokens": "limit",
        "max_context": "limit", "max_context_tokens": "limit", "token_limit": "limit",
    },
    absent={
        "model": "remove it: answers come from the rows; synth.from_docs writes them",
        "distractors": "write k: the number of chunks in a prompt, the right one included",
        "num_distractors": "write k: the number of chunks in a prompt, the right one included",
        "n": "remove it: each question makes one row",
        **dict.fromkeys(("max_characters", "max_chars"), "write limit, which is in tokens"),
    },
    value=_value,
    called=("raft", "rag", "synth.rag", "retrieve.raft"),
)  # fmt: skip
