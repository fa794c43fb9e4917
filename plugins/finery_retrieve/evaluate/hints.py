"""What people write for the evaluators of retrieval who come from other tools."""

from finery import Hints

_METRICS = 'remove it: all metrics are computed; require: {NAME.METRIC: ">= 0.85"} checks one'
_ABSENT = {"metric": _METRICS, "metrics": _METRICS}
RETRIEVAL = Hints(
    settings={
        "index": "indices", "retriever": "indices", "retrievers": "indices", "dataset": "rows",
        "questions": "rows", "queries": "rows", "top_k": "k", "cutoffs": "k", "gate": "require",
    },
    absent=_ABSENT,
    called=("retriever", "recall", "mrr", "ndcg", "eval.retriever", "eval.recall"),
)  # fmt: skip
CHECK = Hints(
    settings={
        "model": "models", "dataset": "rows", "questions": "rows", "app": "bundle",
        "gate": "require", "max_new_tokens": "max_tokens",
    },
    absent=_ABSENT,
    called=("eval.app", "app.check"),
)  # fmt: skip
GROUNDED = Hints(
    settings={
        "model": "models", "dataset": "rows", "questions": "rows", "top_k": "k",
        "retriever": "index", "conditions": "contexts", "template": "prompt", "gate": "require",
        "max_new_tokens": "max_tokens", "temp": "temperature", "max_context": "limit",
        "max_context_tokens": "limit", "token_limit": "limit",
    },
    absent=_ABSENT
    | dict.fromkeys(("max_characters", "max_chars"), "write limit, which is in tokens"),
    called=("rag", "faithfulness", "groundedness", "eval.rag", "eval.raft", "eval.faithfulness"),
)  # fmt: skip
