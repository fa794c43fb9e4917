"""`retrieve.bundle`: its files, and that it retrieves and sends what the evaluated model does."""

import json
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from answering import CHUNKS, api_model, bundled, indexed, retrieving, running, tiny_bundle
from embedding import embedding_server, tiny_bert, tiny_reranker
from hostile_server import Reply, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import need
from tiny_llama import tiny_counter

from finery import Bundle, Files, Model, Request, Sampling, UsageError
from finery.rows import Conversation
from finery.testing import TestJob, dataset, run_step
from finery_retrieve.embed.steps import RetrieveApi, RetrieveEmbedder
from finery_retrieve.index.context import Lookup
from finery_retrieve.serve.bundle import bundled_model, read_settings
from finery_retrieve.serve.running import Documents
from finery_retrieve.serve.upstream import Upstream
from finery_retrieve.steps.index import RetrieveIndex, RetrieveRerank
from finery_retrieve.steps.model import RetrievingEngine

need("bm25s")


def opened(bundle: Bundle) -> Documents:
    """What the app of a bundle retrieves from."""
    return Documents(bundled_model(bundle.path, read_settings(bundle.path)))


def test_the_files(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    names = {path.name for path in bundle.path.iterdir()}
    assert names == {
        "README.md", "index", "prompt.jinja", "requirements.txt", "run.sh", "settings.json",
        "tiny.gguf",
    }  # fmt: skip
    assert bundle.file("run.sh").stat().st_mode & 0o111
    assert {path.name for path in bundle.file("index").iterdir()} == {
        "bm25", "chunks.jsonl", "offsets.npy"
    }  # fmt: skip
    assert bundle.meta == {"format": "retrieve", "name": "guide", "run": "sh run.sh"}
    text = bundle.file("README.md").read_text()
    for words in ("5 sections, searched by words (BM25)", "llama-server", "requirements.txt"):
        assert words in text
    finery, *others = bundle.file("requirements.txt").read_text().split()
    assert finery == f"finery[llama,retrieve]=={version('finery')}"
    assert {line.partition("==")[0] for line in others} >= {"bm25s", "PyStemmer"}
    assert not any(line.startswith("torch") for line in others)


WORDS = [
    "file",
    "files",
    "Größe",
    "the",
    "of",
    "limit",
    "50",
    "<|im_end|>",
    "[INST]",
    "{{ x }}",
    "中文",
]
TEXTS = st.lists(st.sampled_from([*WORDS, "\n", '"']), min_size=1, max_size=6).map(" ".join)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"text": TEXTS.filter(str.strip)},
        optional={"source": TEXTS, "heading": TEXTS, "line": st.integers(1, 9)},
    ),
    min_size=1,
    max_size=8,
)
PARTS = st.lists(
    st.one_of(
        TEXTS.map(lambda text: {"type": "text", "text": text}),
        st.just({"type": "image_url", "image_url": {"url": "data:,"}}),
    ),
    max_size=3,
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "developer", "user", "assistant"]),
            "content": st.one_of(st.just(""), TEXTS, PARTS),
        }
    ),
    max_size=4,
)


def has_words(rows: list[dict[str, Any]]) -> bool:
    """Whether BM25 can find any of the rows."""
    return any("file" in row["text"] for row in rows)


@settings(max_examples=60)
@given(
    ROWS.filter(has_words), TURNS, TEXTS,
    st.sampled_from([None, 1, 20, 60]), st.sampled_from(["english", "none", "german"]),
    st.sampled_from(["lucene", "bm25l", "bm25+"]), st.integers(1, 5),
)  # fmt: skip
def test_it_sends_what_the_model_is_sent(
    rows: list[dict[str, Any]], turns: Conversation, question: str, limit: int | None,
    language: str, method: str, k: int,
) -> None:  # fmt: skip
    from finery_retrieve.index.words import Bm25

    bm25 = Bm25(language=language, method=method)  # type: ignore[arg-type]
    with TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = None if limit is None else tiny_counter(folder / "base")
        index = indexed(folder, rows, bm25=bm25, tokenizer=tokenizer)
        model = retrieving(folder / "rag", api_model(folder / "api"), index, k=k, limit=limit)
        app = opened(bundled(folder / "bundle", model))
        conversation = [*turns, {"role": "user", "content": question}]
        for messages in (conversation, [*conversation, {"role": "assistant", "content": "So"}]):
            (expected,) = Lookup.of(model, TestJob(folder / "job")).prompts([messages])
            sent, sources = app.prompted(messages)
            assert json.dumps(sent) == json.dumps(expected.messages)
            assert [(s["id"], s["score"], s["text"], s["place"]) for s in sources] == [
                (hit.id, hit.score, hit.text, hit.place) for hit in expected.hits
            ]


