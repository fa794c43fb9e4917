"""What people write for retrieval who come from other tools."""

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
