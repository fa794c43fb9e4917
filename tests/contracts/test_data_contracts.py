"""The step types of finery_data, docs.files and sql.query keep the contract of step types."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import finery
from finery import Dataset, Files, Step
from finery.rows import Row
from finery.testing import StepContract, dataset
from finery_data.steps.audit import Audit
from finery_data.steps.copies import Decontaminate, Dedup
from finery_data.steps.file import File
from finery_data.steps.filter import Filter
from finery_data.steps.map import Map
from finery_data.steps.report import DataReport
from finery_data.steps.requests import Requests
from finery_data.steps.sample import Mix, Sample
from finery_data.steps.split import Split
from finery_data.steps.validate import Validate
from finery_docs.files import DocsFiles
from finery_sql.query import SqlQuery

Change = Callable[[list[Row]], list[Row]]

SUBJECTS = ("card", "transfer", "exchange rate", "cash machine", "refund", "top-up")
PLACES = ("in Lisbon", "since Monday", "at the airport", "on my phone")
ROWS: list[Row] = [
    {
        "messages": [
            {"role": "system", "content": "Name the topic."},
            {"role": "user", "content": f"My {subject} does not work {place}."},
            {"role": "assistant", "content": subject},
        ],
        "label": subject,
    }
    for subject in SUBJECTS
    for place in PLACES
]
OTHERS: list[Row] = [
    {"prompt": f"How do I close account number {n}?", "completion": "closing", "label": "closing"}
    for n in range(6)
]
TEMPLATES = dict.fromkeys(("user", "assistant", "system", "label"), "{{ label }}")
SQL_TEMPLATES = dict.fromkeys(TEMPLATES, "{{ prompt }}")
LONG = (
    "My card does not work since Monday, and nobody at the branch in Lisbon could say why that is."
)
NEAR: list[Row] = [
    {"prompt": LONG, "completion": "card"},
    {"prompt": LONG, "completion": "it is the card that does not work"},
    {"prompt": LONG.replace("Monday", "Tuesday"), "completion": "card"},
]


def rows(folder: Path) -> list[Dataset]:
    """The rows that most steps here take."""
    return [dataset(folder / "rows", ROWS)]


class TestAudit(StepContract):
    """data.audit."""

    situations = {"fields": {"fields": ["topic"], "label": "output"}}
    others = {"fields": ["kind"]}

    def step(self, folder: Path) -> Step:
        answers = [f"topic: {row['label']}\nkind: {len(row['label'])}" for row in ROWS]
        named = [
            {**row, "messages": [*row["messages"][:2], {"role": "assistant", "content": answer}]}
            for row, answer in zip(ROWS, answers, strict=True)
        ]
        return Audit(rows=[dataset(folder / "rows", named)])


class TestDecontaminate(StepContract):
    """data.decontaminate."""

    def step(self, folder: Path) -> Step:
        return Decontaminate(
            rows=[dataset(folder / "rows", [*ROWS, *NEAR[1:]])],
            against=[dataset(folder / "test", [*ROWS[:3], *NEAR[:1]])],
        )


class TestDedup(StepContract):
    """data.dedup."""

    def step(self, folder: Path) -> Step:
        return Dedup(rows=[*rows(folder), dataset(folder / "again", [*ROWS[:3], *NEAR])])


class TestFilter(StepContract):
    """data.filter."""

    others = {"excludes": {"user": "refund"}} | {
        f"{limit}_characters": {"user": 36} for limit in ("min", "max")
    }

    def step(self, folder: Path) -> Step:
        return Filter(rows=rows(folder), matches={"user": "Monday|Lisbon"}, where="label != 'card'")


class TestMap(StepContract):
    """data.map."""

    others = {"remove": ["label"]}

    def step(self, folder: Path) -> Step:
        turns = [*ROWS[0]["messages"], *ROWS[1]["messages"][1:]]
        talk = dataset(folder / "talk", [{"messages": turns}])
        return Map(
            rows=[*rows(folder), talk],
            user="{{ user | upper }}",
            columns={"n": "{{ user | length }}"},
        )


class TestMix(StepContract):
    """data.mix."""

    others = {"weights": [1, 1]}
    situations = {"short": {"total": 500}}

    def step(self, folder: Path) -> Step:
        return Mix(rows=[*rows(folder), dataset(folder / "others", OTHERS)], weights=[2, 1])


class TestReport(StepContract):
    """data.report, on lengths that need a logarithmic scale."""

    def step(self, folder: Path) -> Step:
        long = {"prompt": "Why is it late? " * 500, "completion": "late"}
        return DataReport(rows=[dataset(folder / "rows", [*ROWS, long])])


class TestSample(StepContract):
    """data.sample."""

    others = {"by": "output"}

    def step(self, folder: Path) -> Step:
        return Sample(rows=[dataset(folder / "rows", ROWS[:10])], n=7, by="label")


class TestSplit(StepContract):
    """data.split."""

    others = {"group": "label"}
    situations = {"stratify": {"stratify": None}}

    def step(self, folder: Path) -> Step:
        return Split(rows=rows(folder), validation=0.2, test=0.2, stratify="label")


class TestValidate(StepContract):
    """data.validate."""

    others = {"label": "output", "personal": ["phone"], "languages": ["de"]}
    situations = {
        "schema": {"schema": "schema.json"},
        "label": {"labels": ["card"], "actions": {"label": "drop"}, "label": "topic"},
    }

    def step(self, folder: Path) -> Step:
        mail = {
            "prompt": "Write to ann@lisbon-bank.pt, please.",
            "completion": "refund",
            "topic": "card",
        }
        (folder / "schema.json").write_text('{"type": "object"}', encoding="utf-8")
        return Validate(
            rows=[*rows(folder), dataset(folder / "mail", [mail])],
            languages=["en"],
            actions={"language": "report"},
        )


class TestFile(StepContract):
    """data.file."""

    situations = {
        "path": {"path": ["other.jsonl"]},
        "encoding": {"keep": ["place"], "encoding": "cp1252"},
        **{f"columns.{name}": {"columns": TEMPLATES} for name in TEMPLATES},
    }
    others = {"keep": ["place"]} | {f"columns.{n}": "{{ label | upper }}" for n in TEMPLATES}

    def step(self, folder: Path) -> Step:
        return self.step_with_rows(folder, lambda rows: rows)

    def step_with_rows(self, folder: Path, change: Change) -> Step:
        placed = [{**row, "place": "Évora"} for row in ROWS]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in change(placed)]
        (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / "other.jsonl").write_text("".join(lines[:4]), encoding="utf-8")
        return File(path=Files(["rows.jsonl"]))


class TestRequests(StepContract):
    """data.requests, whose requests are compared with training rows."""

    def step(self, folder: Path) -> Step:
        return self.step_with_rows(folder, lambda rows: rows)

    def step_with_rows(self, folder: Path, change: Change) -> Step:
        lines = [
            {"finery": 1, "status": 200, "request": {"messages": row["messages"][:2]},
             "response": {"choices": [{"message": row["messages"][2], "probability": 0.5}]}}
            for row in change(ROWS)
        ]  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "log.jsonl").write_text(text, encoding="utf-8")
        return Requests(path=Files(["log.jsonl"]), against=rows(folder))


class TestSqlQuery(StepContract):
    """sql.query, on a SQLite file."""

    situations = {f"columns.{name}": {"columns": SQL_TEMPLATES} for name in SQL_TEMPLATES} | {
        "path": {"path": "other.db"},
        "query_file": {"query": None, "query_file": "rows.sql"},
        "params": {"query": "SELECT prompt, completion FROM t LIMIT :n", "params": {"n": 2}},
    }
    others = {f"columns.{name}": "{{ prompt | upper }}" for name in SQL_TEMPLATES}

    def step(self, folder: Path) -> Step:
        return self.step_with_rows(folder, lambda rows: rows)

    def step_with_rows(self, folder: Path, change: Change) -> Step:
        folder.mkdir(parents=True, exist_ok=True)
        turns = [(row["prompt"], row["completion"]) for row in change(OTHERS)]
        database = sqlite3.connect(folder / "shop.db")
        database.execute("CREATE TABLE t (prompt TEXT, completion TEXT)")
        database.executemany("INSERT INTO t VALUES (?, ?)", turns)
        database.commit()
        database.close()
        query = "SELECT prompt, completion FROM t ORDER BY rowid"
        (folder / "rows.sql").write_text(f"{query} DESC", encoding="utf-8")
        (folder / "other.db").write_bytes(b"")
        return SqlQuery(path=finery.File(["shop.db"]), query=query)


class TestDocsFiles(StepContract):
    """docs.files."""

    situations = {
        "bad_files": {"path": ["docs", "bad.txt"]},
        "path": {"path": ["docs/notes.md"]},
    }
    others = {"shortest": 900, "overlap": 300}

    def step(self, folder: Path) -> Step:
        return self.step_with_rows(folder, lambda rows: rows)

    def step_with_rows(self, folder: Path, change: Change) -> Step:
        (folder / "docs").mkdir(parents=True)
        paragraphs = [
            {"text": f"{place} the {s} works. " * 9} for s in SUBJECTS for place in PLACES
        ]
        (folder / "bad.txt").write_bytes(b"caf\xe9")
        text = "\n\n".join(str(row["text"]) for row in change(paragraphs))
        (folder / "docs" / "manual.md").write_text(f"# Manual\n\n{text}", encoding="utf-8")
        (folder / "docs" / "notes.md").write_text(text[:200], encoding="utf-8")
        return DocsFiles(path=Files(["docs"]))
