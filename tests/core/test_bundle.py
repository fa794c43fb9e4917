"""A build as one file: complete, the same again, and harmless whoever wrote it."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject, Project

RECIPE = """\
finery: 1
plugins: [steps.py]
name: t
data:
  lines: {use: steps.source, path: lines.txt}
  halves: {use: steps.halve, rows: lines}
models:
  base: {use: steps.outside, path: weights.txt}
train:
  adapter: {use: steps.adapter, model: base}
"""
FILES = {"recipe.yaml": RECIPE, "lines.txt": "x\ny\n", "weights.txt": "some words"}
HEAD = "finery-bundle.json"
Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def bundle(built: MakeProject) -> Path:
    """A bundle of a project that is built."""
    t = built(FILES)
    assert t.here("cache").code == 0
    ran = t.run("export", "--bundle", "t.tar")
    assert ran.code == 0, ran.err
    assert "not in it, since their files are outside of the store: base" in ran.out
    return t.folder / "t.tar"


@pytest.fixture
def other(tmp_path: Path) -> Project:
    """The same project on a machine that built nothing."""
    (tmp_path / "other/.git").mkdir(parents=True)
    made = Project(tmp_path / "other")
    made.write({**FILES, "steps.py": (Path(__file__).parents[1] / "light_steps.py").read_text()})
    return made


def stored(t: Project) -> list[str]:
    """What is in the objects of a store, and in the folders for unfinished work."""
    folders = (t.folder / ".finery" / name for name in ("objects", "work"))
    return [str(p) for folder in folders for p in folder.rglob("*") if not p.is_dir()]


def test_a_bundle_is_a_build(bundle: Path, other: Project) -> None:
    ran = other.here("import", str(bundle))
    assert (ran.code, ran.out.splitlines()[1]) == (0, "build it: finery build recipe.yaml"), ran.err
    assert other.ran() == ["base"]  # whose file has the same content here
    assert [row["prompt"] for row in other.rows("halves/second")] == ["y"]
    assert other.here("cache", "verify").code == 0
    other.run("export", "--bundle", "again.tar")
    assert (other.folder / "again.tar").read_bytes() != b""
    assert names(other.folder / "again.tar") == names(bundle)


def test_a_store_elsewhere_is_no_part_of_a_bundle(
    built: MakeProject, tmp_path: Path, other: Project
) -> None:
    t = built(FILES)
    t.env = {"FINERY_STORE": str(tmp_path / "far/away/store")}
    assert t.run("build").code == 0
    assert t.run("export", "--bundle", "t.tar").code == 0
    ran = other.here("import", str(t.folder / "t.tar"))
    assert (ran.code, ran.out.splitlines()[1]) == (0, "build it: finery build recipe.yaml"), ran.err
    assert other.ran() == ["base"]


def names(file: Path) -> list[str]:
    """The members of a bundle."""
    with tarfile.open(file) as tar:
        return tar.getnames()


def test_a_part_of_a_build_and_one_that_is_not_built(built: MakeProject) -> None:
    t = built(FILES)
    line = json.loads(t.run("export", "--bundle", "a.tar", "lines", "--json").out)
    assert (line["steps"], line["files"]) == (["lines"], 1)
    t.edit("lines.txt", "x", "z")
    ran = t.run("export", "--bundle", "b.tar")
    assert (ran.code, (t.folder / "b.tar").exists()) == (2, False)
    assert "isn't built for this recipe: lines, halves" in ran.err


def members(file: Path) -> Members:
    """Members and their content."""
    with tarfile.open(file) as tar:
        plain = ((m, tar.extractfile(m)) for m in tar)
        return [(m, content.read()) for m, content in plain if content]


def head(change: Callable[[dict[str, Any]], None]) -> Callable[[Members], object]:
    """Change the list of results."""

    def changed(found: Members) -> None:
        data = json.loads(found[0][1])
        change(data)
        found[0] = tarfile.TarInfo(HEAD), json.dumps(data).encode()

    return changed


def manifest_of(data: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the rows."""
    made: dict[str, Any] = next(r["outputs"][""] for r in data["results"] if "" in r["outputs"])
    return made


def extra(name: str, **fields: Any) -> Callable[[Members], object]:
    """Add a member."""

    def changed(found: Members) -> None:
        member = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(member, field, value)
        found.insert(1, (member, b"" if "linkname" in fields else b"evil"))

    return changed


def content(found: Members) -> None:
    """Change a blob."""
    found[1] = found[1][0], found[1][1][:-1] + b"!"


def link(found: Members) -> None:
    """Make a blob a link."""
    member = tarfile.TarInfo(found[1][0].name)
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    found[1] = member, b""


