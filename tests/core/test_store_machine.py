"""Two clones of a project, a shared store, and all that can go wrong, in any order.

What a command must leave is known: an output's bytes follow from the settings, and what is whole on
the disk is never built again.
"""

import contextlib
import random
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, in_memory
from hypothesis import HealthCheck, settings, stateful
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test
from store_clones import (
    PLAN,
    Clone,
    Spec,
    State,
    build,
    command,
    ends,
    finish,
    settle,
    shared_whole,
    spoil,
    start,
    whole,
)  # fmt: skip

from finery.builder import uptodate as stamp

FAULTS = ["none"] * 5 + ["unused"] * 2 + ["corrupt"] * 2 + ["cut", "late", "lose", "forbid"]
CLONES = st.integers(0, 1)
WHICH = st.integers(0, 9999)
SPECS = st.fixed_dictionaries({
    "state": st.tuples(*[st.integers(0, 1)] * 3), "faults": st.sampled_from(FAULTS),
    "push": st.sampled_from([True, True, False]),
    "fetch": st.sampled_from(["none", "final", "all", "all"]),
    "force": st.sampled_from(["", "", "", *PLAN]), "seed": st.integers(0, 999),
})  # fmt: skip


def rule(**arguments: Any) -> Callable[..., Any]:
    """Hypothesis's, which also notes each call: what failed once may pass when it is replayed."""
    ruled: Any = stateful.rule(**arguments)

    def noting(method: Callable[..., None]) -> Any:
        @wraps(method)
        def act(self: "Machine", **values: Any) -> None:
            self.notes.append(f"{method.__name__} {values}")
            method(self, **values)

        return ruled(act)

    return noting


