"""The facts about rows: lengths, classes, turns, copies, sources, drops, samples.

`lengths_and_classes` reads rows once. A report streams them three times. Memory holds 16 bytes per
row for its lengths, 8 to find its copies, and 4 to 6 KB for each of the rows that are searched for
near copies and conflicting labels.
"""

import importlib.util
from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import chain, combinations, islice, pairwise
from pathlib import Path
from typing import Any

import msgspec

from finery import Dataset, Model
from finery.rows import NOT_CONTENT, Row, Turns, answer_text
from finery.rows.chosen import row_draw
from finery.rows.dropped import read_dropped
from finery.rows.near import NEAR_SIMILARITY, NearIndex, common_pieces, row_entry
from finery.rows.parts import is_conversation, join_turns, json_text, prompt_text, row_id_of
from finery_data.checks.encoding import garbled_texts
from finery_data.checks.labels import Labels
from finery_data.duplicates import BATCH, EXAMPLES, Overlap, Progress, overlap_of

MOST_CLASSES = 1_000
"""Number of values from which on they aren't classes."""
LONGEST_CLASS = 200
"""Characters of a value that may be a class."""
LABELS = ("label",)
"""Columns that name a row's class."""


class Lengths:
    """Lengths of texts, eight bytes each."""

    def __init__(self) -> None:
        self._values = array("L")
        self._is_sorted = True

    def __len__(self) -> int:
        return len(self._values)

    def add(self, length: int) -> None:
        """Note a length."""
        self._values.append(length)
        self._is_sorted = False

    def at(self, share: float) -> int:
        """The length that `share` of the rows don't exceed; 0.5 gives the median."""
        values = self._sorted()
        return values[min(len(values) - 1, int(share * len(values)))]

    def total(self) -> int:
        """All lengths together."""
        return sum(self._values)

    def counts(self, edges: Sequence[int]) -> list[int]:
        """The number of rows in each bin [edge, next edge). The last bin includes its end."""
        places = [bisect_right(self._sorted(), edge - 1) for edge in edges[:-1]]
        places.append(len(self._values))
        return [b - a for a, b in pairwise(places)]

    def _sorted(self) -> "array[int]":
        if not self._is_sorted:
            self._values = array("L", sorted(self._values))
            self._is_sorted = True
        return self._values


