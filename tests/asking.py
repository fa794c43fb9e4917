"""Documents with questions about them, and engines that read their prompts, for tests."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finery import Completion, Engine, Index, Model, Request, Sampling
from finery.rows import Row, row_id
from finery.testing import dataset, run_step
from finery_retrieve.index.context import UNKNOWN
from finery_retrieve.steps.index import RetrieveIndex

ROOMS = range(10, 18)


def chunk_rows(rooms: Sequence[int] = ROOMS) -> list[Row]:
    """Two chunks of each room's document, the second about its colour."""
    rows = []
    for room in rooms:
        texts = (
            f"Room {room} has the inventory number {number(room)}.\nIt is on floor {room % 3}.",
            f"Room {room} is painted in the colour shade{room}, as decided in 20{room:02}.",
        )
        for line, text in zip((1, 5), texts, strict=True):
            row = {"text": text, "source": f"docs/{room}.md", "heading": f"Room {room}"}
            rows.append({"id": row_id({**row, "line": line}), **row, "line": line})
    return rows


def number(room: int) -> int:
    """The inventory number of a room."""
    return 7919 * (room + 1)


def question_row(room: int, **more: Any) -> Row:
    """A question about a room's number, as synth.from_docs writes it."""
    chunk = chunk_rows([room])[0]
    turns = [
        {"role": "user", "content": f"What is the inventory number of Room {room}?"},
        {"role": "assistant", "content": f"It is {number(room)}."},
    ]
    row = {
        "messages": turns,
        "quote": f"Room {room} has the inventory number {number(room)}.",
        "source": chunk["source"],
        "context": "without",
        **more,
    }
    return {"id": row_id(row), "parents": [chunk["id"]], **row}


def colour_row(room: int) -> Row:
    """A question about a room's colour."""
    chunk = chunk_rows([room])[1]
    turns = [
        {"role": "user", "content": f"In which colour is Room {room} painted?"},
        {"role": "assistant", "content": f"In shade{room}."},
    ]
    quote = f"Room {room} is painted in the colour shade{room}"
    row = {"messages": turns, "quote": quote, "source": chunk["source"], "context": "without"}
    return {"id": row_id(row), "parents": [chunk["id"]], **row}


def unanswerable_row() -> Row:
    """A question that no document answers."""
    turns = [{"role": "user", "content": "Who cleans the inventory of all rooms?"}]
    row = {"messages": turns, "answerable": False}
    return {"id": row_id(row), **row}


def index_of(folder: Path, rows: Sequence[Row], name: str = "index", **settings: Any) -> Index:
    """An index of chunks."""
    step = RetrieveIndex(rows=[dataset(folder / f"{name}-rows", list(rows))], **settings)
    index = run_step(step, folder / name)
    assert isinstance(index, Index)
    index.ref = name
    return index


def model_of(folder: Path, name: str) -> Model:
    """A model that the engine of this name answers for."""
    model = Model(folder, meta={"format": name, "name": name})
    model.ref = name
    return model


class Answering(Engine):
    """Answers each prompt with `answer`; `prompts` has the last turns."""

    prompts: list[str] = []

    def answer(self, prompt: str) -> str:
        """The answer to a prompt."""
        raise NotImplementedError

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer each prompt."""
        texts = [str(request.messages[-1]["content"]) for request in requests]
        type(self).prompts.extend(texts)
        return [
            Completion(
                text=self.answer(text), finish_reason="stop", prompt_tokens=1, completion_tokens=1
            )
            for text in texts
        ]


class Reader(Answering):
    """Answers from the document in the prompt, with a quote and its number, or abstains."""

    def answer(self, prompt: str) -> str:
        """The number of the room, with its proof."""
        room = re.findall(r"Room (\d+)\?", prompt)
        if room:
            proof = f"Room {room[0]} has the inventory number {number(int(room[0]))}."
            labels = re.findall(r"^\[(\d+)\][^\n]*\n([^\n]*)", prompt, re.MULTILINE)
            for label, line in labels:
                if line.startswith(proof):
                    return f'It is {number(int(room[0]))}. "{proof}" [{label}]'
        return UNKNOWN


class Guesser(Answering):
    """Knows all numbers by heart, and cites the ninth document whatever is there."""

    def answer(self, prompt: str) -> str:
        """The number of the room, without reading."""
        room = int(re.findall(r"Room (\d+)\?", prompt + "Room 0?")[0])
        return f'It is {number(room)}. "So it is written there" [9]'


ENGINES: dict[str, type[Engine]] = {"reader": Reader, "guesser": Guesser}
