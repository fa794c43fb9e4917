"""Reports of evaluations: what is written is read back, also what an earlier version wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finery import DataError, Metrics
from finery.rows.report import (
    Axis,
    Comparison,
    Difference,
    Export,
    Pair,
    Plot,
    Remark,
    Report,
    ReportTable,
    Score,
    Series,
    Slice,
    parsed_report,
)
from finery_eval.evaluator import EXPECTED
from finery_eval.steps.classification import ABSTAIN, confusion_of
from finery_eval.steps.curve import CURVE, CurveResult
from finery_eval.steps.select import CHOSEN, MARGIN, Margin
from finery_eval.steps.speed import apis_of
from finery_serve.check.server_check import FAULTS
from finery_serve.servers import Fault

HOME = Path(__file__).parents[2]
STORED = sorted((HOME / "tests/data/reports").glob("*.json"))
"""As the version before typed reports wrote them, one of each kind of evaluator."""


def differences(stored: Any, read: Any) -> Any:
    """What a stored value has and the other one lacks, without what is empty."""
    if isinstance(stored, dict) and isinstance(read, dict):
        parts = {name: differences(of, read.get(name)) for name, of in stored.items()}
        return {name: of for name, of in parts.items() if of}
    return {} if stored == read or (not stored and read is None) else (stored, read)


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.stem)
def test_nothing_of_a_stored_report_is_lost(file: Path, tmp_path: Path) -> None:
    stored = json.loads(file.read_bytes())
    report = parsed_report(file.read_bytes())
    assert differences(stored, report.data()) == {}
    again = Metrics.write(tmp_path, report).report()
    assert again == report


READERS: dict[str, Callable[[Report], Any]] = {
    "abstentions": lambda report: report.part(ABSTAIN, float),
    "arena": lambda report: report.more["judge"]["consistency"].interval,
    "baselines": lambda report: report.baselines and report.bundles and report.pairs[0].metrics,
    "choice": lambda report: report.part(CHOSEN, str) and report.part(MARGIN, Margin),
    "classification": lambda report: report.slices and confusion_of(report)["m"]["category"].labels,
    "curve": lambda report: report.part(CURVE, CurveResult),
    "dialog": lambda report: report.applies and report.tables[0].columns,
    "exports": lambda report: [of.comparison.interval for of in report.exports if of.comparison],
    "judge": lambda report: report.more and report.remarks[0].text,
    "pareto": lambda report: report.units and not report.is_share(report.unbounded[0]),
    "retention": lambda report: [of for of in report.remarks if of.verdict == "lost"],
    "retrieval": lambda report: report.intervals_cover and report.comparisons == [],
    "rules": lambda report: report.part(EXPECTED, str),
    "server": lambda report: report.part(FAULTS, dict[str, list[Fault]]),
    "speed": lambda report: apis_of(report) and report.words,
}


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.stem)
def test_a_stored_report_has_the_types_of_today(file: Path) -> None:
    assert READERS[file.stem](parsed_report(file.read_bytes()))


def test_every_field_is_read_back(tmp_path: Path) -> None:
    difference = Difference(0.1, (-0.1, 0.3), 0.5, rows=7)
    compared = Comparison(
        0.1, (-0.1, 0.3), 0.5, model="b", baseline="a", only_model=2, only_baseline=1, p_holm=1.0,
        method="McNemar, exact",
    )  # fmt: skip
    draws = [0.1, 1 / 3]
    report = Report(
        rows=8,
        scores={"a": {"f1": Score(0.5, (0.4, 0.6), draws), "s": Score(2.5)}, "b": {}},
        more={"judge": {"kappa": Score(0.5, (0.1, 0.9))}},
        unbounded=["s"],
        units={"s": "seconds"},
        statistics={"f1": "m:f"},
        definitions={"f1": "00"},
        probes={"f1": {"1": 0.5}},
        headline=["f1"],
        applies={"a": {"f1": 7}},
        comparisons=[compared],
        pairs=[Pair("b", "a", {"f1": difference})],
        exports=[Export("b", "b.gguf", 7, compared), Export("c", "c.gguf", 8)],
        slices={"source": {"x": Slice(3, {"a": {"f1": 0.1}}, {"a": {}})}},
        tables=[
            ReportTable("t", ["x"], [[1], [None]], {"x": "share"}, "a"),
            ReportTable("u", ["y"], []),
        ],
        remarks=[Remark("text", "advice", "warning", "lost"), Remark("other")],
        words=["words"],
        references=["r"],
        baselines=["a"],
        bundles={"b": "x.bundle"},
        truncated={"a": 1},
        legend="legend",
        intervals_cover="rows",
        extra={"mine": {"x": [1]}},
        plots=[
            Plot(
                [Series("s", [(1.0, 2.0)], "both", [(1.0, 1.5, 2.5)])],
                Axis("x"),
                Axis(scale="log"),
                "p",
            )
        ],
    )
    assert all(getattr(report, name) for name in report.__struct_fields__)
    read = Metrics.write(tmp_path, report).report()
    assert read == report
    assert read.part("mine", dict[str, list[int]]) == {"x": [1]}
    assert "draws" not in read.data()


def test_a_report_of_a_newer_finery_is_an_error(tmp_path: Path) -> None:
    metrics = Metrics.write(tmp_path, Report(rows=1))
    file = metrics.file("metrics.json")
    file.write_text(file.read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(DataError, match="a newer finery wrote it, in version 3"):
        metrics.report()


def test_no_evaluation_is_keyed_by_how_it_is_shown() -> None:
    """Editing a view or a renderer changes no key, as the table of definitions says."""
    table = HOME / "core/finery/builder/code/definitions.json"
    subjects = json.loads(table.read_bytes())["subjects"]
    kit = {f"finery.rows.report:{name}" for name in ("read_report", "write_report")}
    evaluators = {name for name in subjects if name.startswith("finery_eval.steps.")} | kit
    assert len(evaluators) > 10
    shown = ("finery/views/", "finery/report/", "finery/cli/", "finery_eval/view/")
    found = {name: [of for of in subjects[name] if of.startswith(shown)] for name in evaluators}
    assert not any(found.values()), found
    readers = [name for name in evaluators if "finery/rows/report.py" in subjects[name]]
    assert kit < {*readers}
