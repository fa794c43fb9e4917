"""The display of audited rows: suspects, pairs of classes, and the most suspicious rows."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec

from finery.advanced import Manifest, counted, percent
from finery.rows import snippet
from finery.views import (
    Cell,
    Context,
    Detail,
    Field,
    Hint,
    Output,
    Part,
    Record,
    Records,
    Remark,
    Section,
    Table,
    Text,
)
from finery_data.checks.audits import Doubt, pairs_of, read_audit
from finery_data.view.dataset import DatasetView, dataset_of

SHOWN = 10
"""Labels that a terminal shows, unless more rows are asked for."""
ON_PAGE = 300
"""Labels that a page shows."""
SNIPPET = 160
WEAK = 0.7
"""Share of labels that models of other rows agree with, below which they know too little."""
READ_ON = 0.1
"""Share of the rows to read where the models know too little to name suspects."""
PAIRS = 15
"""Pairs of classes that a table shows."""


class AuditView(DatasetView):
    """The view of data sets that `data.audit` made."""

    def brief(self, manifest: Manifest) -> str:
        """The number of rows, and of suspects."""
        return f"{super().brief(manifest)}, {counted(suspects_in(manifest), 'suspect')}"

    def data(self, output: Output, detail: Detail) -> dict[str, Any]:
        """Also the doubts about labels, the most suspicious first, and the pairs of classes."""
        doubts = [*read_audit(dataset_of(output))]
        pairs = [
            {"field": field, "label": label, "proposed": proposed, "rows": len(found)}
            for (field, label, proposed), found in pairs_of(doubts).items()
        ]
        shown = doubts if detail.dropped else doubts[: max(detail.rows, SHOWN)]
        suspicious = msgspec.to_builtins(shown)
        return {**super().data(output, detail), "pairs": pairs, "suspicious": suspicious}

    def describe(self, outputs: Sequence[Output], context: Context) -> Iterator[Section]:
        """The most suspicious labels, above what is shown of any data set."""
        is_brief = context.medium == "terminal" and not context.detail.dropped
        most = max(context.detail.rows, SHOWN) if is_brief else ON_PAGE
        for output in outputs if context.scope != "summary" else ():
            title = f"{output.title}: labels that are probably wrong"
            yield Section(title, _parts(output, most), rank=19)
        yield from super().describe(outputs, context)

    def remarks(self, output: Output) -> Iterator[Remark]:
        """How many labels are probably wrong."""
        if count := suspects_in(output.manifest):
            yield Remark(
                f"{counted(count, 'suspect')} of {output.manifest.meta['audited']:,} rows, whose "
                "labels or answers are probably wrong",
                f"finery review {output.title}: the most suspicious first",
                "warning",
            )
        if weak := _weakness(output.manifest):
            has_encoder = output.manifest.meta.get("encoder")
            fix = "" if has_encoder else "name an encoder: model: minilm, see docs/howto/data.md; "
            count = math.ceil(READ_ON * output.manifest.meta["audited"])
            first = f"the first {counted(count, 'row')} of finery review {output.title}"
            fix += f"read {first}, suspect or not"
            yield Remark(weak, fix, "warning")


def suspects_in(manifest: Manifest) -> int:
    """The number of suspects."""
    return sum((manifest.meta.get("findings") or {}).values())


def _parts(output: Output, most: int) -> Iterator[Part]:
    dataset, meta = dataset_of(output), output.manifest.meta
    doubts = [*read_audit(dataset)]
    count = suspects_in(output.manifest)
    audited = f"{meta['audited']:,} of {counted(meta['rows'], 'row')}, by {meta['column']}"
    yield Text(f"{counted(count, 'suspect')} among {audited}", "warning" if count else "")
    if weak := _weakness(output.manifest):
        yield Text(weak, "warning")
    pairs = pairs_of(doubts)
    if pairs:
        heads = ["field", "label", "proposed", "rows"]
        rows: list[list[Cell]] = [
            [*pair, len(doubted)] for pair, doubted in islice(pairs.items(), PAIRS)
        ]
        start = 0 if any(field for field, _, _ in pairs) else 1  # without fields, no column
        more = f"and {len(pairs) - PAIRS} more pairs" if len(pairs) > PAIRS else ""
        yield Table(heads[start:], [row[start:] for row in rows], "by pair of classes", more)
    if doubts:
        shown = doubts[:most]
        numbers = {doubt.row for doubt in shown}
        rows_shown = zip(range(1, meta["rows"] + 1), dataset, strict=True)
        texts = {n: snippet(row, SNIPPET) for n, row in rows_shown if n in numbers}
        records = [_record(doubt, texts[doubt.row]) for doubt in shown]
        more = f"finery show {output.title} --rows N: more of them"
        yield Records(records, len(doubts), "most suspicious", shown=most, more=more)
        yield Hint(f"finery review {output.title}: decide on them, the most suspicious first")


def _weakness(manifest: Manifest) -> str:
    """What to say if the models know too little to find wrong labels; else empty."""
    agreement = manifest.meta.get("agreement", 1.0)
    if agreement >= WEAK:
        return ""
    return (
        f"models of other rows agree with only {percent(agreement)} of the labels, so they can "
        "hardly tell wrong labels from difficult rows"
    )


def _record(doubt: Doubt, text: str) -> Record:
    name = f"{doubt.field}: " if doubt.field else ""
    detail = doubt.detail or f"{name}{doubt.label}; next best: {doubt.proposed}"
    head = Field(f"{doubt.suspicion:.2f}", detail, "warning" if doubt.check else "soft")
    fields = [head, Field(f"row {doubt.row}", f"{doubt.id}  {text}")]
    return Record([*fields, *(Field("similar", f"{i}  {t}", "soft") for i, t in doubt.nearest)])
