"""`data.split`: splits rows into train, validation and test.

With `sizes: stable`, the split of a row depends only on its own prompt (or group) and the seed. It
has to: if added rows may never move old ones, whatever is added, then a row must be in the split
that it would be in if it were alone. So sizes vary at random: a split with share p of n independent
prompts has the standard deviation sqrt(n p (1 - p)), and so does its part of each stratum. With
`sizes: exact` (see `finery_data.steps.strata`), both sizes are as requested, and added rows move
some old ones.

Rows with nearly the same text may still be in different splits, so near copies of held-out rows are
dropped from train. That moves no other row.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Literal

import msgspec
from blake3 import blake3

from finery import Artifact, Count, DataError, Dataset, Forecast, Inputs, Job, Step, setting, takes
from finery.advanced import did_you_mean, percent, some_of
from finery.rows import Row, answer_text, row_id
from finery.rows.dropped import Drops
from finery.rows.near import NEAR_SIMILARITY, TemplateFinder, normalise_or_keep, prompt_entry
from finery.rows.parts import prompt_text, read_numbered
from finery_data.duplicates import HeldOut, Leak, crowd_note
from finery_data.steps.strata import Unit, divide, rare_strata, strata_of

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST, DROPPED = range(4)
ANSWER_NAMES = ("output", "answer")
"""Names that `stratify` may use for the text of the completion, unless a column has that name."""
LISTED = 10
STRATA_KEPT = 200
SEEDS_TRIED = 200
DRAWS_TRIED = 500_000
_FULL = 1 << 64


class Splits:
    """The outputs of `data.split`; a split of size 0 isn't among them."""

    train: Dataset
    validation: Dataset
    test: Dataset


