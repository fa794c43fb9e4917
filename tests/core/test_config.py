"""Settings: files, variables and options, later ones first."""

import json
from pathlib import Path

import pytest
from conftest import MakeProject

from finery.config import NAMES, load_config, set_consent, settings_in_force
from finery.errors import UsageError


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe in a folder of a project, without the user's own settings."""
    (tmp_path / "project/.git").mkdir(parents=True)
    (tmp_path / "project/recipes").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/.config"))
    return tmp_path / "project/recipes/recipe.yaml"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_later_places_override_earlier_ones(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, own = recipe.parents[1] / "finery.toml", recipe.parents[2] / "home/.config/finery"
    write(project, 'remote = "s3://team"\nkeep = 5\n[slurm]\npartition = "cpu"\ntime = 60\n')
    write(own / "config.toml", '[slurm]\npartition = "gpu"\n')
    monkeypatch.setenv("FINERY_KEEP", "7")
    config = load_config(recipe, remote="file:///here", push=None)
    assert config.remote == "file:///here"
    assert config.keep == 7
    assert config.options["slurm"] == {"partition": "gpu", "time": 60}
    origins = {s.name: s.origin for s in settings_in_force(recipe)}
    assert origins["remote"].endswith("finery.toml:1")
    assert origins["keep"] == "$FINERY_KEEP"
    assert origins["slurm"].endswith("config.toml:1")
    assert "finery.toml:3, " in origins["slurm"]
    assert origins["push"] == "default"


def test_nearest_file_counts_and_none_above_the_project(recipe: Path) -> None:
    write(recipe.parents[2] / "finery.toml", "keep = 1\n")
    assert load_config(recipe).keep == 3
    pyproject = recipe.parents[1] / "pyproject.toml"
    write(pyproject, '[project]\nname = "x"\n\n[tool.finery]\nkeep = 4\n')
    assert load_config(recipe).keep == 4
    write(recipe.parent / "pyproject.toml", '[project]\nname = "y"\n')  # without the table
    assert load_config(recipe).keep == 4
    write(recipe.parent / "finery.toml", "keep = 6\n")
    assert load_config(recipe).keep == 6


@pytest.mark.parametrize(
    ("text", "where", "what", "fix"),
    [
        ('push = true\nremot = "s3://x"\n', ":2", "unknown setting 'remot'", "'remote'"),
        ("\npush = 3\n", ":2", "push must be true or false, not a whole number", "correct it"),
        ("[slurm]\n[executors]\ntrain = 1\n", ":2", "an entry that must be a text", "correct it"),
        ("fetch = 'some'\n", ":1", "fetch can't be 'some'", "one of: none, final, all"),
        ("push = \n", "finery.toml:1:8", "is not TOML: Invalid value", "correct it"),
        ("keep = 2\npush = yes\n", "finery.toml:2:8", "is not TOML: Invalid value", "`true`"),
        (f"keep = {'9' * 5000}\n", "finery.toml", "is not TOML: Exceeds", "correct it"),
    ],
)
def test_mistake_has_its_line(recipe: Path, text: str, where: str, what: str, fix: str) -> None:
    write(recipe.parent / "finery.toml", text)
    with pytest.raises(UsageError) as caught:
        load_config(recipe)
    assert str(caught.value.where).endswith(where)
    assert what in caught.value.what
    assert fix in str(caught.value.fix)


def test_byte_order_mark_is_no_mistake(recipe: Path) -> None:
    write(recipe.parent / "finery.toml", "\ufeffkeep = 7\n")
    assert load_config(recipe).keep == 7


@pytest.mark.parametrize(
    "text",
    [
        '[tool."finery"]\ntrust = ["x"]\n', '[ tool.finery ]\ntrust = ["x"]\n',
        '[tool]\nfinery.trust = ["x"]\n', 'tool.finery.trust = ["x"]\n',
        'tool = {finery = {trust = ["x"]}}\n', '\ufeff[tool.finery]\ntrust = ["x"]\n',
    ],
)  # fmt: skip
def test_table_of_pyproject_in_all_spellings(recipe: Path, text: str) -> None:
    write(recipe.parent / "pyproject.toml", text)
    assert load_config(recipe).trust == ["x"]


@pytest.mark.parametrize(
    "text",
    [
        "[tool.finery-extra]\nx = 1\n", 'x = """\n[tool.finery]\nkeep = 9\n"""\n',
        "tool = 7  # finery\n", 'dependencies = ["finery"\n[tool.ruff]\n',
        "[tool.finery-extra\n", "[tool.ruff]\nx = \n",
    ],
)  # fmt: skip
def test_pyproject_without_the_table(recipe: Path, text: str) -> None:
    write(recipe.parent / "pyproject.toml", text)
    assert load_config(recipe).keep == 3


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("[tool]\nfinery = 7\n", ":2", "tool.finery must be a table, not a whole number"),
        ("x = 1\n[[tool.finery]]\n", ":2", "tool.finery must be a table, not a list"),
        ("[tool]\nfinery.keep = 'x'\n", ":2", "keep must be a whole number, not a text"),
        ('[tool."finery"]\nkeep = yes\n', ":2:8", "is not TOML: Invalid value"),
        ("[tool]\nfinery.keep = yes\n", ":2:15", "is not TOML: Invalid value"),
    ],
)
def test_mistake_in_the_table_of_pyproject(recipe: Path, text: str, where: str, what: str) -> None:
    write(recipe.parent / "pyproject.toml", text)
    with pytest.raises(UsageError) as caught:
        load_config(recipe)
    assert str(caught.value.where).endswith(f"pyproject.toml{where}")
    assert what in caught.value.what


