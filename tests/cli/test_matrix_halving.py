"""Successive halving of a matrix: its rounds, a search that was killed, and what it refuses."""

import json
import os
import signal

import pytest
from conftest import Project, running, until
from matrix_project import RECIPE, project_in, ran

HALVED = RECIPE + "  halve: {keep: 1/2}\n"


@pytest.fixture(scope="module")
def planned() -> dict[str, str]:
    """What `plan` prints before anything is built."""
    return {}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, planned: dict[str, str]) -> Project:
    """Twelve variants, halved to six, three and one; killed in the second round and built again."""
    t = project_in(tmp_path_factory.mktemp("halved"), HALVED)
    t.env["MARK"] = f"halving-{os.urandom(6).hex()}"
    planned["text"] = t.run("plan").out
    process = t.start("build")
    until(lambda: any(name.endswith("to 0.25") for name in ran(t)))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: not running(t.env["MARK"]))
    built = t.run("build")
    assert built.code == 0, built.out
    return t


def test_the_plan_counts_the_steps_of_all_rounds(built: Project, planned: dict[str, str]) -> None:
    rows = [line.split() for line in planned["text"].splitlines()]
    trainings = [int(row[2][1:]) for row in rows if row[1:2] == ["sft"] and row[2][0] == "("]
    assert trainings == [12, 6, 3]
    assert "46 steps of variants, 46 to build; 2 shared by all; 3 steps to rank" in planned["text"]
    assert "to rank them; 5 of the winner\n56 steps: " in planned["text"]


def test_each_round_goes_on_with_the_better_half(built: Project) -> None:
    trained = [name.split()[1:] for name in ran(built) if name.startswith("train")]
    ends = {end: [t for t in trained if t[-1] == end] for end in ("0.125", "0.25", "0.5", "1")}
    assert [len(of) for of in ends.values()] == [12, 6, 3, 1]
    assert ends["1"][0][:3] == ["0.0004", "16", "30"]  # the highest rate, the most rows
    # A kill interrupts at most the step that runs; none that had ended runs again.
    assert sum(n - 1 for name, n in ran(built).items() if name.startswith("train")) <= 1
    assert "46 steps of variants, 0 to build" in built.run("plan").out


def test_the_table_says_how_far_each_variant_was_trained(built: Project) -> None:
    out = built.run("show", "matrix", "--json").out
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["trained"] for line in lines] == [0.5] * 3 + [0.25] * 3 + [0.125] * 6
    assert [line["chosen"] for line in lines] == [True] + [False] * 11
    assert "chosen: rate=4e-4,r=16,rows=all" in built.run("show", "matrix").out


def test_rankings_name_variants_not_places(built: Project) -> None:
    for ranking, count in (("round-1", 12), ("round-2", 6), ("winner", 3)):
        shown = json.loads(built.run("show", ranking, "--json").out)
        assert shown["meta"]["chosen"] == "rate=4e-4,r=16,rows=all"
        assert shown["meta"]["by"] == "sft.accuracy"
        scores = shown["metrics"]["scores"]
        assert len(scores) == count
        assert all(name.startswith("rate=") for name in scores)
        words = " ".join(shown["metrics"]["details"]["words"])
        assert "place=" not in words


def test_the_test_rows_judge_the_winner_only(built: Project) -> None:
    judged = [name for name in ran(built) if name.startswith("judge")]
    assert len({name for name in judged if "on held" in name}) == len(judged)
    assert "selected-on-test" not in built.run("check").out


@pytest.mark.parametrize(
    ("matrix", "error"),
    [
        ("  halve: {keep: 2}\n", "`keep` must be a share between 0 and 1, but it is 2"),
        ("  seeds: 2\n  halve: {}\n", "can't be combined with `seeds`"),
    ],
)
def test_what_cannot_be_halved_is_an_error_with_a_fix(
    built: Project, matrix: str, error: str
) -> None:
    built.write({"other.yaml": RECIPE + matrix})
    checked = built.run("check", "other.yaml")
    assert checked.code == 2
    assert error in checked.out + checked.err