class Split(Step, packages=("rensa",), version="2"):
    """Split rows into train, validation and test.

    Without `stratify`, added rows never move old ones, and sizes vary at random around the shares.
    With it, every split gets its share of each value, and added rows move a few old ones; `sizes`
    chooses between the two.

    Rows with the same prompt, ignoring case, punctuation and spaces, stay together, regardless of
    their answers and system prompts. Set the step's `seed` to keep the split when the recipe's seed
    changes.

    Rows whose prompt is similar to that of a held-out row, or contains it completely, are dropped
    as by `data.decontaminate` with a threshold of 0.7: from train if they match test or validation
    rows, from validation if they match test rows. Test loses none.

    Whole prompts are compared. Conversations that begin with the same turns and continue
    differently may be in different splits, and `eval.dialog` also asks for the answers to these
    first turns. To keep such conversations together, give them a common value in `group`.
    """

    rows: list[Dataset] = takes(help="Rows to split, in this order.")
    validation: float = setting(
        0.1, ge=0, lt=1, help="Share of rows for validation; 0 for no validation rows."
    )
    test: float = setting(0.2, ge=0, lt=1, help="Share of rows for test; 0 for no test rows.")
    stratify: str | None = setting(
        None,
        column_of="rows",
        help="Column whose values have the same shares in all splits, e.g. label; output: the "
        "answer's text. Values with fewer rows than there are splits are divided together.",
    )
    sizes: Literal["exact", "stable"] | None = setting(
        None,
        help="exact: sizes are the shares, of all rows and of each value of `stratify`; added rows "
        "move a few old ones from one split to another, so compare scores only on the same rows. "
        "stable: added rows never move old ones; sizes vary at random. Default: exact with "
        "`stratify`, otherwise stable.",
    )
    group: str | None = setting(
        None,
        column_of="rows",
        help="Column, e.g. customer: rows with equal values stay in one split, instead of rows "
        "with equal prompts. Rows without a value are split by their prompts.",
    )
    decontaminate: bool = setting(
        True,
        help="Drop rows of train that nearly repeat a test or validation row, and rows of "
        "validation that nearly repeat a test row.",
    )

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation ({self.validation:g}) and test ({self.test:g}) leave nothing to train "
                "on: lower one of them, so that their sum is less than 1"
            )

    def is_exact(self) -> bool:
        """Whether the sizes match the shares exactly."""
        return (self.sizes or ("exact" if self.stratify else "stable")) == "exact"

    def shares(self) -> dict[str, float]:
        """Split → share of the rows, for those asked for."""
        rest = 1 - self.validation - self.test
        every = zip(SPLITS, (rest, self.validation, self.test), strict=True)
        return {name: share for name, share in every if share > 0}

    def outputs(self) -> dict[str, type[Artifact]]:
        """The splits asked for."""
        return dict.fromkeys(self.shares(), Dataset)

    def run(self, job: Job) -> Splits:
        """Write each split in the order of the input, and what was dropped from it."""
        survey = _Survey(self, job)
        chosen = survey.assign(job.seed)
        _report(self, survey, chosen, job)
        if self.group is not None:
            _refuse(
                _prompt_leaks(survey, chosen),
                "rows have the same prompt as a row in another split",
                "give both rows the same group, remove one of them, or remove `group`",
            )
        _refuse(
            _parent_leaks(survey, chosen),
            "rows were made from a row in another split",
            "split the rows they were made from, and generate from the train split",
        )
        leaks = _near_copies(survey, chosen, job) if self.decontaminate else {}
        splits = Splits()
        for index, name in enumerate(SPLITS):
            if name in self.shares():
                setattr(splits, name, self._write(survey, chosen, index, leaks, job))
        return splits

    def _write(
        self, survey: "_Survey", chosen: bytes, index: int, leaks: dict[int, Leak], job: Job
    ) -> Dataset:
        name = SPLITS[index]
        folder = job.out / name

        def rows(drops: Drops) -> Iterator[Row]:
            numbered = read_numbered(job, self.rows, f"rows, writing {name}")
            for (number, row), split in zip(numbered, chosen, strict=True):
                if split == index and number - 1 in leaks:
                    drops.add(row, *leaks[number - 1])
                elif split == index:
                    yield row

        with Drops(folder) as drops:
            dataset = Dataset.write(folder, rows(drops))
        left = bytes(DROPPED if n in leaks else split for n, split in enumerate(chosen))
        dataset.meta |= {"split": name, **survey.meta(left, index)}
        if index != TEST and self.decontaminate:
            dataset.meta |= drops.meta()
        if drops.counts:
            held = "test or validation" if index == TRAIN else "test"
            job.log(f"{name}: {drops.summary(len(dataset))}: nearly the same as {held} rows")
        drops.refuse_nothing_left(len(dataset), "add rows that differ, or set decontaminate: false")
        return dataset

    def forecast(self, inputs: Inputs) -> Forecast:
        """The parts by their shares. Rows stay as they are."""

        def parts() -> dict[str, Count | None]:
            count = inputs.count("rows")
            shares = self.shares().items()
            return {
                name: Count(round(count.rows * share), exact=False) if count else None
                for name, share in shares
            }

        return Forecast(rows=parts, passes=("rows",), keeps_apart=self.decontaminate)


def _near_copies(survey: "_Survey", chosen: bytes, job: Job) -> dict[int, Leak]:
    """Row → why it is dropped, for rows that would leak a held-out row.

    Test rows are held out from all others, and validation rows from train. That includes dropped
    rows, so that an added row never brings a dropped one back.
    """
    leaks: dict[int, Leak] = {}
    common = survey.templates.pieces()  # of text that many prompts share
    held = {i: HeldOut(SPLITS[i], NEAR_SIMILARITY, job.scratch, common) for i in (TEST, VALIDATION)}
    for split in (TEST, VALIDATION, TRAIN):
        before = [held[i] for i in (TEST, VALIDATION) if i > split and len(held[i])]
        for number, row in enumerate(
            row for _, row in read_numbered(job, survey.step.rows, f"{SPLITS[split]} rows compared")
        ):
            if chosen[number] != split:
                continue
            entry = prompt_entry(row)
            leak = next(filter(None, (h.leak(entry) for h in before)), None)
            if leak is not None:
                leaks[number] = leak
            if split in held:
                held[split].add(row, entry)
    if crowded := sum(h.crowded for h in held.values()):
        job.log(crowd_note(crowded))
    return leaks