def test_url_without_a_valid_host(project: MakeProject) -> None:
    files = {"recipe.yaml": "finery: 1\nname: t\ndata:\n  r: {use: data.file, path: r.jsonl}\n"}
    t = project({**files, "r.jsonl": '{"prompt": "a", "completion": "b"}\n'})
    for name in ("config", "plan", "build", "fetch"):
        t.env = {"FINERY_REMOTE": "http://user:hunter2@[x"}
        ran = t.here(name)
        assert (ran.code, "hunter2" in ran.err) == (2, False), ran.err
        assert "$FINERY_REMOTE: error: remote: the URL has no valid host" in ran.err
        t.env, settings = {}, 'keep = 2\nremote = "http://[::1/x"\n'
        t.write({"finery.toml": settings})
        ran = t.here(name)
        assert (ran.code, ran.out if name != "config" else "") == (2, ""), ran.err
        assert "finery.toml:2: error: remote: the URL has no valid host" in ran.err


def test_text_and_toml_in_variables(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINERY_REMOTE", "s3://bucket")
    monkeypatch.setenv("FINERY_EXECUTORS", '{train = "slurm"}')
    config = load_config(recipe)
    assert (config.remote, config.executors) == ("s3://bucket", {"train": "slurm"})
    write(recipe.parent / "finery.toml", 'remote = "s3://bucket"\npush = true\n')
    for name in NAMES:
        monkeypatch.setenv(f"FINERY_{name.upper()}", "")
    set_consent(recipe, allowed=True)
    config = load_config(recipe)
    assert (config.push, config.executors, config.keep) == (True, {}, 3)  # as if unset
    assert not config.remote  # removed
    monkeypatch.setenv("FINERY_PUSH", "maybe")
    with pytest.raises(UsageError) as caught:
        load_config(recipe)
    assert caught.value.where == "$FINERY_PUSH"


@pytest.mark.parametrize(
    ("text", "where", "what", "fix"),
    [
        ('remote = "s3:/team"\n', ":1", "remote: the shared store must be a URL", "s3://"),
        ('\nremote = "s3://"\n', ":2", "names no bucket", "s3://bucket/prefix"),
        ('remote = "file://x/y"\n', ":1", "must be an absolute path, not 'x/y'", "write file:///"),
        ('remote = "file:///nowhere/x/y"\n', ":1", "/nowhere/x doesn't exist", "mkdir -p"),
        ('trust = ["abc"]\n', ":1", "'abc' isn't a public", ".pub"),
        ('signing_key = "nope"\n', ":1", "signing_key: can't use the key nope", "ssh-keygen"),
        ('wheels = "nope"\n', ":1", "wheels: the folder nope", "a folder with wheels"),
        ("[slurm]\npartition = 3\n", ":1", "[slurm].partition must be a text", "correct it"),
        ('[slrum]\n[executors]\ntrain = "slurm"\n', ":1", "'slrum' was not found", "'slurm'"),
        ('[executors]\ntrein = "slurm"\n', ":1", "section, step type or step 'trein'", "'train'"),
    ],
)
def test_finery_config_finds_mistakes(
    project: MakeProject, text: str, where: str, what: str, fix: str
) -> None:
    t = project({"recipe.yaml": "finery: 1\nname: t\n", "finery.toml": text})
    ran = t.run("config", "--json")
    assert ran.code == 2, ran.err
    assert len(json.loads(ran.out)) >= 10
    assert ran.err.startswith(f"finery.toml{where}: error: ")
    assert what in ran.err
    assert fix in ran.err
