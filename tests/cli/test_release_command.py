"""`finery release`: what is recorded and kept, and what later builds are held against."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import judged
import msgspec
import pytest
from conftest import MakeProject, Project

from finery import UsageError
from finery.recipe.releases import Release, Releases, release_key

RECIPE = judged.RECIPE.replace(
    "models:\n", "models:\n  released: {use: release.model, tag: production}\n"
).replace(
    "models: [base, sft, shipped], rows: rows}",
    "models: [sft, released], rows: rows,\n         require: {sft.accuracy: "
    '"not worse than released by 0.05", sft.broken: "<= 0.02"}}',
)
PLAIN = judged.RECIPE.replace("  test: {use: eval.exact, models: [base, sft, shipped]",
                              "  test: {use: eval.exact, models: [sft]")  # fmt: skip


def learn(project: Project, share: str) -> None:
    """Let the training learn another share of the rows."""
    text = (project.folder / "recipe.yaml").read_text()
    before = text.partition("share: ")[2].partition("}")[0]
    project.edit("recipe.yaml", f"share: {before}}}", f"share: {share}}}")


def build(project: Project, code: int = 0) -> str:
    """Build, and return what was printed."""
    ran = project.run("build")
    assert ran.code == code, ran.err
    return ran.out + ran.err


def released(project: Project, *args: str) -> None:
    """Release `sft`."""
    ran = project.run("release", "sft", "--as", "production", *args)
    assert ran.code == 0, ran.err


def digests(folder: Path) -> dict[str, str]:
    """The files in a folder by their content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def copied(project: Project, *args: str) -> dict[str, str]:
    """The files that a command copies to a folder."""
    folder = project.folder / "copied"
    shutil.rmtree(folder, ignore_errors=True)
    ran = project.run(*args, str(folder))
    assert ran.code == 0, ran.err
    return digests(folder)


def test_gates_against_a_release(project: MakeProject) -> None:
    """The first build has none and says so; a later one is held against it; the report has rows."""
    made = project(judged.files(200, recipe=RECIPE))
    first = build(made)
    assert "sft.broken <= 0.02 isn't checked, since nothing is released as 'production'" in first
    assert made.run("check").out.count("released is left out") == 1
    released(made)
    again = build(made)
    assert "isn't checked" not in again
    # Four of 200 rows are lost: 2 %, which no interval of 200 rows keeps below 2 %.
    learn(made, "0.48")
    worse = build(made, code=1)
    assert "sft.broken is 2.0 % (95 % CI 0.8 to 5.0): 4 of 200 rows are right with rel" in worse
    refused = made.run("release", "sft", "--as", "production")
    assert (refused.code, "sft.broken is 2.0 %" in refused.err) == (1, True)
    page = made.folder / "page.html"
    assert made.run("report", "-o", str(page)).code == 0
    html = page.read_text()
    assert "what changed since released" in html
    assert html.count("question 96") > 0
    markdown = made.run("report", "--format", "markdown", "-o", "-").out
    assert "| sft | 0 | 4 | 2.0 % | 0.8 – 5.0 |" in markdown
    assert "sft: broken" in markdown
    assert "question 96" not in markdown
    learn(made, "0.6")
    assert "isn't checked" not in build(made)


@pytest.mark.slow
def test_a_rollback_has_the_very_files_after_garbage_was_collected(project: MakeProject) -> None:
    made = project(judged.files(20, recipe=PLAIN))
    build(made)
    released(made)
    before = copied(made, "export", "sft")
    for share in ("0.6", "0.7"):
        learn(made, share)
        build(made)
    released(made)
    assert copied(made, "export", "sft") != before
    assert made.run("cache", "gc", "--keep", "1").code == 0
    assert copied(made, "release", "rollback", "production", "--out") == before
    lines = made.run("release", "list", "--json").out.splitlines()
    entries = [json.loads(line) for line in lines]
    assert [(e["number"], e["is_current"], e["rollback"]) for e in entries] == [
        (1, False, None), (2, False, None), (3, True, 1),
    ]  # fmt: skip
    # Not back to the second, which was rolled back; by its number only.
    further = made.run("release", "rollback", "production")
    assert (further.code, "has no earlier release" in further.err) == (2, True)
    assert made.run("release", "rollback", "production", "--to", "2").code == 0
    shown = made.run("release", "diff", "production", "1", "2").out
    assert "+20.0" in shown
    assert "wrong in A, right in B" in shown
    wrong = made.run("release", "rollback", "production", "--to", "9")
    assert (wrong.code, "none with the number 9" in wrong.err) == (2, True)


