"""Models that retrieve, as `finery serve` and `finery chat` show them, without an answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answering import indexed, retrieving

from finery import Completion, Graph, Model, Sampling, UsageError, load_plugins
from finery.recipe.document import load
from finery.recipe.graph import build_graph
from finery.testing import run_step
from finery_openai.model import OpenaiModel
from finery_retrieve.serve.running import serve_model
from finery_retrieve.serve.upstream import address_in
from finery_serve.chat.screen import Plain
from finery_serve.chat.streams import NO_SOURCES, ServerTalker
from finery_serve.command import introduction
from finery_serve.opening import Opened, open_built, server_for
from finery_serve.servers import Serving

pytest.importorskip("bm25s")


@pytest.mark.parametrize("address", ["127.0.0.1:8081/v1", "ftp://host", "http://", "localhost"])
def test_an_address_needs_its_scheme(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_URL", address)
    with pytest.raises(UsageError, match="isn't the address of a server") as caught:
        address_in("BASE_URL")
    assert "http://" in str(caught.value.fix)


def test_examples_ask_about_the_documents(tmp_path: Path) -> None:
    under = OpenaiModel(model="m", base_url="http://127.0.0.1:1/v1", api_key=None)
    model = retrieving(tmp_path / "rag", run_step(under, tmp_path / "api"), indexed(tmp_path))
    serving = Serving(name="rag")
    with serve_model(model, serving) as running:
        text = introduction(running, serving)
    assert text.count("What do the documents say about Limits > Files?") == 2
    assert "Hello" not in text


@pytest.mark.parametrize("format_", ["embedder", "embedder-api"])
def test_an_embedding_model_is_not_to_be_exported(format_: str, tmp_path: Path) -> None:
    opened = Opened("minilm", Model(tmp_path, meta={"format": format_}), graph_of(tmp_path))
    with pytest.raises(UsageError, match="no server is installed") as caught:
        server_for(opened)
    assert "embeds texts" in str(caught.value.fix)
    assert "gguf.export" not in str(caught.value.fix)


def test_an_index_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'index' is an Index, and only a model"):
        open_built("index", graph_of(tmp_path).recipe.path, ())


def graph_of(folder: Path) -> Graph:
    """A recipe with an index."""
    (folder / "docs").mkdir()
    (folder / "docs/a.md").write_text("Files are read.", encoding="utf-8")
    (folder / "recipe.yaml").write_text(
        "finery: 1\ndata:\n  chunks: {use: docs.files, path: docs}\n"
        "  index: {use: retrieve.index, rows: chunks}\n",
        encoding="utf-8",
    )
    return build_graph(load(folder / "recipe.yaml"), load_plugins())


class Streaming:
    """A client whose server sends these events."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self._events = events

    def stream(self, _path: str, _body: Any) -> Iterator[dict[str, Any]]:
        yield from self._events


@pytest.mark.parametrize(
    ("sources", "line"),
    [([{"label": 1, "source": "a.md"}], "[1] a.md"), ([], NO_SOURCES.strip())],
)
def test_a_pipe_lists_sources_or_says_that_there_are_none(
    sources: list[Any], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [{"reasoning_content": "Hm."}, {"content": "50 MB."}]
    events = [{"sources": sources}, *({"choices": [{"delta": part}]} for part in parts)]
    client: Any = Streaming(*events)
    talker = ServerTalker(client, "rag")

    def answer(_index: int, write: Any) -> Completion:
        return talker.answer([{"role": "user", "content": "?"}], Sampling(), write)

    Plain().answers(["rag"], answer)
    assert capsys.readouterr().out == f"50 MB.\n{line}\n"


def test_a_pipe_prints_no_thinking(capsys: pytest.CaptureFixture[str]) -> None:
    client: Any = Streaming({"choices": [{"delta": {"reasoning_content": "Hm.", "content": "Hi"}}]})

    def answer(_index: int, write: Any) -> Completion:
        return ServerTalker(client, "m").answer([], Sampling(), write)

    Plain().answers(["m"], answer)
    assert capsys.readouterr().out == "Hi\n"
