"""What people write for `synth.raft` who come from other tools."""

from finery import Hints

RAFT = Hints(
    settings={
        "dataset": "rows", "questions": "rows", "documents": "index", "retriever": "index",
        "top_k": "k", "p": "oracle", "oracle_p": "oracle", "golden": "oracle",
        "template": "prompt", "shuffle": "order", "citations": "cite",
    },
    absent={
        "model": "remove it: answers come from the rows; synth.from_docs writes them",
        "distractors": "write k: the number of chunks in a prompt, the right one included",
        "num_distractors": "write k: the number of chunks in a prompt, the right one included",
        "n": "remove it: each question makes one row",
    },
    called=("raft", "rag", "synth.rag", "retrieve.raft"),
)  # fmt: skip
