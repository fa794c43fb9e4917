"""Models that retrieve, as `finery serve` and `finery chat` show them, without an answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answering import indexed, retrieving
from needs import need

from finery import Completion, Sampling
from finery.testing import run_step
from finery_openai.model import OpenaiModel
from finery_retrieve.serve.running import serve_model
from finery_serve.chat.screen import Plain
from finery_serve.chat.streams import NO_SOURCES_LINE, ServerTalker
from finery_serve.command import introduction
from finery_serve.guide import request_for
from finery_serve.servers import Serving
from finery_transformers.frozen.template import ClientFacts

need("bm25s")


def test_examples_ask_about_the_documents(tmp_path: Path) -> None:
    under = OpenaiModel(model="m", base_url="http://127.0.0.1:1/v1", api_key=None)
    model = retrieving(tmp_path / "rag", run_step(under, tmp_path / "api"), indexed(tmp_path))
    serving = Serving(name="rag")
    with serve_model(model, serving) as running:
        request = request_for("rag", ClientFacts(), prompt=running.example)
        text = introduction(running, serving, request, tmp_path / "request.json", ClientFacts())
    assert text.count("What do the documents say about Limits > Files?") == 2
    assert "Hello" not in text


class Streaming:
    """A client whose server sends these events."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self._events = events

    def stream(self, _path: str, _body: Any) -> Iterator[dict[str, Any]]:
        yield from self._events


@pytest.mark.parametrize(
    ("sources", "line"),
    [([{"label": 1, "source": "a.md"}], "[1] a.md"), ([], NO_SOURCES_LINE.strip())],
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