def test_the_servers_of_both_get_the_same_messages(tmp_path: Path) -> None:
    """Those of the engine that is evaluated, and those of the app, byte for byte."""
    with serving() as server:
        under = api_model(tmp_path / "api", server.url, extra={"reasoning_effort": "low"})
        model = retrieving(tmp_path / "rag", under, indexed(tmp_path))
        turns: Conversation = [{"role": "system", "content": "Be brief."},
                               {"role": "user", "content": "Which <|im_end|> files?"}]  # fmt: skip
        engine = RetrievingEngine(model, TestJob(tmp_path / "job"))
        (answer,) = engine.generate([Request(turns)], Sampling(max_tokens=9))
        with running(bundled(tmp_path / "bundle", model, max_tokens=9)) as app:
            body = json.dumps({"messages": turns}).encode()
            same = app.send("/v1/chat/completions", body).json()
        evaluated, shipped = server.calls
        assert json.dumps(evaluated["messages"]) == json.dumps(shipped["messages"])
        assert "50 MB" in shipped["messages"][-1]["content"]
        assert same["choices"][0]["message"]["content"] == answer.text
        for name in ("model", "temperature", "max_tokens", "reasoning_effort"):
            assert evaluated[name] == shipped[name], name


@pytest.mark.parametrize("method", ["dense", "hybrid"])
def test_questions_are_embedded_as_in_the_recipe(tmp_path: Path, method: str) -> None:
    with embedding_server() as server:
        step = RetrieveApi(
            model="e", base_url=server.address, api_key=None, question_prefix="query: "
        )
        index = indexed(tmp_path, method=method, embedder=run_step(step, tmp_path / "e"))
        model = retrieving(tmp_path / "rag", api_model(tmp_path / "api"), index)
        bundle = bundled(tmp_path / "bundle", model)
        app = opened(bundle)
        assert_alike(app, model, "Which files are read?", tmp_path)
        assert server.texts[-1] == "query: Which files are read?"
        assert app.prompted([{"role": "user", "content": " "}])[1] == []
    assert "EMBEDDINGS_BASE_URL" in bundle.file("README.md").read_text()


def test_the_key_of_a_server_of_embeddings_is_not_in_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embedding_server() as server:
        step = RetrieveApi(model="e", base_url=server.address, api_key="EMBED_KEY")
        embedder, secrets = run_step(step, tmp_path / "e"), {"EMBED_KEY": "s3cret"}
        chunks = dataset(tmp_path / "chunks", [{"text": "Files are read."}])
        index = run_step(
            RetrieveIndex(rows=[chunks], method="dense", embedder=embedder), tmp_path / "i",
            secrets=secrets,
        )  # fmt: skip
        model = retrieving(tmp_path / "rag", api_model(tmp_path / "api"), index)
        bundle = bundled(tmp_path / "bundle", model)
        assert not any(b"s3cret" in p.read_bytes() for p in bundle.path.rglob("*") if p.is_file())
        with pytest.raises(UsageError, match="the environment variable EMBED_KEY"):
            opened(bundle)
        monkeypatch.setenv("EMBED_KEY", "s3cret")
        server.headers = {}
        opened(bundle).prompted([{"role": "user", "content": "Which files?"}])
        assert server.headers["authorization"] == "Bearer s3cret"
        assert "openai" in bundle.file("requirements.txt").read_text()


