"""The file of decisions: its lines, what counts, several writers, torn ends, git."""

import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery import DataError
from finery.rows import Row, row_id, with_id
from finery_review.decisions import (
    Decision,
    Earlier,
    Standing,
    apply_decision,
    as_line,
    parse,
    prompt_hash,
    token_of,
)
from finery_review.log import Conflict, DecisionLog, read

TIMES = [f"2026-01-01T00:00:0{n}Z" for n in range(4)]
ROWS = ["r1", "r2", "r3"]
TEXT = st.text(max_size=20)


def made(row: str, do: str = "accept", **more: Any) -> Decision:
    return Decision(id=row, do=do, **more)  # type: ignore[arg-type]


def decide(log: DecisionLog, row: str, do: str = "accept", **more: Any) -> Decision:
    log.refresh()
    return log.append(made(row, do, **more), token_of(log.standing.of(row)))


def _decisions() -> st.SearchStrategy[Decision]:
    return st.builds(
        lambda row, do, by, at: made(
            row, do, by=by, at=at, set={"label": by} if do == "edit" else None
        ),
        st.sampled_from(ROWS),
        st.sampled_from(["accept", "reject", "edit", "swap", "note", "undo"]),
        TEXT,
        st.sampled_from(TIMES),
    )


DECISIONS = _decisions()


# -- lines ----------------------------------------------------------------------------------------


def test_a_line_has_a_fixed_order_and_no_noise() -> None:
    line = as_line(made("r", "edit", set={"label": "x"}, reason="typo", by="Ann", at=TIMES[0]))
    assert line == (
        b'{"id":"r","do":"edit","set":{"label":"x"},"reason":"typo","by":"Ann",'
        b'"at":"2026-01-01T00:00:00Z"}\n'
    )
    assert as_line(made("r")) == b'{"id":"r","do":"accept"}\n'


@given(st.lists(DECISIONS, max_size=8))
def test_lines_are_read_as_they_were_written(decisions: list[Decision]) -> None:
    content = b"".join(map(as_line, decisions))
    assert parse(content, "f") == (decisions, b"")
    assert content.count(b"\n") == len(decisions)


@given(st.lists(DECISIONS, min_size=1, max_size=5), st.data())
def test_a_torn_last_line_is_told_and_the_others_are_read(
    decisions: list[Decision], data: st.DataObject
) -> None:
    last = as_line(decisions[-1])
    cut = data.draw(st.integers(1, len(last) - 2))
    content = b"".join(map(as_line, decisions[:-1])) + last[:cut]
    assert parse(content, "f") == (decisions[:-1], last[:cut])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"id":"a","do":"acept"}', "Invalid enum value"),
        (b'{"id":"a","do":"edit"}', "must be present for an edit"),
        (b'{"id":"a","do":"edit","set":{"id":"x"}}', "can't change a row's id"),
        (b"<<<<<<< HEAD", "a git merge wasn't finished"),
        (b'{"do":"accept"}', "missing required field `id`"),
    ],
)
@pytest.mark.parametrize("end", [b"\n" + as_line(Decision(id="b", do="accept")), b""])
def test_a_broken_line_is_an_error_with_its_place(line: bytes, says: str, end: bytes) -> None:
    content = as_line(made("a")) + b"\n" + line + end
    with pytest.raises(DataError, match=says) as caught:
        parse(content, "reviews/x.jsonl")
    assert caught.value.where == "reviews/x.jsonl:3"
    assert caught.value.fix


# -- what counts ----------------------------------------------------------------------------------


def test_the_last_line_counts_and_an_undo_takes_it_back() -> None:
    standing = Standing([made("a"), made("b"), made("a", "reject"), made("b", "undo")])
    assert standing.of("a") == made("a", "reject")
    assert standing.of("b") is None
    assert [d.id for d in standing] == ["a"]


@given(st.lists(DECISIONS, max_size=10), st.lists(DECISIONS, max_size=10), st.randoms())
def test_a_union_merge_may_put_the_lines_of_two_branches_in_any_order(
    ours: list[Decision], theirs: list[Decision], random: Any
) -> None:
    """Of each branch's own lines the order stays; times tell the rest, but within one second."""
    ours = sorted(ours, key=lambda d: d.at)
    theirs = sorted(theirs, key=lambda d: d.at)
    sides = [*(0 for _ in ours), *(1 for _ in theirs)]
    random.shuffle(sides)
    rest = [iter(ours), iter(theirs)]
    merged = [next(rest[side]) for side in sides]
    for row in ROWS:
        of = [d for d in (*ours, *theirs) if d.id == row]
        latest = [d for d in of if d.at == max(x.at for x in of)] if of else []
        if len(latest) == 1:
            expected = None if latest[0].do == "undo" else latest[0]
            assert Standing(merged).of(row) == expected


def test_git_merges_two_branches_of_decisions_without_a_conflict(tmp_path: Path) -> None:
    def git(*args: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *args], cwd=tmp_path, check=True, capture_output=True)

    log = DecisionLog(tmp_path / "reviews/x.jsonl")
    git("init", "-b", "main")
    decide(log, "r1")
    git("add", ".")
    git("commit", "-m", "1")
    git("checkout", "-b", "other")
    decide(log, "r2", "reject", by="other")
    git("commit", "-am", "2")
    git("checkout", "main")
    log.refresh()
    assert log.standing.of("r2") is None
    assert log.generation == 1
    decide(log, "r3", by="main")
    git("commit", "-am", "3")
    git("merge", "other")
    log.refresh()
    standing = [log.standing.of(row) for row in ROWS]
    assert [d.do for d in standing if d] == ["accept", "reject", "accept"]