HOSTILE: dict[str, Callable[[Members], object]] = {
    "outside": extra("../../evil"),
    "absolute": extra("/tmp/evil"),
    "link": extra("objects/ab", type=tarfile.SYMTYPE, linkname="/etc"),
    "database": extra("finery.db"),
    "blob that is a link": link,
    "blob": content,
    "missing": lambda found: found.pop(),
    "twice": lambda found: found.append(found[1]),
    "no head": lambda found: found.pop(0),
    "late head": lambda found: found.append(found.pop(0)),
    "size": head(lambda d: manifest_of(d)["files"]["rows-00000.jsonl"].__setitem__(1, 3)),
    "digest": head(lambda d: manifest_of(d)["files"]["rows-00000.jsonl"].__setitem__(0, "../x")),
    "name": head(lambda d: manifest_of(d)["files"].update({"../../x": ["0" * 64, 1]})),
    "kind": head(lambda d: manifest_of(d).update(kind="Nothing")),
    "view": head(lambda d: manifest_of(d).update(view="../..")),
    "key": head(lambda d: d["results"][0].update(key="../x")),
    "steps": head(lambda d: d["steps"].update(lines="0" * 64)),
    "null in path": head(lambda d: d.update(path="a\0b")),
    "path outside": head(lambda d: d.update(path="../../../recipe.yaml")),
    "absolute path": head(lambda d: d.update(path="/etc/recipe.yaml")),
    "format": head(lambda d: d.update(format=9)),
    "field": head(lambda d: d.update(more=1)),
    "role": head(lambda d: manifest_of(d).update(refs={"../x": {**manifest_of(d)}})),
    "deep": lambda found: found.__setitem__(0, (found[0][0], b'{"results":' + b"[" * 100_000)),
    "list": lambda found: found.__setitem__(0, (found[0][0], b"[]")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_bundle_leaves_nothing(case: str, bundle: Path, other: Project) -> None:
    found = members(bundle)
    HOSTILE[case](found)
    write_bundle(found, other.folder / "hostile.tar")
    before = {p for p in other.folder.parent.rglob("*") if ".finery" not in p.parts}
    ran = other.here("import", "hostile.tar")
    assert (ran.code, ran.err.count("hostile.tar: error: can't import this file: ")) == (2, 1), ran
    assert "nothing was recorded" in ran.err
    assert {p for p in other.folder.parent.rglob("*") if ".finery" not in p.parts} == before
    assert other.here("cache", "--json").out.count('"step"') == 0
    assert all("/objects/" in path for path in stored(other))


def write_bundle(found: Members, file: Path) -> None:
    with tarfile.open(file, "w") as tar:
        for member, data in found:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_no_terminal_obeys_a_bundle(bundle: Path, other: Project) -> None:
    def poison(data: dict[str, Any]) -> None:
        for result in data["results"]:
            for part in result["parts"]:
                part[1] = f"{part[1]}\x1b]0;x\a" if part[0] == "step type" else part[1]
            result["parts"].append(["setting \x1b]0;y\a", "\u202e"])

    found = members(bundle)
    head(poison)(found)
    write_bundle(found, other.folder / "t.tar")
    for args in (["import", "t.tar"], ["build"]):
        assert other.run(*args).code == 0
    other.edit("lines.txt", "x", "z")
    shown = [other.run(*args) for args in (["explain", "lines"], ["plan"], ["build"])]
    for ran in shown:
        assert ran.code == 0
        assert "␛]0;x␇" in ran.out + ran.err
        assert not {"\x1b", "\a", "\u202e"} & {*ran.out, *ran.err}
    assert "setting ␛]0;y␇" in shown[0].out


def test_names_in_manifests_stay_in_their_folder(bundle: Path, other: Project) -> None:
    """Also if all digests are right."""
    import msgspec

    from finery.artifact.manifest import manifest
    from finery.store.layout import are_valid_outputs

    digest, facts = "0" * 64, {"rows": 1, "columns": ["id"]}
    names = ("../x", "/x", "//x", "a/../../x", "manifest.json", "", ".", "a//b", "a\0", "x" * 300)
    right = manifest("Dataset", facts, {"a/b": (digest, 1)})
    for name in names:
        made = manifest("Dataset", facts, {name: (digest, 1)})
        assert not are_valid_outputs({"": made}), name
        assert (
            not are_valid_outputs({"": manifest("Dataset", facts, {}, {name: right})})
            or "json" in name
        )
        assert not name or not are_valid_outputs({name: right}) or "json" in name
    assert are_valid_outputs({"": right})
    assert not are_valid_outputs(
        {"": manifest("Dataset", facts, {"a/b": (digest, 1), "a": (digest, 1)})}
    )
    assert not are_valid_outputs({"": msgspec.structs.replace(made, digest="1")})


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_half_a_bundle_is_refused(share: float, bundle: Path, other: Project) -> None:
    whole = bundle.read_bytes()
    (other.folder / "half.tar").write_bytes(whole[: int(len(whole) * share)])
    assert other.here("import", "half.tar").code == 2
    assert other.here("import", str(bundle)).code == 0
    assert other.here("cache", "verify").code == 0
