"""The wrong answers of a model, each with its whole row and the training rows nearest to it."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from finery import Dataset, Graph, Metrics, PageContext, base_models, sources_of, visible
from finery.rows import Row, Turns, answer_text, split_turns
from finery.rows.similar import SimilarIndex, question
from finery_eval.view.answers import PLACE, answer_of, compact, context_of, reasons

NEAREST = 3
"""Training rows that are shown for a wrong answer."""
MOST_READ = 20_000
"""Training rows that are searched."""


def wrong_records(
    metrics: Metrics, step: str, model: str, context: PageContext
) -> Iterator[dict[str, Any]]:
    """A record for each wrong answer of a model, in the order of the rows.

    Each has the row's `id`, its whole `prompt` as messages, what is `expected` and `answered`, what
    is `wrong` about it, and the `nearest` training rows with their cosine. What isn't built or
    isn't known is left out.
    """
    rows = {row["id"]: row for row in _rows_of(context.graph, step, context)}
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
        found = index.nearest(question(prompt), NEAREST)
        record["nearest"] = [_neighbour(trained[number], cosine) for number, cosine in found]
    return record


def _as_read(facts: Mapping[str, Any]) -> Iterator[str]:
    """How an answer without parts was read, next to what was expected."""
    if "prediction" in facts and "expected" in facts:
        read = facts["prediction"]
        what = "as nothing that could be expected" if read is None else f"as {_quoted(read)}"
        yield f"read {what}, expected {_quoted(facts['expected'])}"


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _prompt(facts: Mapping[str, Any], row: Row | None) -> list[dict[str, Any]]:
    """The conversation before the answer; without its row, what the prediction has of it."""
    if row is None:
        return [{"role": "user", "content": str(facts.get("prompt", ""))}]
    if "message" not in facts:
        return split_turns(row)[0]
    return Turns.of(row).conversation[: facts["message"] - 1]


def _neighbour(row: Row, cosine: float) -> dict[str, Any]:
    return {
        "id": row["id"],
        "similarity": round(cosine, 3),
        "prompt": question(split_turns(row)[0]),
        "completion": answer_text(row) or compact(row.get("label") or ""),
    }


def _rows_of(graph: Graph, step: str, context: PageContext) -> Iterable[Row]:
    """The rows that a step judges, as far as they are built."""
    refs = [s.ref for s in sources_of(graph.nodes[step], Dataset) if s.field == "rows"]
    return _built(refs, context)


def _training_rows(graph: Graph, model: str, context: PageContext) -> Iterable[Row]:
    """What a model, or one that it derives from, learned from."""
    stack, seen = [model.partition(".")[0]], set[str]()
    while stack:
        step = stack.pop(0)
        if step in seen or step not in graph.nodes:
            continue
        seen.add(step)
        node = graph.nodes[step]
        refs = [source.ref for source in node.sources if source.role == "train"]
        if refs:
            return _built(refs, context)
        stack += [source.step for source in base_models(node)]
    return ()


def _built(refs: Iterable[str], context: PageContext) -> Iterator[Row]:
    for ref in refs:
        rows = context.built(ref)
        if isinstance(rows, Dataset):
            yield from rows


def record_lines(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(label, text) of a record, for a terminal."""
    turn = f"turn {record['turn']}" if "turn" in record else ""
    yield "row", ", ".join(filter(None, (str(record["id"]), turn, context_of(record))))
    yield "prompt", visible(question(record["prompt"]))
    if "expected" in record:
        yield "expected", compact(record["expected"])
    yield "answered", record["answered"]
    if record["wrong"]:
        yield "why", "\n".join(record["wrong"])
    for near in record.get("nearest", ()):
        answer = " · ".join(near["completion"].split("\n"))
        yield "trained", f"{near['id']}  {near['similarity']:.2f}  {near['prompt']}\n→ {answer}"
