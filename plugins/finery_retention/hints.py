"""What people write for `eval.retention` who come from other tools."""

from finery import Hints

RETENTION = Hints(
    settings={
        "model": "models", "benchmarks": "tasks", "benchmark": "tasks", "task": "tasks",
        "file": "text", "corpus": "text", "perplexity": "text", "num_fewshot": "shots",
        "fewshot": "shots", "limit": "items", "samples": "items", "max_new_tokens": "max_tokens",
        "tolerance": "margin", "threshold": "require", "gate": "require",
    },
    absent={
        "rows": "remove it: the items are generated; `text` names a text of your own",
        "batch_size": "remove it: the engine chooses the batch size",
    },
    called=("forgetting", "perplexity", "eval.perplexity", "eval.forgetting", "eval.general"),
)  # fmt: skip
