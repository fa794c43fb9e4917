"""Step types of others get counts, notes and estimates by what they declare, under any name."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from finery import Dataset, Graph, Results
from finery.artifact.kinds import Artifact
from finery.builder.checks import estimates_of, notes_on
from finery.builder.project import open_graph

PLUGIN = '''
from collections import Counter

from finery import (
    Asked,
    Count,
    Dataset,
    Files,
    Forecast,
    Job,
    Metrics,
    Model,
    Request,
    Step,
    hookimpl,
    setting,
    takes,
)


class TillForecast(Forecast):
    def rows(self, output, taken):
        return Count(sum(len(path.read_bytes().splitlines()) for path in self.step.log.paths))


class Till(Step, forecast=TillForecast):
    """Rows of a till."""

    log: Files = setting(help="Its log.")

    def run(self, job: Job) -> Dataset: ...


class HalvesForecast(Forecast):
    def passes(self):
        return ["all_rows"]

    def keeps_apart(self):
        return self.step.apart


class Two:
    one: Dataset
    other: Dataset


class Halves(Step, forecast=HalvesForecast):
    """Two halves."""

    all_rows: Dataset = takes(help="All.")
    apart: bool = setting(True, help="Without near copies.")

    def run(self, job: Job) -> Two: ...


class Cleaned(Step):
    """What is in none of the others."""

    mine: Dataset = takes(help="Rows.")
    theirs: Dataset = takes(role="compare", help="Others.")

    def run(self, job: Job) -> Dataset: ...


class WeightsForecast(Forecast):
    def facts(self):
        return {"parameters": self.step.size}


class Weights(Step, sections=("models",), forecast=WeightsForecast):
    """A model."""

    size: float = setting(help="Parameters.")

    def run(self, job: Job) -> Model: ...


class DistantForecast(Forecast):
    def runtime(self):
        return {"price": {"input": 1.0, "output": 2.0}}


class Distant(Step, sections=("models",), forecast=DistantForecast):
    """A model behind an API."""

    def run(self, job: Job) -> Model: ...


class WordCount(Step, sections=("train",), learns="answers"):
    """Counts words."""

    start: Model = takes(role="base", help="Where it starts.")
    texts: list[Dataset] = takes(role="train", help="Rows.")
    beside: Dataset | None = takes(None, role="validation", help="Rows.")
    epochs: int = setting(1, help="Passes.")

    def run(self, job: Job) -> Model: ...


class Prefer(WordCount, learns="preferences"):
    """Prefers words."""


class KindForecast(Forecast):
    def classes(self, rows):
        return Counter(row["kind"] for row in rows)


class Kinds(Step, sections=("evaluate",), task="classification", forecast=KindForecast):
    """Judges kinds."""

    contestants: list[Model] = takes(help="Models.")
    exam: Dataset = takes(help="Rows.")

    def run(self, job: Job) -> Metrics: ...


class EchoForecast(Forecast):
    def asks(self, taken, *, built):
        (count,) = taken["start"]
        requests = ()
        if built:
            turns = ([{"role": "user", "content": row["text"]}] for row in self.step.start)
            requests = ((Request(messages), 1) for messages in turns)
        return Asked("who", count and count.rows, requests, {"max_tokens": 50}, retries=3)


class Echo(Step, sections=("generate",), engines=True, forecast=EchoForecast):
    """Rows like others."""

    who: Model = takes(help="Writes them.")
    start: Dataset = takes(help="Rows.")

    def run(self, job: Job) -> Dataset: ...


class Reply(Echo, keeps_prompts=True):
    """The same rows, answered."""


@hookimpl
def finery_steps():
    return {
        "a.till": Till, "a.halves": Halves, "a.cleaned": Cleaned, "a.weights": Weights,
        "a.distant": Distant, "a.count": WordCount, "a.prefer": Prefer, "a.kinds": Kinds,
        "a.echo": Echo, "a.reply": Reply,
    }
'''
RECIPE = """\
finery: 1
silence: [no-cheap-baseline]
plugins: [mine.py]
models:
  weights: {use: a.weights, size: 1.0e+9}
  distant: {use: a.distant}
data:
  till: {use: a.till, log: till.log}
  halves: {use: a.halves, all_rows: till}
  cleaned: {use: a.cleaned, mine: more, theirs: halves.other}
