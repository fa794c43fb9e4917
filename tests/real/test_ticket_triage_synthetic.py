"""The shipped recipe with a teacher behind a real server: from seeds to a judged model."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import MakeProject, Project

RECIPES = Path(__file__).parents[2] / "recipes"
SMALLER = [
    "data.seeds.take=6",
    "data.tickets.take=30",
    "generate.reworded.n=1",
    "generate.fresh.n=1",
    "train.sft.epochs=0.2",
    "evaluate.test.models=[base,sft]",
]


@pytest.mark.real
def test_a_served_teacher_makes_rows_that_are_reviewed_and_learned(
    project: MakeProject, served: tuple[str, str]
) -> None:
    url, model = served
    teacher = {
        "use": "openai.model",
        "model": model,
        "base_url": f"{url}/v1",
        "api_key": None,
        "timeout": 900,
    }
    made = project({})
    for name in ("ticket-triage", "ticket-triage-synthetic"):
        shutil.copytree(RECIPES / name, made.folder / name)
    sets = [f"models.teacher={json.dumps(teacher)}", *SMALLER]
    options = [part for text in sets for part in ("--set", text)]
    recipe = made.folder / "ticket-triage-synthetic"
    ran = made.run("build", str(recipe), "--step", "reviewed", *options, timeout=900)
    assert ran.code == 0, ran.err
    rows = _rows(made, "reviewed")
    assert rows
    assert all(row["parents"] for row in rows)

    # A person rejects one of the rows: what was asked for isn't asked again.
    line = {"id": rows[0]["id"], "do": "reject", "by": "Ann", "at": "2026-01-01T00:00:00Z"}
    (recipe / "reviews").mkdir(exist_ok=True)
    (recipe / "reviews" / "clean.jsonl").write_text(json.dumps(line) + "\n")
    ran = made.run("build", str(recipe), "--step", "test", *options, "--json", timeout=900)
    assert ran.code == 0, ran.err
    events = [json.loads(text) for text in ran.out.splitlines()]
    started = {event["step"] for event in events if event["event"] == "step_started"}
    assert started == {"reviewed", "base", "sft", "test"}
    assert [row["id"] for row in _rows(made, "reviewed")] == [row["id"] for row in rows[1:]]
    folder = made.folder / "build" / "ticket-triage-synthetic" / "test"
    assert set(json.loads((folder / "metrics.json").read_text())["scores"]) == {"base", "sft"}


def _rows(made: Project, step: str) -> list[dict[str, list[str]]]:
    folder = made.folder / "build" / "ticket-triage-synthetic" / step
    shards = sorted(folder.glob("rows-*.jsonl"))
    return [json.loads(line) for shard in shards for line in shard.read_text().splitlines()]
