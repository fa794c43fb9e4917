"""What people write for retrieval who come from other tools."""

from typing import Any

from finery import Hints

_APPROXIMATE = "remove it: embeddings are compared exactly"
INDEX = Hints(
    settings={
        **dict.fromkeys(("chunks", "documents", "docs", "data", "dataset", "corpus"), "rows"),
        **dict.fromkeys(("column", "text_column", "field", "content"), "text"),
        **dict.fromkeys(("type", "retriever", "search", "mode", "kind"), "method"),
        **dict.fromkeys(("model", "embedding", "embeddings", "embedding_model"), "embedder"),
        "k1": "bm25.k1",
        "b": "bm25.b",
        "delta": "bm25.delta",
        **dict.fromkeys(("language", "stemmer", "stopwords"), "bm25.language"),
        **dict.fromkeys(("count_tokens", "tokens", "tokenizer_model"), "tokenizer"),
    },
    absent={
        **dict.fromkeys(("chunk", "chunk_size", "overlap", "path"), "set it in docs.files"),
        **dict.fromkeys(("top_k", "k"), "set k in retrieve.rows and retrieve.model"),
        **dict.fromkeys(("limit", "max_tokens"), "set limit in retrieve.rows and retrieve.model"),
        **dict.fromkeys(("ann", "hnsw", "faiss", "nlist", "ef"), _APPROXIMATE),
    },
    called=("bm25", "index", "vector_store", "vectorstore", "retriever", "rag.index", "faiss"),
)
_CHARACTERS = dict.fromkeys(("max_characters", "max_chars"), "write limit, which is in tokens")
_CONTEXT = {
    **dict.fromkeys(("top_k", "n", "hits"), "k"),
    **dict.fromkeys(("retriever", "documents", "docs", "store"), "index"),
    **dict.fromkeys(("template", "prompt_template"), "prompt"),
    **dict.fromkeys(("max_tokens", "max_context", "max_context_tokens", "token_limit"), "limit"),
    **dict.fromkeys(("no_answer", "fallback", "refusal"), "unknown"),
}
ROWS = Hints(
    settings={**_CONTEXT, **dict.fromkeys(("data", "dataset", "questions"), "rows")},
    absent=_CHARACTERS,
    called=("retrieve", "rag.rows", "retrieve.context"),
)
MODEL = Hints(
    settings={**_CONTEXT, **dict.fromkeys(("base", "llm"), "model")},
    absent=_CHARACTERS,
    called=("rag", "rag.model", "retrieval"),
)
API = Hints(
    settings={
        **dict.fromkeys(("name", "embedding_model"), "model"),
        **dict.fromkeys(("url", "server", "api_base", "endpoint"), "base_url"),
        **dict.fromkeys(("key", "api_key_env"), "api_key"),
        **dict.fromkeys(("batch_size",), "batch"),
    },
    called=("embeddings", "openai.embeddings", "openai.embedding", "retrieve.openai"),
)
EMBEDDER = Hints(
    settings=dict.fromkeys(("folder", "dir", "model", "model_path"), "path"),
    called=("sentence_transformers", "sentence-transformers", "embedder", "embedding"),
)


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
