"""Every row of a data set, through any chain of transforms, leads back to a file and line."""

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from in_process import build

from finery.artifact.kinds import Dataset
from finery.builder.project import open_graph, open_store
from finery.lineage.story import Story, story_of

TRANSFORMS = {
    "upper": '{use: data.map, rows: IN, user: "{{ user | upper }}"}',
    "lower": '{use: data.map, rows: IN, user: "{{ user | lower }}"}',
    "framed": '{use: data.map, rows: IN, user: "Please: {{ user }}", columns: {n: "1"}}',
    "filter": "{use: data.filter, rows: IN, min_characters: {user: 2}}",
    "validate": "{use: data.validate, rows: IN, max_characters: {user: 1000}}",
    "dedup": "{use: data.dedup, rows: IN}",
    "more": "{use: data.sample, rows: IN, by: output, balance: up}",
    "mix": "{use: data.mix, rows: [IN, second], total: 9, short: repeat}",
    "clean": "{use: data.decontaminate, rows: [IN, first], against: third}",
    "split": "{use: data.split, rows: [IN, first, second], validation: 0, test: 0.4}",
}
WORDS = ("apple", "bread", "chair", "dance", "eagle", "flute", "grape", "house", "index", "joker")


def text_of(number: int) -> str:
    return " ".join(f"{WORDS[(number * k) % 10]}{number}" for k in (1, 3, 7))


def recipe_of(chain: list[str]) -> str:
    lines = ["finery: 1", "name: t", "data:"]
    for name, path in (("first", "a.jsonl"), ("second", "b.csv"), ("third", "c.jsonl")):
        columns = '{user: "{{ q }}", assistant: "{{ a }}"}'
        lines.append(f"  {name}: {{use: data.file, path: {path}, columns: {columns}}}")
    before = "first"
    for index, transform in enumerate(chain):
        transformed = TRANSFORMS[transform].replace("IN", before).replace("[first, first", "[first")
        lines.append(f"  s{index}: {transformed}")
        before = f"s{index}.train" if transform == "split" else f"s{index}"
    return "\n".join([*lines, f"  last: {{use: data.filter, rows: {before}, where: 'true'}}", ""])


def write(folder: Path, first: list[int]) -> None:
    (folder / ".git").mkdir()
    record = [json.dumps({"q": text_of(n), "a": f"answer {n % 2}"}) for n in first]
    (folder / "a.jsonl").write_text("\n\n".join(record) + "\n")
    cells = [f'"{text_of(n)}",answer {n % 2}' for n in range(20, 27)]
    (folder / "b.csv").write_text("\n".join(["q,a", *cells]) + "\n")
    (folder / "c.jsonl").write_text(json.dumps({"q": "none of them", "a": "x"}) + "\n")


def places(story: Story) -> list[str]:
    return [p for told in story.rows for e in told.events if e.what == "read" for p in e.places]


def line_at(folder: Path, place: str) -> str:
    name, _, number = place.rpartition(":")
    return (folder / Path(name).name).read_text().splitlines()[int(number) - 1]


@settings(max_examples=settings().max_examples // 4)
@given(
    chain=st.lists(st.sampled_from(sorted(TRANSFORMS)), min_size=1, max_size=5),
    first=st.lists(st.integers(0, 12), min_size=3, max_size=8),
)
def test_every_row_leads_back_to_its_lines(chain: list[str], first: list[int]) -> None:
    first = [*first, *range(30, 40)]  # so that no split is empty
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, first)
        path = folder / "recipe.yaml"
        path.write_text(recipe_of(chain))
        try:
            made = build(path)
        except AssertionError as error:  # which split is right to refuse
            assume("made from a row in another split" not in str(error))
            raise
        (manifest,) = made.outcome.results["last"].outputs.values()
        store = open_store(path)
        dataset: Any = store.artifact(manifest)
        assert isinstance(dataset, Dataset)
        graph = open_graph(path, (), store)
        for row in dataset:
            story = story_of(graph, store, row["id"])
            found = places(story)
            assert found, (chain, row)
            said = row["messages"][0]["content"].casefold()
            for place in found:
                line = line_at(folder, place)
                text = json.loads(line)["q"] if place.split(":")[0].endswith("jsonl") else line
                assert text.split('"')[-2 if '"' in text else 0].casefold() in said, (chain, row)
        store.close()