def unit_of(row: Row, group: str | None = None) -> int:
    """A 64-bit hash of what keeps rows together: the group's value, else the prompt."""
    if group is not None and row.get(group) is not None:
        content = b"group\0" + msgspec.json.encode(row[group], order="deterministic")
    else:
        content = b"prompt\0" + prompt_key(row).encode("utf-8")
    return int.from_bytes(blake3(content).digest(8), "big")


def prompt_key(row: Row) -> str:
    """The prompt without case, punctuation and spaces, to find copies and near copies.

    The system prompt only counts if there is no other turn. A row without a prompt is identified by
    its id.
    """
    return normalise_or_keep(prompt_text(row)) or row_id(row)


def draw(unit: int, seed: int) -> int:
    """The position of a unit in [0, 2⁶⁴), uniform and independent for each seed."""
    content = seed.to_bytes(8, "big") + unit.to_bytes(8, "big")
    return int.from_bytes(blake3(content).digest(8), "big")


def split_index(point: int, validation: float, test: float) -> int:
    """Index into `SPLITS` of a drawn point.

    Test takes the low end and validation the high end, so that to change one share moves no row
    between the other two splits.
    """
    if point < int(test * _FULL):
        return 2
    return 1 if point >= _FULL - int(validation * _FULL) else 0