def assert_alike(app: Any, model: Model, question: str, folder: Path) -> None:
    """The app sends what the model is sent for a question."""
    messages: Conversation = [{"role": "user", "content": question}]
    (expected,) = Lookup.of(model, TestJob(folder / "job")).prompts([messages])
    sent, sources = app.prompted(messages)
    assert sent == expected.messages
    assert [source["score"] for source in sources] == [hit.score for hit in expected.hits]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_embedding_model_is_in_the_bundle(tmp_path: Path, pooling: str) -> None:
    pytest.importorskip("transformers")
    folder = tiny_bert(tmp_path / "bert", pooling)
    step = RetrieveEmbedder(path=Files(["bert"], [folder]), question_prefix="q : ")
    embedder = run_step(step, tmp_path / "e")
    for name, path in embedder.external.items():  # as the store links them
        target = embedder.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    index = indexed(tmp_path, method="hybrid", embedder=embedder)
    model = retrieving(tmp_path / "rag", api_model(tmp_path / "api"), index)
    bundle = bundled(tmp_path / "bundle", model)
    assert_alike(opened(bundle), model, "where is my card " * 5, tmp_path)
    assert not any(path.is_symlink() for path in bundle.path.rglob("*"))
    assert "torch==" in bundle.file("requirements.txt").read_text()


def test_a_reranker_is_in_the_bundle(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    reranker = tiny_reranker(tmp_path / "reranker")
    index = run_step(RetrieveRerank(index=indexed(tmp_path), model=reranker), tmp_path / "r")
    model = retrieving(tmp_path / "rag", api_model(tmp_path / "api"), index)
    bundle = bundled(tmp_path / "bundle", model)
    assert_alike(opened(bundle), model, "Which files are read?", tmp_path)
    assert "torch==" in bundle.file("requirements.txt").read_text()
    assert "put in order by a reranker" in bundle.file("README.md").read_text()


CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": "Up"}}]}\n\n'


def broken_off() -> Iterator[bytes]:
    """A stream that ends in the middle."""
    yield CHUNK
    raise BrokenPipeError


@pytest.mark.parametrize(("reply", "words"), [
    (Reply(stream=lambda: iter([CHUNK, b"data: {"])), "broke off"),
    (Reply(stream=lambda: iter([CHUNK, b"data: []"])), "isn't a JSON object"),
    (Reply(stream=broken_off), "broke off"),
    (Reply(stream=lambda: iter([CHUNK, b'data: {"error": {"message": "too hot"}}'])), "too hot"),
])  # fmt: skip
def test_a_stream_that_breaks_off_ends_with_an_error(
    tmp_path: Path, reply: Reply, words: str
) -> None:
    with serving(lambda body: reply) as server:
        under = api_model(tmp_path / "api", server.url)
        bundle = bundled(tmp_path / "b", retrieving(tmp_path / "rag", under, indexed(tmp_path)))
        with running(bundle) as app:
            _, chunk, error = app.ask(stream=True).events()
            _, err = app.end()
    assert chunk["choices"][0]["delta"]["content"] == "Up"
    assert words in error["error"]["message"]
    assert "Traceback" not in err


def test_chunks_are_not_executed_by_the_template(tmp_path: Path) -> None:
    rows = [{"text": "{{ 7 * 7 }} {% for x in y %} files"}]
    model = retrieving(tmp_path / "rag", api_model(tmp_path / "api"), indexed(tmp_path, rows))
    sent, _ = opened(bundled(tmp_path / "b", model)).prompted(
        [{"role": "user", "content": "files {{ 7 * 7 }}"}]
    )
    assert "{{ 7 * 7 }} {% for x in y %} files" in sent[-1]["content"]
    assert "49" not in sent[-1]["content"]


def test_many_questions_at_once(tmp_path: Path) -> None:
    app = opened(tiny_bundle(tmp_path))
    texts = [str(row["text"]) for row in CHUNKS] * 8
    results: dict[int, str] = {}

    def ask(number: int) -> None:
        _, sources = app.prompted([{"role": "user", "content": texts[number]}])
        results[number] = sources[0]["text"]

    threads = [threading.Thread(target=ask, args=[n]) for n in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[number] for number in range(len(texts))] == texts


def test_parameters_of_a_request_never_replace_what_is_fixed() -> None:
    upstream = Upstream("http://127.0.0.1:1/v1", "m", None, {"temperature": 0}, {"top_k": None})
    asked = {"model": "x", "messages": [], "stream": True, "top_k": 3, "temperature": 1}
    body = upstream.body([{"role": "user", "content": "q"}], asked)
    assert body == {
        "model": "m", "messages": [{"role": "user", "content": "q"}], "stream": True,
        "temperature": 1,
    }  # fmt: skip
