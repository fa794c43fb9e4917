"""Results from elsewhere: records of an unsigned shared store, whatever they say."""

import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3
from conftest import LIGHT_STEPS, Project
from hypothesis import example, given
from hypothesis import strategies as st

from finery.artifact.kinds import Dataset, Metrics
from finery.artifact.manifest import Manifest, manifest, with_references
from finery.errors import DataError, RemoteError
from finery.rows.report import Score
from finery.store.copies import Copy, copy_files
from finery.store.layout import are_valid_outputs, blob_places, decode_record, object_name
from finery.store.links import open_view
from finery.store.objects import open_objects
from finery.store.remote import expire
from finery.util.paths import path_in

RECIPE = """
finery: 1
name: t
plugins: [./steps.py]
data:
  rows: {use: steps.source, path: rows.txt}
  copy: {use: steps.copy, rows: rows}
"""
KEY, DIGEST = "ab" * 32, "0" * 64
NAMES = st.lists(
    st.sampled_from(["a", "b", ".", "..", "", "\0", "x" * 300, "ü" * 130, "manifest.json", "\\"]),
    min_size=1, max_size=4,
).map("/".join) | st.text(max_size=8)  # fmt: skip


@given(NAMES)
@example("//a")
@example("///")
@example("a/")
@example("/".join(["x" * 200] * 30))
def test_a_name_stays_in_its_folder(name: str) -> None:
    folder = Path("/some/folder")
    try:
        path = path_in(folder, name)
    except DataError:
        return
    assert os.path.normpath(path) == str(path) != str(folder)
    assert path.is_relative_to(folder)
    assert path.relative_to(folder).as_posix() == name
    with tempfile.TemporaryDirectory() as real:  # and the file system takes it
        path_in(Path(real), name).parent.mkdir(parents=True, exist_ok=True)
        path_in(Path(real), name).touch()


JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=4) | st.floats()
    | st.sampled_from([-1, 0, 1, 10**15, 1 << 63, 1 << 70]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
FILES = st.dictionaries(NAMES, st.tuples(st.just(DIGEST), st.sampled_from([0, 5, 10**15, 1 << 63])))
NEEDED = {"rows": 1, "columns": ["id"], "format": "x"}
FACTS = st.dictionaries(st.sampled_from([*NEEDED, "x"]), JSON, max_size=2)


@st.composite
def manifests(draw: Any, levels: int = 2) -> Manifest:
    """Those with the digests of their content."""
    refs = st.dictionaries(NAMES, manifests(levels - 1), max_size=2) if levels else st.just({})
    external = st.dictionaries(NAMES, st.just(("", 1, 0)), max_size=1)
    meta = draw(FACTS.map(lambda facts: NEEDED | facts))
    made = (draw(each) for each in (FILES, refs, external, FACTS))
    try:
        return manifest(draw(st.sampled_from(["Dataset", "Model", "Nothing"])), meta, *made)
    except OverflowError:
        return manifest("Dataset", NEEDED, {})


@st.composite
def records(draw: Any) -> bytes:
    """Records, most of them wrong somewhere."""
    outputs = draw(st.dictionaries(st.just("") | NAMES, manifests(), max_size=2))
    packed = draw(st.just({}) | st.just({DIGEST: [DIGEST, 3]}) | JSON)
    record = {"format": 1, "key": KEY, "outputs": outputs, "seconds": 0.0, "packed": packed}
    text = msgspec.json.encode(record)
    changed: Any = json.loads(text)
    place: Any = changed
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 3, 4]))):  # what is somewhere in it
        keys = [*place] if isinstance(place, dict) else [*range(len(place))]
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and draw(st.booleans()):
            place = place[key]
        else:
            place[key] = draw(JSON)
            return json.dumps(changed).encode()
    return text


