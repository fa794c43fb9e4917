"""The facts about rows in a report: lengths, classes, turns, copies, sources, drops, samples.

Rows are streamed three times. Memory holds 16 bytes per row for its lengths, 8 to find its copies,
and 4 to 6 KB for each of the rows that are searched for near copies and conflicting labels.
"""

import importlib.util
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import chain, combinations, islice
from pathlib import Path
from typing import Any

from finery import Dataset, Model
from finery.rows import Row, Turns
from finery.rows.chosen import row_draw
from finery.rows.dropped import read_dropped, read_findings
from finery.rows.near import NEAR_SIMILARITY, Match, NearIndex, common_pieces, row_entry
from finery.rows.parts import is_conversation, prompt_text, row_id_of
from finery_data.checks.labels import Labels
from finery_data.checks.personal import garbled_texts
from finery_data.duplicates import BATCH, EXAMPLES, Overlap, Progress, overlap_of
from finery_data.report.rowfacts import Classes, Lengths, text_parts

NEAR_ROWS = 20_000
"""Rows of a data set that are searched for near copies, unless a recipe says otherwise."""
SAMPLES = 6
"""Rows of a data set that are shown."""
SPOKEN = 1_000
"""Rows whose language is guessed."""


@dataclass
class Copies:
    """Rows that repeat others. searched: rows that were looked at, of all there are.

    conflicts: rows with another label than rows with the same prompt, or a near copy of it.
    """

    exact: int = 0
    near: int = 0
    conflicts: int = 0
    searched: int = 0
    examples: list[str] = field(default_factory=list)
    conflict_examples: list[str] = field(default_factory=list)


@dataclass
class Listed:
    """Rows that were dropped, or found fault with, for one reason. examples: (detail, row)."""

    count: int
    examples: list[tuple[str, Row | None]] = field(default_factory=list)


@dataclass
class Facts:
    """The facts about one data set. lengths: by part, e.g. `prompt`."""

    name: str
    rows: int
    lengths: dict[str, Lengths] = field(default_factory=dict)
    classes: dict[str, Counter[str]] = field(default_factory=dict)
    turns: Counter[int] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)
    systems: int = 0
    system_prompts: set[int] = field(default_factory=set)
    tools: int = 0
    parents: int = 0
    garbled: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    copies: Copies = field(default_factory=Copies)
    dropped: dict[str, Listed] = field(default_factory=dict)
    found: dict[str, Listed] = field(default_factory=dict)
    samples: list[Row] = field(default_factory=list)
    longest: Row | None = None


@dataclass
class Report:
    """The facts of all data sets. unit: of lengths. tokenizer: whose, empty for characters."""

    facts: list[Facts]
    overlaps: list[Overlap]
    unit: str
    tokenizer: str


class Counting:
    """The unit of lengths: tokens of a model, without its chat template, or characters."""

    def __init__(self, model: Model | None = None, name: str = "") -> None:
        self.unit = "characters" if model is None else "tokens"
        self.name = name
        self._tokenizer: Any = None
        if model is not None:
            from finery_transformers.loading import load_tokenizer

            self._tokenizer = load_tokenizer(model)

    def of(self, texts: Sequence[str]) -> list[int]:
        """The length of each."""
        if self._tokenizer is None:
            return [len(text) for text in texts]
        ids = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [len(one) for one in ids]