class Classes:
    """The classes that rows fall in, by what names them: a label, or the answer and its fields."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._too_many: set[str] = set()
        self._rows = 0

    def add(self, row: Row) -> None:
        """Note a row."""
        self._rows += 1
        for name, value in _named(row):
            if name in self._too_many or (len(self._counts) > 200 and name not in self._counts):
                continue
            counts = self._counts.setdefault(name, Counter())
            counts[value] += 1
            if len(counts) > MOST_CLASSES or len(value) > LONGEST_CLASS:
                self._too_many.add(name)
                del self._counts[name]

    @staticmethod
    def found(parts: Sequence["Classes"]) -> list[dict[str, Counter[str]]]:
        """Name → class → rows, of each part of the rows.

        A name of which most rows have none, or each another, is none. A part may be too small to
        repeat any class, so they are compared with those of the part that has the most of them.
        """
        most = defaultdict[str, Counter[str]](Counter)
        for name, counts in chain.from_iterable(part._counts.items() for part in parts):
            most[name] |= counts
        found: list[dict[str, Counter[str]]] = []
        for part in parts:
            found.append({})
            for name, counts in part._counts.items():
                often = sum(most[name][value] for value in counts)
                if counts.total() > part._rows / 2 and 2 * len(counts) <= often:
                    found[-1][name] = counts
        with_answer = [one for one in found if "answer" in one]
        # The fields of the answer, or the label, say the same.
        if all(
            one.keys() - {*LABELS, "answer"} or one["answer"] in map(one.get, LABELS)
            for one in with_answer
        ):
            for one in with_answer:
                del one["answer"]
        return found


def lengths_and_classes(
    rows: Iterable[Row],
) -> tuple[dict[str, Lengths], dict[str, Counter[str]]]:
    """(part of a row → lengths in characters, what names classes → class → rows)."""
    lengths, classes = defaultdict[str, Lengths](Lengths), Classes()
    for row in rows:
        classes.add(row)
        for part, text in text_parts(row).items():
            lengths[part].add(len(text))
    return lengths, Classes.found([classes])[0]


def text_parts(row: Row) -> dict[str, str]:
    """The texts of a row whose lengths count: prompt and answer, or what else it has."""
    if not is_conversation(row):
        rest = {k: v for k, v in row.items() if k not in {*NOT_CONTENT, "source"}}
        return {"text": str(row["text"])} if "text" in row else {"row": json_text(rest)}
    turns = Turns.of(row)
    asked, answer = join_turns(turns.prompt), join_turns(turns.answer)
    if turns.rejected is not None:
        return {"prompt": asked, "chosen": answer, "rejected": join_turns(turns.rejected)}
    return {"prompt": asked, **({"answer": answer} if turns.answer else {})}


def _named(row: Row) -> Iterator[tuple[str, str]]:
    """(what names a class, the class) of a row."""
    for name in LABELS:
        value = row.get(name)
        if isinstance(value, str | int | bool):
            yield name, str(value)
    if "rejected" in row or not is_conversation(row):
        return
    answer = answer_text(row).strip()
    if answer:
        yield "answer", answer
        yield from _fields(answer)


def _fields(answer: str) -> Iterator[tuple[str, str]]:
    """(name, value) of an answer that is a JSON object, or lines of `name: value`."""
    if answer.startswith("{"):
        yield from _json_fields(answer)
        return
    pairs = [line.partition(":") for line in answer.splitlines()]
    if len(pairs) <= 12 and all(colon and 0 < len(name) <= 40 for name, colon, _ in pairs):
        yield from ((name.strip(), value.strip()) for name, _, value in pairs)


def _json_fields(answer: str) -> Iterator[tuple[str, str]]:
    try:
        found: Any = msgspec.json.decode(answer)
    except (msgspec.MsgspecError, RecursionError):
        return
    for name, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, str | int | bool):
            yield str(name), str(value)


# -- a report --------------------------------------------------------------------------------------


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
class Facts:
    """The facts about one data set. lengths: by part, e.g. `prompt`."""

    name: str
    dataset: Dataset
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
    samples: list[Row] = field(default_factory=list)
    longest: Row | None = None

    def counts(self, name: str) -> dict[str, int]:
        """Reason → rows, the most frequent first. name: `dropped`, or `findings`."""
        return dict(Counter(self.dataset.meta.get(name) or {}).most_common())


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
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """The facts of some data sets, side by side.

    folder: for the texts that are compared meanwhile. near_rows: rows of each that are searched
    for near copies. samples: rows of each to show.
    """
    facts, classes = [], []
    for name, dataset in datasets.items():
        facts.append(Facts(name, dataset, len(dataset)))
        classes.append(_Reading(facts[-1], counting, samples).read(dataset, progress))
        facts[-1].copies = _copies(name, dataset, folder, near_rows, progress)
        _find_conflicts(facts[-1].copies, dataset, Labels(folder, [dataset]))
    for each, counts in zip(facts, Classes.found(classes), strict=True):
        each.classes = counts
    overlaps = list(_overlaps(datasets, folder, near_rows, progress))
    return Report(facts, overlaps, counting.unit, counting.name)


class _Reading:
    """Fills in what one pass over the rows shows.

    Samples are the rows that draw the lowest numbers, each as (draw, number of the row, row).
    """

    def __init__(self, facts: Facts, counting: Counting, samples: int) -> None:
        self._facts = facts
        self._counting = counting
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
            drawn = [(row_draw(row, 0), n, row) for n, row in enumerate(batch, done)]
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
            verb = "repeats" if match.exact else f"is {match.similarity:.2f} similar to"
            _keep(made.examples, f"{row_id_of(row)} {verb} the row {ids[match.number]}")
        else:
            index.add(len(ids), entry)
            ids.append(row_id_of(row))
        seen.add(digest)
    return made


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