@given(records())
@example(json.dumps({"format": 1, "key": KEY, "outputs": {}, "seconds": 0, "packed": {}}).encode())
@example(b'{"outputs": ' + b'{"a":' * 100_000)
@example(b'{"outputs": {"": {"meta": {"a": ' + b"[" * 100_000)
def test_a_record_is_right_or_none(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    record = decode_record(KEY, body)
    if record is None:
        return
    assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record
    for _, size, _, offset in blob_places(record.outputs.values(), record.packed):
        assert 0 <= size < 1 << 63
        assert 0 <= offset < 1 << 63
    root = tmp_path_factory.getbasetemp() / "root"
    (root / "views").mkdir(parents=True, exist_ok=True)
    for made in (each for m in record.outputs.values() for each in with_references(m)):
        assert all("/" not in role for role in made.refs)
        assert isinstance(made.meta.get("rows", 0), int)
        folder = open_view(root, made)
        links = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink()}
        assert links == {*made.files, *made.external}


@pytest.mark.parametrize(
    ("kind", "meta"),
    [
        ("Dataset", {}), ("Dataset", {"rows": 1}), ("Dataset", NEEDED | {"dropped": [1]}),
        ("Dataset", NEEDED | {"findings": {"a": "b"}}), ("Metrics", {"format": "x"}),
        ("Model", {}), ("Model", {"format": 7}), ("Model", {"format": "x", "messages": 7}),
        ("Model", {"format": "gguf", "file": 7}), ("Bundle", {"run": 7}),
    ],
)  # fmt: skip
def test_an_artifact_has_the_facts_of_its_kind(kind: str, meta: dict[str, Any]) -> None:
    assert are_valid_outputs({"": manifest(kind, NEEDED, {})})
    assert not are_valid_outputs({"": manifest(kind, meta, {})})
    assert not are_valid_outputs(
        {"": manifest("Bundle", {}, {}, {"role": manifest(kind, meta, {})})}
    )


GOOD_SCORES: dict[str, Any] = {
    "rows": 2, "scores": {"m": {"accuracy": 0.5, "seconds": None}},
    "intervals": {"m": {"accuracy": [0.4, 1]}}, "details": {},
}  # fmt: skip
BAD_SCORES: list[bytes] = [
    b"[]", b"", b'{"rows":', b"\xff", b"[" * 100_000, b'{"rows": 2}',
    *(
        json.dumps(GOOD_SCORES | change).encode()
        for change in (
            {"scores": [1]}, {"details": {"\ud800": 1}}, {"scores": {"m": {"a": "x"}}},
            {"scores": {"m": {"a": 10**400}}},
            {"intervals": {"m": {"a": [1]}}}, {"details": [7]},
        )
    ),
]  # fmt: skip


def test_scores_that_arent_any_are_an_error_in_words(tmp_path: Path) -> None:
    metrics, file = Metrics(tmp_path), tmp_path / "metrics.json"
    file.write_text(json.dumps(GOOD_SCORES))
    assert metrics.report().scores == {"m": {"accuracy": Score(0.5, (0.4, 1.0))}}
    for body in BAD_SCORES:
        file.write_bytes(body)
        with pytest.raises(DataError, match="doesn't contain scores") as caught:
            metrics.report()
        assert caught.value.where == str(file)
    file.unlink()
    with pytest.raises(DataError, match="doesn't contain scores"):
        metrics.report()


@pytest.mark.parametrize(
    "line", [b"[1]", b"null", b'{"messages": [1,2', b'{"a": "\xff"}', b'{"a":' + b"[" * 100_000,
             b'{"a": ' + b"9" * 6000 + b"}", b""],
)  # fmt: skip
def test_a_line_that_is_no_row_is_an_error_in_words(tmp_path: Path, line: bytes) -> None:
    body = b'{"id": "a"}\n' + line + b"\n"
    (tmp_path / "rows-00000.jsonl").write_bytes(body)
    (tmp_path / "predictions.jsonl").write_bytes(body)
    for lines in (iter(Dataset(tmp_path)), Metrics(tmp_path).predictions()):
        assert next(lines) == {"id": "a"}
        with pytest.raises(DataError, match="isn't a JSON object") as caught:
            next(lines)
        assert str(caught.value.where).endswith(".jsonl:2")