generate:
  more: {use: a.echo, who: distant, start: halves.one}
train:
  taught: {use: a.count, start: weights, texts: [halves.one], beside: halves.other}
evaluate:
  exam: {use: a.kinds, contestants: [taught, weights], exam: halves.other}
"""


class Built(Results):
    """Results of a build that was never made: step and output → artifact."""

    def __init__(self, **artifacts: Artifact) -> None:
        super().__init__()
        self._made = artifacts

    def artifact(self, step: str, output: str = "") -> Artifact | None:
        """The artifact, by `step` or `step_output`."""
        return self._made.get(f"{step}_{output}".rstrip("_"))

    def meta(self, step: str, output: str = "") -> dict[str, object] | None:
        """Its facts."""
        artifact = self.artifact(step, output)
        return artifact.meta if artifact else None


def opened(folder: Path, *edits: tuple[str, str], lines: int = 1000) -> Graph:
    """The graph of the recipe above, edited."""
    text = RECIPE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    (folder / "mine.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "till.log").write_text("sold\n" * lines, encoding="utf-8")
    return open_graph(folder / "recipe.yaml")


def names(graph: Graph, results: Results | None = None) -> list[str]:
    """The notes on a recipe."""
    return [note.name for note in notes_on(graph, results)]


def test_nothing_is_wrong_with_it(tmp_path: Path) -> None:
    assert names(opened(tmp_path)) == []


def test_the_rows_of_a_source_are_counted(tmp_path: Path) -> None:
    all_rows = ("texts: [halves.one], beside: halves.other", "texts: [till], beside: halves.other")
    graph = opened(tmp_path, all_rows, lines=30)
    (note, *_) = notes_on(graph)
    assert (note.name, note.place) == ("few-rows", ("train", "taught", "texts"))
    assert note.text == "taught learns from only 30 rows"


@pytest.mark.parametrize(("old", "new", "note"), [
    ("beside: halves.other}", "beside: halves.other, epochs: 3}", "epochs"),
    ("[taught, weights]", "[weights]", "no-evaluator"),
    ("exam: halves.other", "exam: till", "same-rows"),
    ("all_rows: till}", "all_rows: till, apart: false}", "train-test-overlap"),
])  # fmt: skip
def test_a_trainer_gets_the_notes(tmp_path: Path, old: str, new: str, note: str) -> None:
    rows = Dataset.write(tmp_path / "rows", [{"kind": "a", "text": str(i)} for i in range(400)])
    assert note in names(opened(tmp_path, (old, new)), Built(halves_one=rows))


@pytest.mark.parametrize("edits", [
    [("[halves.one]", "[halves.one, more]"), ("use: a.echo", "use: a.reply")],
    [("[halves.one]", "[halves.one, cleaned]")],
])  # fmt: skip
def test_what_keeps_prompts_or_drops_copies_has_no_overlap(
    tmp_path: Path, edits: Sequence[tuple[str, str]]
) -> None:
    assert names(opened(tmp_path, *edits)) == []


def test_an_evaluator_counts_its_classes(tmp_path: Path) -> None:
    kinds = ["rare"] * 7 + ["common"] * 600
    rows = Dataset.write(tmp_path / "rows", ({"kind": k, "n": i} for i, k in enumerate(kinds)))
    (note,) = notes_on(opened(tmp_path), Built(halves_one=rows))
    assert note.text == "taught learns from 607 rows, of which 7 are of the rarest class (rare)"


def test_a_generator_is_estimated(tmp_path: Path) -> None:
    graph = opened(tmp_path, ("start: halves.one", "start: till"), lines=40)
    estimate = estimates_of(graph, Results(), ["more"])["more"]
    assert estimate.lines[0] == "calls: 40; up to 3 more for each unusable answer"
    assert estimate.facts["completion_tokens_at_most"] == 2000
    assert "cost: known once the rows are built" in estimate.lines
    rows = Dataset.write(tmp_path / "rows", [{"text": "x" * 40, "n": n} for n in range(8)])
    estimate = estimates_of(graph, Built(till=rows), ["more"])["more"]
    assert estimate.lines[0].startswith("calls: 8;")
    tokens = estimate.facts["prompt_tokens"]
    assert estimate.facts["dollars_at_most"] == pytest.approx((tokens + 2 * 8 * 50) / 1e6)