# -- appending ------------------------------------------------------------------------------------


def test_the_first_decision_makes_the_folder_ready_for_git(tmp_path: Path) -> None:
    decide(DecisionLog(tmp_path / "reviews/x.jsonl"), "a")
    assert "merge=union" in (tmp_path / "reviews/.gitattributes").read_text()
    decide(DecisionLog(tmp_path / "other.jsonl"), "a")
    assert not (tmp_path / ".gitattributes").exists()


def test_a_second_window_hears_and_does_not_overwrite(tmp_path: Path) -> None:
    one, two = DecisionLog(tmp_path / "x"), DecisionLog(tmp_path / "x")
    first = decide(one, "a", by="one")
    with pytest.raises(Conflict) as caught:
        two.append(made("a", "reject"), seen_token="")
    assert caught.value.now == first
    two.append(made("a", "reject"), seen_token=token_of(first))
    one.refresh()
    assert [d.do for d in one.standing] == ["reject"]
    assert one.rows == ["a", "a"]


def test_a_clock_that_goes_back_does_not_make_a_decision_count_less(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(as_line(made("a", at="2999-01-01T00:00:00Z")))
    log = DecisionLog(path)
    assert decide(log, "a", "reject").at == "2999-01-01T00:00:00Z"
    assert [d.do for d in standing_in(path)] == ["reject"]


def standing_in(path: Path) -> list[Decision]:
    log = DecisionLog(path)
    log.refresh()
    return list(log.standing)


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 1]),
        st.sampled_from(["append", "refresh", "tear", "replace"]),
        DECISIONS,
    ),
    max_size=25,
)


@given(STEPS)
def test_any_interleaving_of_two_writers_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    """Two logs append in turn; a third process dies in mid-write; git replaces the file."""
    path = tmp_path_factory.mktemp("log") / "x"
    logs, written = [DecisionLog(path), DecisionLog(path)], list[Decision]()
    for which, what, decision in steps:
        if what == "append":
            written.append(decide(logs[which], decision.id, decision.do, set=decision.set))
        elif what == "refresh":
            logs[which].refresh()
        elif what == "tear" and path.exists() and path.read_bytes().endswith(b"\n"):
            with path.open("ab") as out:
                out.write(as_line(decision)[:-5])
        elif what == "replace" and path.exists():
            path.with_suffix(".new").write_bytes(path.read_bytes())
            path.with_suffix(".new").replace(path)
    for log in logs:
        log.refresh()
        assert [log.standing.of(row) for row in ROWS] == [Standing(written).of(row) for row in ROWS]
    assert read(path)[0] == written if path.exists() else not written


def _append_many(path: Path, who: int, count: int) -> None:
    log = DecisionLog(path)
    for number in range(count):
        log.append(made(f"{who}-{number}", reason="x" * 5000), seen_token="")


def test_processes_at_once_lose_nothing_and_tear_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, count = tmp_path / "x", 60
    monkeypatch.syspath_prepend(Path(__file__).parent)  # they import this module
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(path, n, count)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0, 0, 0]
    decisions, rest = read(path)
    assert sorted(d.id for d in decisions) == sorted(
        f"{w}-{n}" for w in range(3) for n in range(count)
    )
    assert rest == b""


def test_a_torn_end_is_taken_away_and_told_with_the_next_decision(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(as_line(made("a")) + b'{"id":"b","do":"acc')
    log = DecisionLog(path)
    log.refresh()
    assert [d.id for d in log.standing] == ["a"]
    assert log.notices == []
    decide(log, "c")
    assert "19 bytes" in log.notices[0]
    assert [d.id for d in read(path)[0]] == ["a", "c"]


FULL = """
import resource, sys
from pathlib import Path
from finery import StepError
from finery_review.decisions import Decision
from finery_review.log import DecisionLog
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = DecisionLog(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
for number in range(9):
    try:
        log.append(Decision(id=f"r{number}", do="accept"), "")
    except StepError as error:
        print(number, error)
        break
"""


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "x"
    ran = subprocess.run(
        [sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True
    )
    number = int(ran.stdout.split()[0])
    assert "can't write" in ran.stdout
    assert [d.id for d in read(path)[0]] == [f"r{n}" for n in range(number)]
    assert number > 0


# -- rows -----------------------------------------------------------------------------------------


def chat(user: str, answer: str, **more: Any) -> Row:
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return with_id({"messages": turns, **more})


def test_an_edited_row_has_the_old_one_as_its_parent() -> None:
    row = chat("q", "a", label="x", source="here")
    new = apply_decision(
        row, made(row["id"], "edit", set={"label": None, "messages": chat("q", "b")["messages"]})
    )
    assert new is not None
    assert new["parents"] == [row["id"]]
    assert new["id"] == row_id(new) != row["id"]
    assert (new["messages"][1]["content"], new["source"], "label" in new) == ("b", "here", False)


def test_a_changed_row_is_known_by_parent_prompt_or_siblings() -> None:
    old = chat("q", "a")
    decided = made(old["id"], "reject", prompt=prompt_hash(old), parents=["p1"])
    earlier = Earlier([decided, made("other", "undo", prompt=prompt_hash(old))])
    assert earlier.of([old["id"]], "") == decided
    assert earlier.of([], prompt_hash(chat("q", "b"))) == decided
    assert earlier.of(["p1"], prompt_hash(chat("Q", "b"))) == decided
    assert earlier.of(["p2"], prompt_hash(chat("Q", "b"))) is None
    assert earlier.of([], "") is None
    assert earlier.count == 1