def _changed(change: Callable[[dict[str, Any]], object], record: dict[str, Any]) -> bytes:
    """A record with a change to its output, which gets the right digests."""
    change(record["outputs"][""])
    fields = ("kind", "meta", "files", "refs")
    made = manifest(*(record["outputs"][""].get(field, {}) for field in fields))
    return json.dumps(record | {"outputs": {"": msgspec.to_builtins(made)}}).encode()


def _with_file(name: str, size: int = 1) -> Callable[[dict[str, Any]], object]:
    return lambda output: output["files"].update({name: [DIGEST, size]})


def _role(output: dict[str, Any]) -> None:
    output["refs"] = {"../../evil": manifest("Dataset", NEEDED, {})}


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "absolute": _with_file("//tmp/evil"),
    "dot": _with_file("."),
    "file and folder": _with_file("rows-00000.jsonl/b"),
    "long": _with_file("x" * 300),
    "petabyte": _with_file("y", 10**15),
    "large": _with_file("y", 1 << 63),
    "role": _role,
    "text": lambda output: output["meta"].update(rows="many"),
    "kind": lambda output: output.update(kind="Model"),
    "no facts": lambda output: output.update(meta={}),
}


def _far(record: dict[str, Any]) -> bytes:
    packed = {digest: [pack, 1 << 63] for digest, (pack, _) in record["packed"].items()}
    return json.dumps(record | {"packed": packed}).encode()


def _deep(record: dict[str, Any]) -> bytes:
    deep = b'"meta": {"x": ' + b"[" * 9000 + b"]" * 9000 + b", "
    return json.dumps(record).encode().replace(b'"meta": {', deep)


BODIES: dict[str, Callable[[dict[str, Any]], bytes]] = {
    **{name: partial(_changed, change) for name, change in CHANGES.items()},
    "offset": _far,
    "deep": _deep,
    "deep references": lambda record: b'{"outputs": {"": ' + b'{"refs": {"a": ' * 9000,
    "not text": lambda record: b"\xff",
}


def _clones(folder: Path) -> list[Project]:
    """Two clones of the project, with a shared store that is empty."""
    clones = []
    for name in "ab":
        (folder / name / ".git").mkdir(parents=True)
        clones.append(Project(folder / name))
        text = "".join(f"row {number}\n" for number in range(9))
        steps = LIGHT_STEPS.read_text(encoding="utf-8")
        files = {"recipe.yaml": RECIPE, "steps.py": steps, "rows.txt": text}
        clones[-1].write(files | {"finery.toml": f'remote = "file://{folder}/shared"'})
    return clones


@pytest.mark.slow
@pytest.mark.parametrize("case", [*BODIES, "pipe"])
def test_a_wrong_record_is_a_step_that_runs(tmp_path: Path, case: str) -> None:
    url = f"file://{tmp_path}/shared"
    a, b = _clones(tmp_path)
    keys = {e["step"]: e["key"] for e in a.events("--push") if e["event"] == "step_finished"}
    path = tmp_path / "shared" / object_name("records", keys["rows"])
    body = path.read_bytes()
    path.unlink()
    open_objects(url).put(object_name("blobs", DIGEST), b"short")
    if case == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(BODIES[case](json.loads(body)))
    before = {p for p in tmp_path.rglob("*") if ".finery" not in p.parts}
    is_unseen = case == "petabyte"  # until its files are needed
    warning = f"warning: the shared store {url} has results that aren't valid here"
    for command in ("plan", "show", "build"):
        ran = b.run(command, timeout=60)
        assert ran.code == 0, ran.err
        assert (warning in ran.err) == (command != "show" and not is_unseen), ran.err
    assert ran.err.count("  run ") == 1, ran.err  # the copy has the same key
    after = {p for p in tmp_path.rglob("*") if ".finery" not in p.parts}
    assert {p for p in after - before if "/b/" not in str(p)} == set()
    assert len(b.rows("copy")) == 9


