"""Keys: everything that can change an output is in them, and nothing else."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery import (
    Artifact,
    Dataset,
    File,
    Files,
    Job,
    Key,
    Metrics,
    PluginError,
    Settings,
    Step,
    nested_step,
    setting,
    takes,
)
from finery.artifact.manifest import Parts, encode, key_of
from finery.builder.code.steps import Wrapper
from finery.builder.keys import MISSING, Change, EngineKey, Names, differences, key_parts
from finery.recipe.graph import Node, Source
from finery.step.inspect import joint_key
from finery.util.installed import package_version

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=PLAIN)
def test_encoding_loses_nothing_so_distinct_values_differ(value: Any) -> None:
    assert repr(msgspec.msgpack.decode(encode(value))) == repr(value)


@pytest.mark.parametrize(
    "values",
    [
        [1, 1.0, True, "1", [1], "true", None, 0, "", [], {}],
        [[["a"], "b"], [["a", "b"]], ["a", ["b"]], ["ab"], ["a", "b"], ["b", "a"]],
        [{"a": 1, "b": 2}, {"b": 2, "a": 1}, [["a", 1], ["b", 2]], {"a": {"b": 2}}],
        ["é", "e\u0301", "E\u0301"],
    ],
)
def test_values_that_look_alike_have_keys_of_their_own(values: list[Any]) -> None:
    assert len({key_of([("part", value)]) for value in values}) == len(values)


class Group(Settings):
    """Settings inside settings."""

    rank: int = setting(16, help="Rank.")
    note: str = setting("", help="Changes nothing.", affects_output=False)


class Probe(Step, packages=("msgspec",), version="1"):
    """A step type with one of everything."""

    rows: list[Dataset] = takes(help="Rows.")
    judged: Dataset | None = takes(
        None, help="Rows that the step sees the name of.", uses_name=True
    )
    path: Files = setting("x", help="A file.")
    epochs: int = setting(1, help="Epochs.")
    rate: float = setting(1e-3, help="Learning rate.")
    workers: int = setting(2, help="Changes nothing.", affects_output=False)
    group: Group = setting(Group(), help="More.")
    names: dict[str, str] = setting({}, help="A mapping.")
    inner: Step | list[Step] | None = nested_step("data", given={}, help="A step inside.")

    def run(self, job: Job) -> Dataset:
        """Do nothing."""
        raise NotImplementedError


class Other(Probe):
    """Another class in the same file."""


class Unseeded(Probe, seeded=False):
    """The same, whatever the seed."""


class Counting(Probe):
    """The number of GPUs changes the output."""

    def cache_key(self) -> Key:
        return super().cache_key() | Key(gpus=True)


class Newer(Probe, version="2"):
    """The same, with another version."""


def node(cls: type[Probe] = Probe, *, name: str = "a", seed: int = 1, **settings: Any) -> Node:
    """A node with this step, taking from the steps `x` and `y`, and from `z` by name."""
    placeholder = Dataset.placeholder("")
    step = cls(rows=[placeholder, placeholder], judged=placeholder, path=Files(["x"]), **settings)
    sources = [Source("rows", 0, "x", "x", ""), Source("rows", 1, "y", "y", "")]
    sources += [Source("judged", 0, "z", "z", "")]
    return Node(name, "data", "probe.probe", step, {"": Dataset}, seed, [], sources)


def outputs(kinds: dict[str, type[Artifact]]) -> Node:
    """A node with these outputs."""
    made = node()
    made.outputs = kinds
    return made


ENGINE = EngineKey("engine.Gguf", {"engine.py": "e1"}, Key(packages=("blake3",)))
WRAPPER = Wrapper("meter.around", "meter", {"meter.py": "w1"})
GIVEN: dict[str, Any] = {
    "code": {"probe/a.py": "c1"},
    "inputs": {("rows", 0): "d1", ("rows", 1): "d2", ("judged", 0): "d3"},
    "files": {"path": [("x", "f1")]},
    "pinned": None,
    "provenance": {},
    "engines": {"gguf": ENGINE},
    "wrappers": [WRAPPER],
    "gpus": 1,
}


def key(made: Node | None = None, **given: Any) -> str:
    """The key of a node with `GIVEN`, but for what is given."""
    made = made or node()
    return key_of(key_parts(made, **{"own": joint_key(made.step), **GIVEN, **given}))


SWAPPED = {("rows", 0): "d2", ("rows", 1): "d1", ("judged", 0): "d3"}
RENAMED = node()
RENAMED.sources[2] = Source("judged", 0, "other", "other", "")

CHANGES = {
    "setting": key(node(epochs=2)),
    "setting of another type": key(node(rate=1)),
    "nested setting": key(node(group=Group(rank=8))),
    "mapping": key(node(names={"a": "b"})),
    "mapping with a second entry": key(node(names={"a": "b", "c": "d"})),
    "mapping in another order": key(node(names={"c": "d", "a": "b"})),
    "seed": key(node(seed=2)),
    "version": key(node(Newer)),
    "without seed": key(node(Unseeded)),
    "code": key(code={"probe/a.py": "c2"}),
    "more code": key(code={"probe/a.py": "c1", "probe/b.py": "c1"}),
    "input": key(inputs={**GIVEN["inputs"], ("rows", 1): "d4"}),
    "order of inputs": key(inputs=SWAPPED),
    "name of a named input": key(RENAMED),
    "file": key(files={"path": [("x", "f2")]}),
    "name of a file": key(files={"path": [("y", "f1")]}),
    "pin": key(pinned="abc"),
    "engine's class": key(engines={"gguf": ENGINE._replace(name="engine.Other")}),
    "engine's code": key(engines={"gguf": ENGINE._replace(code={"engine.py": "e2"})}),
    "engine's packages": key(engines={"gguf": ENGINE._replace(own=Key())}),
    "engine's format": key(engines={"hf": ENGINE}),
    "class": key(node(Other)),
    "outputs": key(outputs({"": Metrics})),
    "names of outputs": key(outputs({"train": Dataset})),
    "step inside": key(node(inner=Probe(rows=[], path=Files(["x"])))),
    "version of a step inside": key(node(inner=Newer(rows=[], path=Files(["x"])))),
    "list of a step": key(node(inner=[Probe(rows=[], path=Files(["x"]))])),
    "list of steps": key(node(inner=[Probe(rows=[], epochs=2), Probe(rows=[])])),
    "list of steps in another order": key(node(inner=[Probe(rows=[]), Probe(rows=[], epochs=2)])),
    "wrapper's code": key(wrappers=[WRAPPER._replace(code={"meter.py": "w2"})]),
    "a wrapper less": key(wrappers=[]),
    "order of wrappers": key(wrappers=[WRAPPER, WRAPPER._replace(name="other.f", plugin="other")]),
    "the other order": key(wrappers=[WRAPPER._replace(name="other.f", plugin="other"), WRAPPER]),
}


def test_every_change_of_a_part_gives_another_key() -> None:
    keys = [key(), *CHANGES.values()]
    assert len(set(keys)) == len(keys)


def test_what_cannot_change_the_output_is_not_in_the_key() -> None:
    assert key(node(workers=64, group=Group(note="x"))) == key()
    assert key(node(epochs=1, rate=1e-3)) == key()  # written out or by default
    assert key(node(name="b")) == key()
    assert key(node(Unseeded, seed=2)) == key(node(Unseeded, seed=1))


def test_a_number_of_gpus_is_in_the_key_where_it_can_change_the_output() -> None:
    assert key(gpus=4) == key()
    keys = [key(node(Counting), gpus=gpus) for gpus in (0, 1, 2, 4)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_joined_keys_keep_everything_and_refuse_two_values_of_a_fact() -> None:
    one = Key(packages=["a"], facts={"dtype": "bf16"}, seeded=True)
    other = Key(packages=["b"], code=[json], watched=["/x"], facts={"dtype": "bf16"}, gpus=True)
    assert one | other == Key(
        packages=("a", "b"), code=(json,), watched=("/x",), facts={"dtype": "bf16"},
        seeded=True, gpus=True,
    )  # fmt: skip
    with pytest.raises(PluginError, match="'dtype' different values: 'bf16' and 'fp32'"):
        one | Key(facts={"dtype": "fp32"})
    own = Key(facts={"dtype": "fp32"})
    engine = ENGINE._replace(own=Key(facts={"dtype": "bf16"}))
    with pytest.raises(PluginError, match="'dtype' different values"):
        key_parts(node(), **{**GIVEN, "own": own, "engines": {"gguf": engine}})


def test_the_seed_counts_where_a_step_inside_uses_it() -> None:
    inside, unseeded = Probe(rows=[], path=Files(["x"])), Unseeded(rows=[], path=Files(["x"]))
    seeds = [1, 2]
    assert len({key(node(Unseeded, seed=seed, inner=inside)) for seed in seeds}) == 2
    assert len({key(node(Unseeded, seed=seed, inner=unseeded)) for seed in seeds}) == 1


def test_an_unnamed_input_may_come_from_a_step_of_any_name() -> None:
    other = node()
    other.sources[0] = Source("rows", 0, "other.train", "other", "train")
    assert key(other) == key()


def test_package_versions_are_parts() -> None:
    parts = dict(key_parts(node(), own=joint_key(node().step), **GIVEN))
    assert parts["package msgspec"] == msgspec.__version__
    assert parts["package blake3"] == package_version("blake3")
    assert package_version("finery-no-such-package") == "not installed"


def test_no_part_hides_another() -> None:
    again, other = WRAPPER._replace(name="meter.again"), WRAPPER._replace(code={"meter.py": "w2"})
    made = node(names={"a": "b"})
    for wrappers in ([WRAPPER], [WRAPPER, again], [WRAPPER, other]):
        parts = key_parts(made, own=joint_key(made.step), **{**GIVEN, "wrappers": wrappers})
        names = [name for name, _ in parts]
        assert len(set(names)) == len(names)
        codes = {digest for wrapper in wrappers for digest in wrapper.code.values()}
        assert codes <= {value for name, value in parts if name.startswith("code meter.py")}


PARTS = st.lists(st.tuples(st.text(max_size=5), PLAIN), max_size=6, unique_by=lambda p: p[0])


@given(before=PARTS, after=PARTS)
def test_differences_tell_all_changes(before: Parts, after: Parts) -> None:
    found = differences(before, after)
    old, new = dict(before), dict(after)
    for name, was, now in found:
        assert was is old.get(name, MISSING)
        assert now is new.get(name, MISSING)
    changed = {name for name, _, _ in found}
    for name in {*old, *new} - changed:
        assert encode(old[name]) == encode(new[name])


def test_an_empty_text_is_shown() -> None:
    assert Change("setting die", "", "kill", Names()).values() == ['""', "kill"]


class Named(Probe):
    """A step type with a file or a name."""

    template: File | None = setting(None, may_be="name", help="A file or a name.")


def test_a_name_in_the_place_of_a_file_is_in_the_key() -> None:
    def of(name: str | None, *files: tuple[str, str]) -> str:
        template = None if name is None else File([name])
        named = {"path": [("x", "f1")], "template": files}
        return key(node(Named, template=template), files=named)

    file = ("own", "f1")
    keys = [of(None), of("qwen3"), of("llama3"), of("own", file), of("own", ("own", "f2"))]
    assert len(set(keys)) == len(keys)
    assert of("own", file) == of("./own", file)


class Linear(Settings, tag="linear"):
    """One of two kinds of settings."""

    steps: int = setting(1, help="Steps.")


class Cosine(Linear, tag="cosine"):
    """The other kind, with the same settings."""


class Scheduled(Probe):
    """A step type with settings of one of two types."""

    schedule: Linear | Cosine = setting(Linear(), help="A schedule.")


def test_the_type_of_settings_is_in_the_key_where_there_are_several() -> None:
    schedules = [Linear(), Cosine(), Linear(steps=2), Cosine(steps=2)]
    keys = [key(node(Scheduled, schedule=schedule)) for schedule in schedules]
    assert len(set(keys)) == len(keys)
    made = node(Scheduled, schedule=Cosine())
    parts = dict(key_parts(made, own=joint_key(made.step), **GIVEN))
    assert parts["setting schedule.type"] == "cosine"
    assert parts["setting schedule.steps"] == 1