class _Survey:
    """The result of one pass over the rows: each row's unit and stratum, in a few bytes a row."""

    def __init__(self, step: Split, job: Job) -> None:
        self.step = step
        self.units = array("Q")
        self.strata: list[str] = []
        self.stratum = array("L")
        self.any_parents = False
        self.ungrouped = 0  # rows without a value of the group's column
        self.templates = TemplateFinder()
        index: dict[str, int] = {}
        without: DataError | None = None
        for number, row in read_numbered(job, step.rows, "rows surveyed"):
            self.units.append(unit_of(row, step.group))
            if step.group is not None and row.get(step.group) is None:
                without = without or _no_column("group", step.group, row, number)
                self.ungrouped += 1
            self.any_parents |= bool(row.get("parents"))
            entry = prompt_entry(row) if step.decontaminate else None
            if entry is not None:
                self.templates.add(entry)
            value = _stratum(row, step.stratify, number)
            self.stratum.append(index.setdefault(value, len(index)))
        self.strata = list(index)
        if not self.units:
            raise DataError("there are no rows to split", fix="check the steps that `rows` names")
        if without is not None and self.ungrouped == len(self.units):
            raise without

    def assign(self, seed: int) -> bytes:
        """For each row the index into `SPLITS`."""
        validation, test = self.step.validation, self.step.test
        if self.step.is_exact():
            points = {unit: draw(unit, seed) for unit in set(self.units)}
            shares = (1 - validation - test, validation, test)
            split = divide(self.drawn(points), shares)
            return bytes(split[points[unit]] for unit in self.units)
        return bytes(split_index(draw(u, seed), validation, test) for u in self.units)

    def drawn(self, points: Mapping[int, int]) -> list[Unit]:
        """The units with their draws, each in its stratum."""
        names = [self.strata[s] for s in self.stratum]
        rows, strata = Counter(self.units), strata_of(self.units, names)
        return [Unit(points[unit], rows[unit], strata[unit]) for unit in rows]

    def counts(self, chosen: bytes) -> Counter[tuple[int, int]]:
        """(stratum, split) → rows."""
        return Counter(zip(self.stratum, chosen, strict=True))

    def missing(self, chosen: bytes) -> list[tuple[int, int]]:
        """(stratum, split) pairs without a row, of the splits asked for."""
        asked = [i for i, name in enumerate(SPLITS) if name in self.step.shares()]
        counts = self.counts(chosen)
        return [(s, i) for i in asked for s in range(len(self.strata)) if not counts[s, i]]

    def meta(self, chosen: bytes, index: int) -> dict[str, Any]:
        """Rows of each stratum in one split.

        Nothing about the other splits: rows that are added to test must not retrain a model.
        """
        if self.step.stratify is None:
            return {}
        counts = Counter(s for s, split in zip(self.stratum, chosen, strict=True) if split == index)
        if len(counts) > STRATA_KEPT:
            return {"stratify": self.step.stratify, "strata": len(counts)}
        named = {_line(self.strata[s]): n for s, n in counts.items()}
        return {"stratify": self.step.stratify, "strata": dict(sorted(named.items()))}

    def quality(self, chosen: bytes) -> tuple[int, int, float]:
        """(empty splits, gaps, chi-square of the sizes of strata in splits); less is better."""
        counts, total, chi = self.counts(chosen), Counter(self.stratum), 0.0
        for name, share in self.step.shares().items():
            index = SPLITS.index(name)
            chi += sum((counts[s, index] - n * share) ** 2 / (n * share) for s, n in total.items())
        used = set(chosen)
        empty = sum(SPLITS.index(name) not in used for name in self.step.shares())
        return empty, len(self.missing(chosen)), chi

    def better_seed(self, chosen: bytes) -> tuple[int, int, int] | None:
        """(seed, its empty splits, its gaps) if one of the first seeds has fewer of them."""
        if self.step.is_exact():
            return None
        tries = max(1, min(SEEDS_TRIED, DRAWS_TRIED // len(self.units)))
        best = min((self.quality(self.assign(seed)), seed) for seed in range(tries))
        (empty, gaps, _), seed = best
        return (seed, empty, gaps) if (empty, gaps) < self.quality(chosen)[:2] else None


def _stratum(row: Row, column: str | None, number: int) -> str:
    if column is None:
        return ""
    if row.get(column) is not None:
        value = row[column]
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if column in ANSWER_NAMES and (answer := answer_text(row)):
        return answer
    raise _no_column("stratify", column, row, number)


def _no_column(setting_name: str, column: str, row: Row, number: int) -> DataError:
    where = f"row {number} (id {row.get('id') or row_id(row)})"
    if column in row:
        return DataError(f"{setting_name}: '{column}' is null", where=where, fix="fill it in")
    what = f"{setting_name}: there is no column '{column}'"
    columns = [name for name in row if name not in ("id", "messages", "prompt", "completion")]
    keep = f"keep it in data.file: keep: [{column}]"
    fix = did_you_mean(column, columns) if columns else keep
    if setting_name == "stratify":
        fix = f"{fix}; by the answer, write stratify: output"
    elif columns:
        fix = f"{fix}; if the file has the column, {keep}"
    return DataError(what, where=where, fix=fix)


def _report(step: Split, survey: _Survey, chosen: bytes, job: Job) -> None:
    """Log the sizes; raise `DataError` if a split that was asked for is empty."""
    sizes, total = Counter(chosen), len(chosen)
    parts = []
    for name, share in step.shares().items():
        size = sizes[SPLITS.index(name)]
        parts.append(f"{name} {size:,} ({percent(size / total)}, asked {percent(share)})")
    job.log(f"{total:,} rows: {', '.join(parts)}")
    if survey.ungrouped:
        what = f"{survey.ungrouped:,} of {total:,} rows without '{step.group}'"
        job.log(f"group: {what} are split by their prompts")
    empty = [n for n in step.shares() if not sizes[SPLITS.index(n)]]
    if empty:
        raise _empty_split(step, survey, chosen, empty)
    if step.stratify is not None:
        _report_strata(survey, chosen, job)


def _empty_split(step: Split, survey: _Survey, chosen: bytes, empty: list[str]) -> DataError:
    units, asked = len(set(survey.units)), len(step.shares())
    kind = f"values of '{step.group}'" if step.group else "prompts"
    better = survey.better_seed(chosen) if units >= asked else None
    if units < asked:
        fix = "add rows, or use fewer splits: rows with the same text stay together"
    elif better is None or better[1]:
        fix = "add rows, or set larger shares"
    else:
        seed = f"set `seed: {better[0]}` on this step{_before_drops(step)}"
        fix = f"add rows, set larger shares, or {seed}"
    return DataError(
        f"no rows are in the split{'s' if len(empty) > 1 else ''} {' and '.join(empty)}",
        details=[f"{len(chosen):,} rows with {units:,} different {kind} were split"],
        fix=fix,
    )


def _report_strata(survey: _Survey, chosen: bytes, job: Job) -> None:
    """Log how the strata fell, and warn where a split has none of a stratum."""
    column, missing = survey.step.stratify or "", survey.missing(chosen)
    if len(survey.strata) > max(STRATA_KEPT, math.sqrt(len(chosen))):
        job.log(f"warning: stratify: {column} has {len(survey.strata):,} values; is it a label?")
    for line in _strata_lines(survey, chosen, column):
        job.log(line)
    if survey.step.is_exact():
        _report_rare(survey, column, job)
        return
    for split in survey.step.shares():
        names = [_short(survey.strata[s]) for s, i in missing if SPLITS[i] == split]
        if names:
            job.log(f"warning: {split} has no row with {column} {some_of(names, LISTED)}")
    if missing and (better := survey.better_seed(chosen)) is not None:
        seed, _, gaps = better
        instead = f"would leave {gaps} such gaps instead of {len(missing)}"
        job.log(f"`seed: {seed}` on this step {instead}{_before_drops(survey.step)}")


def _report_rare(survey: _Survey, column: str, job: Job) -> None:
    """Warn of values that can't be in every split."""
    units = survey.drawn(dict.fromkeys(survey.units, 0))
    rare = rare_strata(units, splits := len(survey.step.shares()))
    if rare:
        kind = "groups" if survey.step.group else "different prompts"
        names = [f"{_short(name)} ({n})" for name, n in rare.items()]
        job.log(
            f"warning: stratify: values of {column} with fewer than {splits} {kind} can't be in "
            f"all {splits} splits: {some_of(names, LISTED)}; add rows of them"
        )


def _before_drops(step: Split) -> str:
    """What the search for a seed doesn't take into account."""
    return (
        " (counted before near copies of held-out rows are dropped)" if step.decontaminate else ""
    )


def _strata_lines(survey: _Survey, chosen: bytes, column: str) -> Iterator[str]:
    """A line for each stratum, or for each split if there are many. `meta` has all of them."""
    counts, total = survey.counts(chosen), Counter(survey.stratum)
    asked = {split: SPLITS.index(split) for split in survey.step.shares()}
    if len(survey.strata) <= LISTED:
        for name, s in sorted((n, i) for i, n in enumerate(survey.strata)):
            parts = ", ".join(f"{split} {counts[s, i]:,}" for split, i in asked.items())
            yield f"{column} {_short(name)}: {parts}"
        return
    for split, index in asked.items():
        part = [counts[s, index] / n for s, n in total.items()]
        low, high = percent(min(part)), percent(max(part))
        yield f"{split} has {low} to {high} of the rows of each of {len(part)} values of {column}"


def _line(text: str) -> str:
    return " / ".join(text.split("\n"))


def _short(text: str) -> str:
    line = _line(text)
    return f"'{line[:60]}…'" if len(line) > 60 else f"'{line}'"


def _refuse(leaks: Iterator[str], what: str, fix: str) -> None:
    listed = list(leaks)
    if listed:
        more = [f"… and {len(listed) - LISTED:,} more"] if len(listed) > LISTED else []
        details = [*listed[:LISTED], *more]
        raise DataError(f"{len(listed):,} {what}", details=details, fix=fix)


def _prompt_leaks(survey: _Survey, chosen: bytes) -> Iterator[str]:
    seen: dict[int, int] = {}
    for number, row in enumerate(chain.from_iterable(survey.step.rows), 1):
        first = seen.setdefault(unit_of(row), number)
        if chosen[first - 1] != chosen[number - 1]:
            yield _pair(number, first, chosen)


def _parent_leaks(survey: _Survey, chosen: bytes) -> Iterator[str]:
    if not survey.any_parents:
        return
    numbers, parents = dict[str, int](), list[tuple[int, list[str]]]()
    for number, row in enumerate(chain.from_iterable(survey.step.rows), 1):
        numbers[str(row.get("id"))] = number
        parents += [(number, row["parents"])] if row.get("parents") else []
    for number, ids in parents:
        for parent in (numbers[i] for i in ids if i in numbers):
            if chosen[parent - 1] != chosen[number - 1]:
                yield _pair(number, parent, chosen)


def _pair(number: int, other: int, chosen: bytes) -> str:
    mine, its = SPLITS[chosen[number - 1]], SPLITS[chosen[other - 1]]
    return f"row {number} ({mine}) and row {other} ({its})"
