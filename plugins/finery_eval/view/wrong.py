"""The wrong answers of a model, each with its complete row and the nearest training rows."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from finery import Dataset, Graph, Metrics
from finery.rows import Row, Turns, answer_text, split_turns
from finery.rows.similar import SimilarIndex, question
from finery.util.text import visible
from finery.views import PageContext
from finery_eval.view.answers import PLACE, answer_of, compact, place_of, reasons

NEAREST = 3
"""Training rows that are shown for a wrong answer."""
MOST_READ = 20_000
"""Training rows that are searched."""


def wrong_records(
    metrics: Metrics, step: str, model: str, context: PageContext
) -> Iterator[dict[str, Any]]:
    """A record for each wrong answer of a model, in the order of the rows.

    Each has the row's `id`, its complete `prompt` as messages, the `expected` and `answered`
    values, what is `wrong`, and the `nearest` training rows with their cosine. Unknown values, and
    those that aren't built, are omitted.
    """
    sources = context.graph.nodes[step].sources_of(Dataset)
    judged = _built([source.ref for source in sources if source.field == "rows"], context)
    rows = {row["id"]: row for row in judged}
    trained = list(islice(_training_rows(context.graph, model, context), MOST_READ))
    index = SimilarIndex([question(split_turns(row)[0]) for row in trained]) if trained else None
    for facts in metrics.predictions():
        if facts.get("model") == model and facts.get("correct") is False:
            yield _record(facts, rows.get(facts["id"]), index, trained)


def _record(
    facts: Mapping[str, Any],
    row: Row | None,
    index: SimilarIndex | None,
    trained: Sequence[Row],
) -> dict[str, Any]:
    prompt = _prompt(facts, row)
    record: dict[str, Any] = {"id": facts["id"], "model": facts["model"]}
    record |= {name: facts[name] for name in PLACE if name in facts}
    record |= {"prompt": prompt, "answered": answer_of(facts)}
    if "expected" in facts:
        record["expected"] = facts["expected"]
    if row is not None and answer_text(row) and "turn" not in facts:
        record["completion"] = answer_text(row)
    record["wrong"] = list(reasons(facts)) or list(_as_read(facts))
    if index is not None:
        record["nearest"] = [
            {
                "id": trained[number]["id"],
                "similarity": round(cosine, 3),
                "prompt": question(split_turns(trained[number])[0]),
                "completion": answer_text(trained[number])
                or compact(trained[number].get("label") or ""),
            }
            for number, cosine in index.nearest(question(prompt), NEAREST)
        ]
    return record


def _as_read(facts: Mapping[str, Any]) -> Iterator[str]:
    """How an answer without parts was read, next to the expected one."""
    if "prediction" in facts and "expected" in facts:
        read, expected = (
            json.dumps(facts[name], ensure_ascii=False) for name in ("prediction", "expected")
        )
        what = "nothing that could be expected" if facts["prediction"] is None else read
        yield f"read as {what}, expected {expected}"


def _prompt(facts: Mapping[str, Any], row: Row | None) -> list[dict[str, Any]]:
    """The conversation before the answer; without its row, what the prediction has of it."""
    if row is None:
        return [{"role": "user", "content": str(facts.get("prompt", ""))}]
    if "message" not in facts:
        return split_turns(row)[0]
    return Turns.of(row).conversation[: facts["message"] - 1]


def _training_rows(graph: Graph, model: str, context: PageContext) -> Iterable[Row]:
    """What a model, or one that it derives from, learned from."""
    steps = [model.partition(".")[0]]
    for step in steps:  # grows
        if (node := graph.nodes.get(step)) is not None:
            refs = [source.ref for source in node.sources if source.role == "train"]
            if refs:
                return _built(refs, context)
            steps += [source.step for source in node.base_models if source.step not in steps]
    return ()


def _built(refs: Iterable[str], context: PageContext) -> Iterator[Row]:
    for ref in refs:
        rows = context.built(ref)
        if isinstance(rows, Dataset):
            yield from rows


def record_lines(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(label, text) of a record, for a terminal."""
    yield "row", place_of(record)
    yield "prompt", visible(question(record["prompt"]))
    if "expected" in record:
        yield "expected", compact(record["expected"])
    yield "answered", record["answered"]
    if record["wrong"]:
        yield "why", "\n".join(record["wrong"])
    for near in record.get("nearest", ()):
        answer = " · ".join(near["completion"].split("\n"))
        yield "trained", f"{near['id']}  {near['similarity']:.2f}  {near['prompt']}\n→ {answer}"
