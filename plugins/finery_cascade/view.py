"""The view of cascades."""

from collections.abc import Iterator, Mapping
from typing import Any

from finery.views import Cell, Output, Part, Quantity, Remark, Table, Text, View


class CascadeView(View):
    """Shows the thresholds of a cascade, and the evidence for them."""

    def facts(self, output: Output) -> Mapping[str, Any]:
        """`meta` without the stages, which are a table."""
        return {name: v for name, v in output.manifest.meta.items() if name != "stages"}

    def overview(self, output: Output) -> Iterator[Part]:
        """Facts, stages and files."""
        yield from super().overview(output)
        *small, last = output.manifest.meta["stages"]
        rows: list[list[Cell]] = [
            [
                stage["model"],
                _number(stage["threshold"], "likely"),
                _number(stage["answered"] / stage["rows"] if stage["rows"] else 0.0, "share"),
                f"{stage['errors']:,} of {stage['answered']:,}",
                _number(stage["bound"], "share"),
            ]
            for stage in small
        ]
        columns = ["model", "answers above", "share that it answers", "wrong", "error at most"]
        yield Table(columns, [*rows, [last["model"], "the rest", "", "", ""]], "Calibration")
        yield from (Text(remark.text) for remark in self.remarks(output))

    def remarks(self, output: Output) -> Iterator[Remark]:
        """The models that never answer."""
        for stage in output.manifest.meta["stages"]:
            if "note" in stage:
                yield Remark(f"{stage['model']} never answers: {stage['note']}", "", "warning")


def _number(value: float | None, unit: Any) -> Cell:
    if value is None:
        return "never"
    return "everything" if value < 0 else Quantity(value, unit)