def measure(
    datasets: Mapping[str, Dataset],
    folder: Path,
    *,
    counting: Counting,
    near_rows: int,
    samples: int,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """The facts of some data sets, side by side.

    folder: for the texts that are compared meanwhile. near_rows: rows of each that are searched
    for near copies. samples: rows of each to show, drawn with `seed`.
    """
    facts, classes = [], []
    for name, dataset in datasets.items():
        made = Facts(name, len(dataset))
        classes.append(_Reading(made, counting, samples, seed).read(dataset, progress))
        made.copies = _copies(name, dataset, folder, near_rows, progress)
        _find_conflicts(made.copies, dataset, Labels(folder, [dataset]))
        made.dropped = _listed(read_dropped(dataset), "reason", dataset.meta.get("dropped"))
        made.found = _listed(read_findings(dataset), "check", dataset.meta.get("findings"))
        facts.append(made)
    for made, found in zip(facts, Classes.found(classes), strict=True):
        made.classes = found
    overlaps = list(_overlaps(datasets, folder, near_rows, progress))
    return Report(facts, overlaps, counting.unit, counting.name)


class _Reading:
    """Fills in what one pass over the rows shows.

    Samples are the rows that draw the lowest numbers, each as (draw, number of the row, row).
    """

    def __init__(self, facts: Facts, counting: Counting, samples: int, seed: int) -> None:
        self._facts = facts
        self._counting = counting
        self._seed = seed
        self._classes = Classes()
        self._most = samples
        self._longest = -1

    def read(self, dataset: Dataset, progress: Progress) -> Classes:
        """Read all rows. Returns what may be their classes."""
        rows, done = iter(dataset), 0
        samples: list[tuple[int, int, Row]] = []
        spoken: list[tuple[int, int, str]] = []
        while batch := list(islice(rows, BATCH)):
            self._measure(batch)
            for row in batch:
                self._note(row)
            drawn = [(row_draw(row, self._seed), n, row) for n, row in enumerate(batch, done)]
            texts = [(draw, n, prompt_text(row)[:2_000]) for draw, n, row in drawn]
            samples = nsmallest(self._most, chain(samples, drawn))
            spoken = nsmallest(SPOKEN, chain(spoken, texts))
            done += len(batch)
            progress(f"{self._facts.name}: rows read", done, len(dataset))
        self._facts.samples = [row for _, row in sorted((n, row) for _, n, row in samples)]
        self._facts.languages = _languages(text for _, _, text in spoken)
        return self._classes

    def _measure(self, batch: Sequence[Row]) -> None:
        texts = [text_parts(row) for row in batch]
        whole = [0] * len(batch)
        for part in dict.fromkeys(name for found in texts for name in found):
            having = [i for i, found in enumerate(texts) if part in found]
            lengths = self._counting.of([texts[i][part] for i in having])
            kept = self._facts.lengths.setdefault(part, Lengths())
            for i, length in zip(having, lengths, strict=True):
                kept.add(length)
                whole[i] += length
        for row, length in zip(batch, whole, strict=True):
            if length > self._longest:
                self._longest, self._facts.longest = length, row

    def _note(self, row: Row) -> None:
        facts = self._facts
        facts.columns.update(row.keys())
        facts.tools += bool(row.get("tools"))
        facts.parents += bool(row.get("parents"))
        facts.garbled += any(garbled_texts(row))
        if (source := source_of(row)) is not None:
            facts.sources[source] += 1
        self._classes.add(row)
        if not is_conversation(row):
            return
        turns = Turns.of(row).conversation
        self._facts.turns[sum(m["role"] != "system" for m in turns)] += 1
        self._facts.roles.update(str(m["role"]) for m in turns)
        system = [m for m in turns if m["role"] == "system"]
        if system:
            self._facts.systems += 1
            self._facts.system_prompts.add(hash(str(system[0].get("content"))))


def source_of(row: Row) -> str | None:
    """The origin that a row states. For a path inside a document, the file."""
    source = row.get("source")
    if isinstance(source, dict):
        source = source.get("path") or source.get("file") or source.get("name")
    return source if isinstance(source, str) else None


def _languages(texts: Iterable[str]) -> Counter[str]:
    """Language → rows; empty if the library that identifies languages isn't installed."""
    if importlib.util.find_spec("py3langid") is None:
        return Counter()
    from finery_data.checks.language import language_of

    return Counter(language_of(text) for text in texts if text.strip())


def _copies(name: str, dataset: Dataset, folder: Path, most: int, progress: Progress) -> Copies:
    """The rows that repeat an earlier one, as `data.dedup` finds them."""
    # A step that dropped copies compared them, too, so they count for what many rows share.
    rows = chain(
        islice(dataset, most), (line["row"] for line in islice(read_dropped(dataset), most))
    )
    common = common_pieces(row_entry(row, "row") for row in rows)
    made = Copies(searched=min(most, len(dataset)))
    index = NearIndex(NEAR_SIMILARITY, folder, common)
    ids, seen = list[str](), set[int]()
    for number, row in enumerate(dataset):
        if number % BATCH == 0:
            progress(f"{name}: rows compared", number, len(dataset))
        entry = row_entry(row, "row")
        digest = int.from_bytes(entry.digest()[:8], "big")
        if number >= most:
            made.exact += digest in seen
        elif (match := index.find(entry)) is not None:
            made.exact += match.exact
            made.near += not match.exact
            _keep(made.examples, f"{row_id_of(row)} {_alike(match, ids)}")
        else:
            index.add(len(ids), entry)
            ids.append(row_id_of(row))
        seen.add(digest)
    return made


def _alike(match: Match, ids: Sequence[str]) -> str:
    other = f"the row {ids[match.number]}"
    return f"repeats {other}" if match.exact else f"is {match.similarity:.2f} similar to {other}"


def _overlaps(
    datasets: Mapping[str, Dataset], folder: Path, most: int, progress: Progress
) -> Iterator[Overlap]:
    """What each data set shares with each later one, as `data.decontaminate` finds it."""
    for one, other in combinations(datasets.items(), 2):
        (name, rows), (other_name, other_rows) = one, other
        is_one_step = name.rpartition(".")[0] == other_name.rpartition(".")[0]
        apart = (
            is_one_step and {"split", "dropped"} <= rows.meta.keys() and "split" in other_rows.meta
        )
        yield overlap_of(one, other, most, folder, progress, are_apart=apart)


def _find_conflicts(copies: Copies, dataset: Dataset, labels: Labels) -> None:
    """Add the rows whose label `data.validate` calls a conflict."""
    for number, row in enumerate(islice(dataset, copies.searched), 1):
        labels.survey(number, row)
    if not labels.are_classes:
        return
    for number, row in enumerate(islice(dataset, copies.searched), 1):
        if conflict := labels.conflict(number, row):
            copies.conflicts += 1
            _keep(copies.conflict_examples, f"{row_id_of(row)} {conflict}")


def _keep(examples: list[str], text: str) -> None:
    if len(examples) < EXAMPLES:
        examples.append(text)


def _listed(
    lines: Iterable[dict[str, Any]], key: str, counts: Mapping[str, int] | None
) -> dict[str, Listed]:
    """Reason → how many, and the first few; the most frequent first."""
    found = {reason: Listed(n) for reason, n in (counts or {}).items()}
    for line in lines if found else ():
        listed = found.setdefault(line[key], Listed(0))
        if len(listed.examples) < EXAMPLES:
            row = line.get("row")
            detail = f"{line['id']} {line['detail']}"
            listed.examples.append((detail, row if isinstance(row, dict) else None))
        elif all(len(one.examples) >= min(EXAMPLES, one.count) for one in found.values()):
            break
    return dict(sorted(found.items(), key=lambda item: -item[1].count))