@pytest.mark.slow
def test_rows_that_arent_any_are_told_and_made_again(tmp_path: Path) -> None:
    a, b = _clones(tmp_path)
    url = f"file://{tmp_path}/shared"
    keys = {e["step"]: e["key"] for e in a.events("--push") if e["event"] == "step_finished"}
    path = tmp_path / "shared" / object_name("records", keys["rows"])
    body = b"[1]\n"
    digest = blake3(body).hexdigest()
    open_objects(url).put(object_name("blobs", digest), body)
    files = {"rows-00000.jsonl": [digest, len(body)]}
    path.write_bytes(
        _changed(lambda output: output.update(files=files), json.loads(path.read_bytes()))
    )
    (tmp_path / "shared" / object_name("records", keys["copy"])).unlink()
    ran = b.run("build")
    assert (ran.code, "Traceback" in ran.err) == (2, False), ran.err
    assert "rows-00000.jsonl:1: error: this line isn't a JSON object" in ran.err
    assert "fix: make it again: finery build --force STEP" in ran.err
    ran = b.run("build", "--force", "rows")
    assert ran.code == 0, ran.err
    assert "can't be compared: this line isn't a JSON object" in ran.out
    assert len(b.rows("copy")) == 9


def test_reading_creates_no_shared_folder(tmp_path: Path) -> None:
    objects = open_objects(f"file://{tmp_path}/shared")
    assert objects.read("records/ab/x") is None
    assert [*objects.list_objects("records")] == []
    assert not (tmp_path / "shared").exists()
    objects.put("records/ab/x", b"1")
    assert objects.read("records/ab/x") == b"1"


def test_only_what_finery_wrote_is_removed(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "mount").symlink_to("shared")
    objects = open_objects(f"file://{tmp_path}/mount")  # its own folder may be a link
    objects.put(object_name("blobs", DIGEST), b"1")
    notes = [tmp_path / "shared/blobs/NOTES.txt", tmp_path / "shared/blobs/00/NOTES.txt"]
    for path in notes:
        path.write_text("x")
    assert expire(objects, -1, dry_run=False).bytes == 1
    assert sorted(p for p in (tmp_path / "shared").rglob("*") if p.is_file()) == sorted(notes)


@pytest.mark.parametrize("link", ["records", "records/ab", "records/zz", "blobs", "blobs/ab"])
def test_a_linked_folder_in_a_shared_store_is_refused(link: str, tmp_path: Path) -> None:
    """What it leads to is neither read nor written nor removed."""
    name = f"{link.partition('/')[0]}/ab/{KEY}"
    theirs = tmp_path / "victim" / (KEY if "/" in link else f"ab/{KEY}")
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    (tmp_path / "shared" / link).parent.mkdir(parents=True)
    (tmp_path / "shared" / link).symlink_to(tmp_path / "victim")
    objects = open_objects(f"file://{tmp_path}/shared")
    refused = partial(pytest.raises, RemoteError, match=f"folder {link} is a link")
    with refused():
        expire(objects, -1, dry_run=False)
    if not link.endswith("zz"):
        with refused():
            objects.read(name)
        with refused():
            objects.has(name)
        with refused():
            objects.put(name, b"ours")
        with refused():
            objects.remove([name])
    assert [p for p in (tmp_path / "victim").rglob("*") if p.is_file()] == [theirs]
    assert theirs.read_bytes() == b"theirs"


def test_a_copy_stays_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder, name in (("x", f"/{tmp_path}/evil"), ("y", "../evil")):
        with pytest.raises(DataError):
            copy_files([Copy(tmp_path / "file", name, 1)], tmp_path / folder, print)
    assert not (tmp_path / "evil").exists()