@pytest.mark.slow
def test_releases_stay_without_pins_too(project: MakeProject) -> None:
    """After `cache unpin` of all, releases.json still keeps them; and without it, the pins do."""
    made = project(judged.files(20, recipe=PLAIN))
    build(made)
    released(made)
    before = copied(made, "export", "sft")
    file = made.folder / "releases.json"
    for hidden in (False, True):
        learn(made, "0.7" if hidden else "0.6")
        build(made)
        if hidden:
            file.rename(made.folder / "elsewhere")
        else:
            assert made.run("cache", "unpin").code == 0
        assert made.run("cache", "gc", "--keep", "1").code == 0
    (made.folder / "elsewhere").rename(file)
    assert copied(made, "release", "rollback", "production", "--to", "1", "--out") == before


@pytest.mark.slow
def test_a_clone_has_a_release_from_the_shared_store(
    project: MakeProject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shared = tmp_path_factory.mktemp("shared")
    made = project(judged.files(20, recipe=RECIPE.partition(",\n         require")[0] + "}\n"))
    made.env = {"FINERY_REMOTE": f"file://{shared}", "FINERY_PUSH": "true"}
    build(made)
    released(made)
    before = copied(made, "export", "sft")
    clone = Project(tmp_path_factory.mktemp("clone"))
    for name in ("recipe.yaml", "steps.py", "known.json", "rows.jsonl", "releases.json"):
        shutil.copy(made.folder / name, clone.folder)
    (clone.folder / ".git").mkdir()
    clone.env = {"FINERY_REMOTE": f"file://{shared}"}
    learn(clone, "0.6")
    # However old it is, and although the recipe makes another model now.
    ran = made.run("cache", "gc", "--shared", "0.00000001")
    assert ran.code == 0, ran.err
    assert "released" not in clone.ran()
    assert copied(clone, "export", "released") == before
    learn(clone, "0.7")
    assert copied(clone, "release", "rollback", "production", "--to", "1", "--out") == before
    # Without the shared store, another clone says what is missing.
    shutil.rmtree(clone.folder / ".finery")
    clone.env = {}
    lost = clone.run("build")
    assert lost.code == 2
    assert "are neither in the store nor in a shared store" in lost.err
    assert "recipe.yaml:5:3" in lost.err


def test_files_that_were_built_again_are_those_of_the_release(project: MakeProject) -> None:
    made = project(judged.files(20, recipe=PLAIN))
    build(made)
    released(made)
    before = copied(made, "export", "sft")
    shutil.rmtree(made.folder / ".finery")
    lost = made.run("release", "rollback", "production", "--to", "1")
    assert lost.code == 2
    assert "finery build --step sft; finery release rollback production --to 1" in lost.err
    assert made.run("build", "--step", "sft").code == 0
    assert copied(made, "release", "rollback", "production", "--to", "1", "--out") == before


def test_a_forced_release_says_which_requirements_are_not_met(project: MakeProject) -> None:
    recipe = PLAIN.replace("models: [sft]", 'models: [sft], require: {sft.accuracy: ">= 0.99"}')
    made = project(judged.files(20, recipe=recipe))
    build(made, 1)
    assert made.run("release", "sft", "--as", "production").code == 1
    forced = made.run("release", "sft", "--as", "production", "--force")
    assert (forced.code, "not met: sft.accuracy is 0.5" in forced.out) == (0, True), forced.out
    assert Releases(made.folder / "r").tags["production"][0].unmet
    assert "requirements not met" in made.run("release", "list").out
    missing = made.run("release", "sft")
    assert (missing.code, "--as production" in missing.err) == (2, True)


@pytest.mark.slow
def test_a_shared_store_cannot_put_another_model_in_the_place_of_a_release(
    project: MakeProject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its record names another artifact, which is valid in itself."""
    shared = tmp_path_factory.mktemp("shared")
    made = project(judged.files(20, recipe=PLAIN))
    made.env = {"FINERY_REMOTE": f"file://{shared}", "FINERY_PUSH": "true"}
    for share in ("0.5", "0.6"):
        learn(made, share)
        build(made)
        released(made)
    first, second = (release_key(r.digest) for r in Releases(made.folder / "r").tags["production"])
    records = [shared / "records" / key[:2] / key for key in (first, second)]
    records[0].write_bytes(records[1].read_bytes().replace(second.encode(), first.encode()))
    shutil.rmtree(made.folder / ".finery")
    assert made.run("release", "rollback", "production", "--to", "2").code == 0
    ran = made.run("release", "rollback", "production", "--to", "1")
    assert (ran.code, "are neither in the store nor in a shared" in ran.err) == (2, True), ran.err


@pytest.mark.slow
def test_nothing_is_recorded_if_the_shared_store_cannot_be_written(project: MakeProject) -> None:
    made = project(judged.files(20, recipe=PLAIN))
    build(made)
    made.env = {"FINERY_REMOTE": "file:///proc/nothing", "FINERY_PUSH": "true"}
    ran = made.run("release", "sft", "--as", "production")
    assert ran.code != 0, ran.out
    assert not (made.folder / "releases.json").exists()


@pytest.mark.slow
def test_what_cannot_be_released(project: MakeProject) -> None:
    made = project(
        judged.files(20, recipe=PLAIN, **{"other.yaml": PLAIN.replace("name: t", "name: u")})
    )
    for args, code, text in (
        (("sft", "--as", "production"), 2, "isn't built yet"),
        (("sfd", "--as", "production"), 2, "did you mean"),
        (("sft", "--as", "../x"), 2, "can't be a tag"),
        (("list", "production"), 2, "there is no release 'production'"),
        (("rollback", "production"), 2, "there is no release 'production'"),
    ):
        ran = made.run("release", *args)
        assert (ran.code, text in ran.err) == (code, True), ran.err
    build(made)
    learn(made, "0.6")
    stale = made.run("release", "sft", "--as", "production")
    assert (stale.code, "isn't built for the recipe as it is now" in stale.err) == (2, True)
    build(made)
    released(made)
    alone = made.run("release", "rollback", "production")
    assert (alone.code, "has no earlier release" in alone.err) == (2, True)
    same = made.run("release", "sft", "--as", "production")
    assert "already released sft as production 1" in same.out
    assert made.run("build", "other.yaml").code == 0
    other = made.run("release", "other.yaml", "sft", "--as", "production")
    assert (other.code, "is a release of recipe.yaml" in other.err) == (2, True)
    for output, problem in (
        ("rows", "'production' is a Model, and 'rows' a Dataset"),
        ("sft.q8", "the last build of 'sft' has no output 'q8'"),
    ):
        refused = made.run("release", output, "--as", "production")
        assert (refused.code, problem in refused.err) == (2, True), refused.err
    rows = made.run("release", "rows", "--as", "rows")
    assert "no evaluation judged rows" in rows.err
    made.edit("recipe.yaml", "models:\n", "models:\n  r: {use: release.model, tag: rows}\n")
    kind = made.run("check")
    assert kind.code == 2
    assert "recipe.yaml:5:32: error: release.model brings back a Model, and 'rows' is a" in kind.err


def test_a_step_that_needs_a_release_says_which(project: MakeProject) -> None:
    recipe = RECIPE.replace("model: base, rows", "model: released, rows")
    made = project(judged.files(20, recipe=recipe))
    ran = made.run("check")
    assert ran.code == 2
    assert "'model' of t.learn needs a release, and nothing is released as 'production'" in ran.err
    assert "finery release STEP --as production" in ran.err


def test_a_renamed_step_is_released_anew(project: MakeProject) -> None:
    """With a data set, which builds in no time."""
    made = project(judged.files(2, recipe=PLAIN.replace("name: t", "name: v")))
    assert made.run("build", "--step", "rows").code == 0
    assert "as data 1" in made.run("release", "rows.", "--as", "data").out
    made.write({"recipe.yaml": (made.folder / "recipe.yaml").read_text().replace("rows", "lines", 1)
                .replace("rows: rows", "rows: lines")})  # fmt: skip
    assert made.run("build", "--step", "lines").code == 0
    compared = made.run("release", "diff", "data")
    assert (compared.code, "has no 'rows' any more" in compared.err) == (2, True), compared.err
    assert "as data 2" in made.run("release", "lines", "--as", "data").out
    assert made.run("release", "diff", "data").code == 0


def test_which_release_a_rollback_goes_to(tmp_path: Path) -> None:
    """Numbers of releases, and to which a rollback goes: further back each time."""

    def previous(*entries: tuple[str, int | None]) -> int:
        made = [entry(digest=digest * 64, rollback=again) for digest, again in entries]
        return Releases(written(tmp_path, {"p": made})).previous("p")

    a, b, c = ("a", None), ("b", None), ("c", None)
    assert previous(a, b, c) == 2
    assert previous(a, b, c, ("b", 2)) == 1
    assert previous(a, b, ("a", 1), c) == 1
    assert previous(a, b, a) == 2
    # Where another release got the number by a merge, the entry counts as one of its own.
    assert previous(a, b, c, ("b", 3)) == 3
    with pytest.raises(UsageError, match="has no earlier release"):
        previous(a, b, ("a", 1))


def test_an_output_without_bytes_can_be_released(tmp_path: Path) -> None:
    made = msgspec.convert({**entry(), "size": 0}, Release)
    assert Releases(tmp_path / "recipe.yaml").add("p", made) == 1
    assert Releases(tmp_path / "recipe.yaml").numbered("p").size == 0


def entry(**facts: object) -> dict[str, object]:
    """An entry of releases.json."""
    plain = {"digest": "0" * 64, "kind": "Model", "output": "sft", "recipe": "recipe.yaml"}
    return {**plain, "date": "2026-12-02T08:00:00Z", "size": 1, **facts}


def written(folder: Path, releases: object, version: int = 1) -> Path:
    """A file of releases; the recipe beside it."""
    text = json.dumps({"version": version, "releases": releases}, indent=2)
    (folder / "releases.json").write_text(text)
    return folder / "recipe.yaml"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace('"size": 1', '"size": "1"'), "releases.json:5"),
        (lambda text: text.replace("0" * 64, "../../etc/passwd"), "matching regex"),
        (lambda text: text.replace('"p"', '"../p"'), "its tag has other characters"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "a newer finery wrote it"),
        (lambda text: f"<<<<<<< HEAD\n{text}", "releases.json:1: error: has a conflict of git"),
        (lambda text: text.replace('"kind": "Model"', '"kind": "Model", "kind": "x"'), "twice"),
        (lambda text: text[:-5], "isn't JSON"),
        (lambda text: text.replace('"size": 1', '"size": 1, "rollback": 1'), "an earlier release"),
        (lambda text: text.replace('"size": 1', '"size": 1, "rollback": -1'), ">= 1"),
        (
            lambda text: text.replace(
                '"size": 1',
                f'"size": 1, "evaluations": {{"t": {{"digest": "{"0" * 64}", "rows": 1, '
                '"scores": {"a": []}}}',
            ),
            "length >= 1",
        ),
        (lambda text: "[]", "must map tags to lists"),
    ],
)
def test_a_wrong_file_is_refused(
    tmp_path: Path, change: Callable[[str], str], problem: str
) -> None:
    recipe = written(tmp_path, {"p": [entry()]})
    file = tmp_path / "releases.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(UsageError) as raised:
        Releases(recipe)
    assert problem in f"{raised.value.where}: error: {raised.value}"


def test_what_a_newer_finery_adds_to_an_entry_stays(tmp_path: Path) -> None:
    recipe = written(tmp_path, {"p": [entry(signature="x")]})
    releases = Releases(recipe)
    assert releases.add("p", Release(**entry(digest="1" * 64))) == 2  # type: ignore[arg-type]
    kept = json.loads((tmp_path / "releases.json").read_text())["releases"]["p"]
    assert [e.get("signature") for e in kept] == ["x", None]
    assert Releases(recipe).keys() == {release_key("0" * 64), release_key("1" * 64)}


def git(folder: Path, *words: str) -> int:
    """The exit code of git."""
    own: Mapping[str, str] = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = ["-c", "user.name=x", "-c", "user.email=x@x.invalid"]
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, env={**os.environ, **own}, check=False,
        capture_output=True,
    )  # fmt: skip
    return done.returncode


@pytest.mark.parametrize(("tags", "code"), [(("alpha", "omega"), 0), (("omega", "omega"), 1)])
def test_releases_of_two_clones_merge_by_tag(
    tmp_path: Path, tags: tuple[str, str], code: int
) -> None:
    """Of different tags, they merge; of one tag, people decide which is current."""
    recipe = written(tmp_path, {tag: [entry()] for tag in ("alpha", "middle", "omega")})
    Releases(recipe).add("middle", Release(**entry(digest="2" * 64)))  # type: ignore[arg-type]
    judged.commit(tmp_path)
    git(tmp_path, "branch", "-M", "main")
    for number, tag in enumerate(tags):
        git(tmp_path, "checkout", "-q", "-b", f"b{number}", "main")
        Releases(recipe).add(tag, Release(**entry(digest=str(number) * 64)))  # type: ignore[arg-type]
        judged.commit(tmp_path)
    assert git(tmp_path, "merge", "-q", "--no-edit", "b0") == code
    if code:
        with pytest.raises(UsageError, match="conflict of git"):
            Releases(recipe)
    else:
        counts = {tag: len(of) for tag, of in Releases(recipe).tags.items()}
        assert counts == {"alpha": 2, "middle": 2, "omega": 2}