class Machine(RuleBasedStateMachine):
    """Anything in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self.memory = contextlib.ExitStack()
        self.top = self.memory.enter_context(in_memory())
        self.shared = self.top / "shared"
        self.clones = [Clone(self.top / name) for name in "ab"]
        self.offset, self.has_jumped = 0.0, False
        self.is_shared_damaged = False

    def teardown(self) -> None:
        if isinstance(sys.exc_info()[1], AssertionError):
            print(*self.notes, sep="\n")
        self.memory.close()

    def start(
        self, action: Callable[[], Any], fault: str = "none", seed: int = 0, end: str = "",
        after: int = 0,
    ) -> tuple[int, int]:  # fmt: skip
        """Start an action in a process of its own."""

        def act() -> Any:
            settle(fault, seed, self.offset)
            if end:
                ends(end, after)
            return action()

        return start(act)

    def build(self, clone: Clone, spec: Spec, end: str = "", after: int = 0) -> None:
        """Build, and compare with what must be."""
        clone.write(spec["state"])
        time.sleep(0.025)  # more than FINE_NS
        before, shared = whole(clone.root), shared_whole(self.shared)
        is_sound, built = clone.has_sound_database(), clone.built()
        action = partial(build, clone.folder, self.shared, spec)
        answer = finish(self.start(action, spec["faults"], spec["seed"], end, after))
        self.kept(clone, before)
        assert shared <= shared_whole(self.shared)
        if answer is None or "error" in answer or (answer["errors"] and end == "full"):
            assert end, answer
            self.may_lose(clone, spec["faults"])
            clone.last = set()  # some of its steps may have new results, which count as the last
            return
        assert not answer["errors"], answer["errors"]
        forced = {answer["keys"].get(spec["force"])}
        built |= shared if spec["faults"] == "none" and is_sound else set()
        again = {*answer["ran"]} - forced & built
        assert not again & built, [n for n, key in answer["keys"].items() if key in again & built]
        clone.last = {*answer["keys"].values()}
        clone.check_outputs()

    def may_lose(self, clone: Clone, fault: str) -> None:
        """Say that a clone may have results whose files the shared store has lost.

        A build runs their steps again, if it isn't ended before. Until then, `verify` reports them.
        """
        clone.is_damaged |= self.is_shared_damaged or fault in ("corrupt", "lose")

    def kept(self, clone: Clone, keys: set[str]) -> None:
        """These keys are still whole, unless nobody noticed yet that the database is damaged.

        SQLite may then lose rows that it writes, or not find others.
        """
        assert not clone.has_sound_database() or keys <= whole(clone.root), "finished work is gone"

    @rule(
        number=CLONES, spec=SPECS, after=st.integers(0, 300),
        end=st.sampled_from(["", "", "kill", "kill", "interrupt", "full"]),
    )  # fmt: skip
    def builds(self, number: int, spec: Spec, end: str, after: int) -> None:
        self.build(self.clones[number], spec, end, after)

    @rule(number=CLONES, spec=SPECS)
    def builds_twice(self, number: int, spec: Spec) -> None:
        """The second time, nothing runs."""
        clone, again = self.clones[number], spec | {"force": "", "faults": "none"}
        self.build(clone, spec | {"faults": "none"})
        answer = finish(self.start(partial(build, clone.folder, self.shared, again)))
        assert answer["ran"] == []

    @rule(specs=st.tuples(SPECS, SPECS), number=CLONES, collects=st.booleans())
    def builds_at_once(self, specs: tuple[Spec, ...], number: int, collects: bool) -> None:
        """Two builds with the same settings, in one clone or in both, and maybe a collection."""
        first, second = self.clones[0], self.clones[number]
        pairs = [(first, specs[0]), (second, specs[1] | {"state": specs[0]["state"]})]
        for clone, spec in pairs:
            clone.write(spec["state"])
        time.sleep(0.025)
        before = [clone.built() for clone, _ in pairs]
        actions = [
            self.start(partial(build, c.folder, self.shared, s), s["faults"], s["seed"])
            for c, s in pairs
        ]
        if collects:
            time.sleep(0.02)
            actions.append(self.start(partial(command, first.folder, "cache", "gc", "--keep", "1")))
        answers = [finish(action) for action in actions]
        assert not [answer for answer in answers if "error" in answer]
        ran = [{*answer["ran"]} for answer in answers[:2]]
        for (clone, spec), answer, known in zip(pairs, answers, before, strict=False):
            assert not answer["errors"], answer["errors"]
            keys = answer["keys"]
            assert not ({*answer["ran"]} & known) - {keys.get(spec["force"])} or collects
            clone.last = {*keys.values()}
            clone.check_outputs()
        if first is second and not (collects or specs[0]["force"] or specs[1]["force"]):
            assert not ran[0] & ran[1], "a step ran twice"

    @rule(number=CLONES, end=st.sampled_from(["", "", "kill"]), after=st.integers(0, 60))
    def collects(self, number: int, end: str, after: int) -> None:
        clone = self.clones[number]
        if clone.root.exists():
            needed = whole(clone.root) & clone.last
            collect = partial(command, clone.folder, "cache", "gc", "--keep", "1")
            answer = finish(self.start(collect, end=end, after=after))
            assert answer is None or answer["code"] == 0, answer
            self.kept(clone, needed)

    @rule(number=CLONES)
    def verifies(self, number: int) -> None:
        clone = self.clones[number]
        if clone.root.exists():
            before = whole(clone.root)
            is_damaged = clone.is_damaged or clone.leads_nowhere()
            verify = partial(command, clone.folder, "cache", "verify")
            answer = finish(self.start(verify))
            assert answer["code"] == 0 or is_damaged, answer["out"]
            assert finish(self.start(verify))["code"] == 0
            self.kept(clone, before)
            clone.is_damaged = False

    @rule(number=CLONES, fault=st.sampled_from(FAULTS), seed=st.integers(0, 99))
    def fetches(self, number: int, fault: str, seed: int) -> None:
        clone = self.clones[number]
        before = whole(clone.root)
        answer = finish(self.start(partial(command, clone.folder, "fetch"), fault, seed))
        assert answer["code"] in (0, 1, 2), answer["out"]
        assert "Traceback" not in answer["out"], answer["out"]
        self.may_lose(clone, fault)
        self.kept(clone, before)

    @rule(number=CLONES, place=st.none() | st.floats(0, 1))
    def carries_a_bundle(self, number: int, place: float | None) -> None:
        """From one clone to the other; place: of a damaged byte."""
        clone, other, file = self.clones[number], self.clones[1 - number], self.top / "x.tar"
        export = partial(command, clone.folder, "export", "--bundle", str(file))
        answer = finish(self.start(export))
        assert "Traceback" not in answer["out"], answer["out"]
        self.may_lose(clone, "none")
        if answer["code"] == 0:
            before, content = whole(other.root), bytearray(file.read_bytes())
            if place is not None:
                content[int(place * (len(content) - 1))] ^= 1
            file.write_bytes(content)
            answer = finish(self.start(partial(command, other.folder, "import", str(file))))
            assert answer["code"] in ((0,) if place is None else (0, 2)), answer["out"]
            self.kept(other, before)

    # -- damage ------------------------------------------------------------------------------------

    @rule(
        number=CLONES,
        which=st.integers(0, 99),
        how=st.sampled_from(["flip", "cut", "gone", "touch"]),
    )
    def damages_a_blob(self, number: int, which: int, how: str) -> None:
        clone = self.clones[number]
        if path := clone.pick("objects/*/*", which):
            time.sleep(0.01)
            clone.is_damaged |= how != "touch"
            spoil(path, how, which)

    @rule(number=CLONES, which=st.integers(0, 99), how=st.sampled_from(["gone", "more", "text"]))
    def damages_a_view(self, number: int, which: int, how: str) -> None:
        clone = self.clones[number]
        if path := clone.pick("views/*/**/*", which):
            clone.is_damaged = True
            if how == "more":
                path.with_name("more").write_text("?")
            else:
                path.unlink()
            if how == "text":
                path.write_text("?")

    @rule(number=CLONES, which=st.integers(0, 9999), how=st.sampled_from(["noise", "cut", "gone"]))
    def damages_the_database(self, number: int, which: int, how: str) -> None:
        clone = self.clones[number]
        if (path := clone.root / "finery.db").exists():
            clone.is_damaged = True
            clone.checkpoint()
            if self.has_jumped:  # then the order of builds is only in the database
                clone.last = set()
            spoil(path, how, which)

    @rule(which=st.integers(0, 999), how=st.sampled_from(["flip", "cut", "gone", "other"]))
    def damages_the_shared_store(self, which: int, how: str) -> None:
        paths = sorted(path for path in self.shared.rglob("*") if path.is_file())
        if paths:
            self.is_shared_damaged = True
            path = paths[which % len(paths)]
            if how == "other":
                same = [*path.parent.parent.glob("*/*")]
                path.write_bytes(same[which % len(same)].read_bytes())
            else:
                spoil(path, how, which)

    @rule(number=CLONES)
    def loses_a_store(self, number: int) -> None:
        clone = self.clones[number]
        shutil.rmtree(clone.root, ignore_errors=True)
        clone.is_damaged, clone.last = False, set()

    @rule(offset=st.sampled_from([-4e7, -1e5, 0.0, 1e5, 4e7]))
    def the_clock_jumps(self, offset: float) -> None:
        self.offset, self.has_jumped = offset, True

    @invariant()
    def what_is_stamped_is_there(self) -> None:
        for clone in self.clones:
            if stamp.finished_if_done(clone.folder / "recipe.yaml", (), ()):
                clone.check_outputs()


@pytest.mark.slow
@pytest.mark.forks
def test_no_order_of_anything_serves_wrong_bytes_or_loses_work(
    pytestconfig: pytest.Config,
) -> None:
    thorough = pytestconfig.getoption("thorough")
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=120 if thorough else 12, stateful_step_count=40 if thorough else 25,
            deadline=None, suppress_health_check=[*HealthCheck],
        ),
    )  # fmt: skip


@pytest.mark.forks
def test_what_can_be_read_of_a_damaged_database_is_not_built_again(
    pytestconfig: pytest.Config,
) -> None:
    spec = dict[str, Any](faults="none", push=True, fetch="final", force="")
    with in_memory() as top:
        shared, first, second = top / "shared", Clone(top / "a"), Clone(top / "b")
        states: list[State] = [(0, 0, 0), (1, 0, 0), (0, 1, 1)]

        def make(clone: Clone, state: State) -> Any:
            clone.write(state)
            time.sleep(0.025)

            def act() -> Any:
                settle("none", 0, 0.0)
                return build(clone.folder, shared, spec)

            return finish(start(act))

        for clone, some in ((first, states), (second, states[:2])):
            for state in some:
                assert not make(clone, state)["errors"]
            clone.checkpoint()
        for seed in range(250 if pytestconfig.getoption("thorough") else 10):
            chance = random.Random(seed)
            clone, how = chance.choice([first, second]), chance.choice(["noise", "cut", "flip"])
            folder = shutil.copytree(clone.folder, top / "damaged", symlinks=True)
            damaged = Clone.at(folder)
            spoil(damaged.root / "finery.db", how, seed)
            built = whole(damaged.root)
            if damaged.has_sound_database():
                built |= shared_whole(shared)
            answer = make(damaged, chance.choice(states))
            assert not answer["errors"], answer["errors"]
            assert not {*answer["ran"]} & built, seed
            damaged.check_outputs()
            shutil.rmtree(folder)


@pytest.mark.slow
def test_builds_that_are_killed_at_any_moment_lose_nothing(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    clone, chance = Clone(tmp_path / "a"), random.Random(3)
    project = Project(clone.folder)
    options = ["build", "--remote", f"file://{tmp_path}/shared", "--push", "--fetch", "all"]
    for _ in range(40 if pytestconfig.getoption("thorough") else 6):
        before = whole(clone.root)
        clone.write((chance.randrange(2), chance.randrange(2), chance.randrange(2)))
        process = project.start(*options)
        time.sleep(chance.random() * 3)
        process.kill()
        process.communicate()
        assert before <= whole(clone.root)
    assert project.run(*options).code == 0
    clone.check_outputs()
    assert project.here("cache", "verify").code == 0
    shutil.rmtree(clone.root)
    assert project.ran(*options[1:]) == []
    clone.check_outputs()
