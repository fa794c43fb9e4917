"""Settings: files, variables and options, later ones first."""

from pathlib import Path

import pytest

from finery.config import load_config, settings_in_force
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
        ("\npush = 3\n", ":2", "push: Expected `bool`", "finery config"),
        ("[slurm]\n[executors]\ntrain = 1\n", ":2", "Expected `str`", "finery config"),
        ("push = \n", "finery.toml", "is not TOML", "correct it"),
    ],
)
def test_mistake_has_its_line(recipe: Path, text: str, where: str, what: str, fix: str) -> None:
    write(recipe.parent / "finery.toml", text)
    with pytest.raises(UsageError) as caught:
        load_config(recipe)
    assert str(caught.value.where).endswith(where)
    assert what in caught.value.what
    assert fix in str(caught.value.fix)


def test_text_and_toml_in_variables(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINERY_REMOTE", "s3://bucket")
    monkeypatch.setenv("FINERY_EXECUTORS", '{train = "slurm"}')
    config = load_config(recipe)
    assert (config.remote, config.executors) == ("s3://bucket", {"train": "slurm"})
    monkeypatch.setenv("FINERY_PUSH", "maybe")
    with pytest.raises(UsageError) as caught:
        load_config(recipe)
    assert caught.value.where == "$FINERY_PUSH"
