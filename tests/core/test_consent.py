"""What a project's file may decide without its user: nothing that leaves the machine."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from conftest import MakeProject, Project

RECIPE = "finery: 1\nname: t\ndata:\n  rows: {use: data.file, path: rows.jsonl}\n"
FILES = {"recipe.yaml": RECIPE, "rows.jsonl": '{"prompt": "a", "completion": "b"}\n'}


@pytest.fixture
def hits() -> Iterator[tuple[str, list[str]]]:
    """(address, paths) of a web server that has nothing, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_PUT = do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/s", asked
        server.shutdown()


@pytest.fixture
def stranger(project: MakeProject, tmp_path: Path) -> Callable[[str], Project]:
    """A stranger's project with this finery.toml; its user has allowed nothing."""

    def make(settings: str) -> Project:
        t = project({**FILES, "finery.toml": settings})
        t.env = {"FINERY_PROJECT_SETTINGS": "", "XDG_CONFIG_HOME": str(tmp_path / "config")}
        return t

    return make


def asks(t: Project, *args: str) -> bool:
    """Whether the user must consent to settings. (A build with nothing to do doesn't ask.)"""
    return "need your consent" in t.here("config", *args).err


def test_nothing_leaves_before_consent(
    stranger: Callable[[str], Project], hits: tuple[str, list[str]]
) -> None:
    address, asked = hits
    t = stranger(f'keep = 4\nremote = "{address}?sig=hunter2"\npush = true\n')
    for args in (("build",), ("build", "--json"), ("build", "--push"), ("fetch",)):
        ran = t.here(*args)
        assert ran.code == 2
        assert "finery.toml:2: error: these settings of the project need your consent" in ran.err
        assert "push = true  (finery.toml:3)" in ran.err
        assert "run: finery config --allow" in ran.err
        assert "FINERY_PROJECT_SETTINGS=allow" in ran.err
        assert "hunter2" not in ran.err
    ran = t.here("plan")
    assert (ran.code, asked) == (0, [])
    assert ran.err == (
        "warning: finery.toml:2: without remote, push, which you haven't allowed as they are now; "
        "see finery config\n"
    )
    assert t.here("show", "rows").code == 2
    assert t.here("cache", "gc", "--shared", "3").code == 2
    assert not asked
    t.env["FINERY_PROJECT_SETTINGS"] = "ignore"
    assert t.here("build").code == 0
    assert not asked
    t.env["FINERY_PROJECT_SETTINGS"] = "allow"
    t.edit("rows.jsonl", "a", "c")
    t.here("build")
    assert asked


def test_consent_is_to_values_in_a_folder(stranger: Callable[[str], Project]) -> None:
    t = stranger('remote = "file:///tmp"\nkeep = 2\nfetch = "none"\n')
    before = t.here("config")
    assert (before.code, "file:///tmp" in before.err) == (2, True)
    allowed = t.here("config", "--allow")
    assert allowed.out == 'allowed: remote = "file:///tmp"  (finery.toml:1)\n'

    assert t.here("config").code == 0
    assert not asks(t)
    t.edit("finery.toml", "keep = 2", "keep = 3")  # is the project's own affair
    assert not asks(t)
    t.edit("finery.toml", "/tmp", "/")
    assert "When one changes, finery asks for all of them again" in t.here("config").err
    t.edit("finery.toml", "///", "///tmp")
    assert not asks(t)
    (t.folder / "other").mkdir()
    t.write({"other/.git/x": "", **{f"other/{n}": text for n, text in FILES.items()}})
    (t.folder / "other/finery.toml").write_bytes((t.folder / "finery.toml").read_bytes())
    assert asks(t, "other/recipe.yaml")  # a clone elsewhere
    link = t.folder.with_name("link")
    link.symlink_to(t.folder)
    assert not asks(t, str(link / "recipe.yaml"))
    t.write({f"child/{n}": text for n, text in FILES.items()})
    assert not asks(t, "child/recipe.yaml")  # the nearest file is that of the project
    settings = (t.folder / "finery.toml").read_text()
    t.write({"finery.toml": "keep = 3\n"})
    assert t.here("config", "--disallow").code == 0  # all consents of the folder
    t.write({"finery.toml": settings})
    assert asks(t)


def test_all_consents_are_withdrawn_without_a_file(stranger: Callable[[str], Project]) -> None:
    t = stranger('remote = "file:///tmp"\n')
    t.write({"a/recipe.yaml": RECIPE, "a/finery.toml": "push = true\n", ".git/x": ""})
    for recipe in ("recipe.yaml", "a/recipe.yaml"):
        t.run("config", recipe, "--allow")
    os.rename(t.folder / "finery.toml", t.folder / "k")
    os.rename(t.folder / "a/finery.toml", t.folder / "a/k")
    assert t.here("config", "a/recipe.yaml", "--disallow").out == (
        f"withdrawn: all consents to settings in {t.folder / 'a'}\n"
        f"withdrawn: all consents to settings in {t.folder}\n"
    )
    assert t.here("config", "a/recipe.yaml", "--disallow").out == "withdrawn: nothing\n"
    os.rename(t.folder / "k", t.folder / "finery.toml")
    os.rename(t.folder / "a/k", t.folder / "a/finery.toml")
    assert asks(t)
    assert asks(t, "a/recipe.yaml")


@pytest.mark.parametrize("variable", ["", ".", "own"])
def test_no_file_of_the_project_is_the_users_own(
    stranger: Callable[[str], Project], tmp_path: Path, variable: str
) -> None:
    t = stranger("push = true\n")
    own = 'project_settings = "allow"\n'
    for folder in ("finery", ".config/finery", "own/finery", "~/.config/finery"):
        t.write({f"{folder}/config.toml": own})
    t.env |= {"XDG_CONFIG_HOME": variable, "HOME": str(tmp_path / "home")}
    assert asks(t)
    t.env["HOME"] = "."  # no home folder at all
    assert asks(t)
    ran = t.here("config", "--allow")
    assert (ran.code, "set HOME or FINERY_PROJECT_SETTINGS=allow" in ran.err) == (2, True)
    assert asks(t)
    t.env["HOME"] = str(tmp_path / "home")
    assert t.here("config", "--allow").code == 0
    assert not asks(t)


def test_table_of_no_executor_is_refused_before_consent(
    stranger: Callable[[str], Project],
) -> None:
    t = stranger('keep = 2\n[store]\nremote = "file:///tmp"\npush = true\n')
    for args in (["config"], ["config", "--allow"], ["build"]):
        ran = t.here(*args)
        assert ran.code == 2
        assert ran.err.startswith("finery.toml:2: error: executor 'store' was not found\n")
    t.write({"recipe.yaml": f"plugins: [./steps.py]\n{RECIPE}", "steps.py": ""})
    assert asks(t)  # steps.py, which doesn't run before that, may have such an executor


@pytest.mark.parametrize(
    "settings",
    [
        'remote = "s3://team/x"\n', 'remote = "http://127.0.0.1:1/x"\n', "push = true\n",
        "share_answers = true\n", 'signing_key = "~/.ssh/id_ed25519"\n',
        '[executors]\ndefault = "ray"\n', '[ray]\npass_env = ["*"]\n',
        '[slurm]\npython = "./python"\n',
    ],
)  # fmt: skip
def test_each_dangerous_setting_asks(stranger: Callable[[str], Project], settings: str) -> None:
    t = stranger(settings)
    assert asks(t)
    (t.folder / "finery.toml").unlink()
    lines = [
        f"[tool.finery.{line[1:]}" if line[0] == "[" else line
        for line in settings.split("\n")
        if line
    ]
    top = "" if settings[0] == "[" else "[tool.finery]\n"
    t.write({"pyproject.toml": top + "\n".join(lines)})
    assert asks(t)


def test_what_changes_nothing_asks_nothing(stranger: Callable[[str], Project]) -> None:
    t = stranger('remote = "s3://team/x"\n')
    t.env["FINERY_REMOTE"] = ""
    assert not asks(t)
    t.env.pop("FINERY_REMOTE")
    own = Path(t.env["XDG_CONFIG_HOME"], "finery/config.toml")
    own.parent.mkdir(parents=True)
    own.write_text('remote = "file:///tmp"\nfetch = "none"\n[slurm]\npartition = "x"\n')
    assert not asks(t)  # the user's own takes its place
    t.write({"finery.toml": 'trust = []\nretries = 2\npush = false\nwheels = "."\nremote = ""\n'})
    assert not asks(t)
    t.write({"finery.toml": "push = true\n"})  # to the user's own store
    assert asks(t)
    own.write_text('project_settings = "allow"\nremote = "file:///tmp"\nfetch = "none"\n')
    t.write({"finery.toml": "share_answers = true\n"})
    assert not asks(t)
    t.write({"finery.toml": 'project_settings = "allow"\n'})
    ran = t.here("build")
    assert (ran.code, "a project can't decide about project_settings" in ran.err) == (2, True)


def test_finery_config_runs_no_code_before_consent(stranger: Callable[[str], Project]) -> None:
    t = stranger('remote = "s3://te\\u001bam/x"\n["\\u001b[2K"]\nx = 1\n')
    t.write({
        "steps.py": f"open({str(t.folder / 'ran')!r}, 'w')\n",
        "recipe.yaml": f"plugins: [./steps.py]\n{RECIPE}",
    })  # fmt: skip
    for args in (["config"], ["config", "--allow"], ["plan"]):
        ran = t.here(*args)
        assert "\x1b" not in ran.out + ran.err
        assert args == ["plan"] or not os.path.exists(t.folder / "ran")


def test_consent_that_cant_be_recorded(stranger: Callable[[str], Project]) -> None:
    t = stranger("push = true\n")
    t.write({"config": "a file"})
    t.env["XDG_CONFIG_HOME"] = str(t.folder / "config")
    ran = t.here("config", "--allow")
    assert ran.code == 2
    assert "can't record it" in ran.err
    assert "FINERY_PROJECT_SETTINGS=allow" in ran.err
    ran = t.here("config", "--json")
    assert (ran.code, len(json.loads(ran.out)) > 9) == (2, True)


def test_a_store_keeps_no_password(project: MakeProject, hits: tuple[str, list[str]]) -> None:
    address, secrets = hits[0], ("hunter2", "topsecret")
    url = f"{address}?sig=topsecret".replace("//", "//user:hunter2@")
    t = project(FILES)
    t.run("build")
    with closing(sqlite3.connect(t.folder / ".finery/finery.db")) as db, db:
        db.execute("INSERT INTO remote VALUES (?, 1, ?, 0, ?)", ("0" * 64, "0" * 64, url))
    t.env["FINERY_REMOTE"] = url
    t.edit("rows.jsonl", "a", "c")
    ran = t.run("build", "--push")  # whose end moves all pages to the database
    assert "can't be" in ran.err
    with closing(sqlite3.connect(t.folder / ".finery/finery.db")) as db:
        assert db.execute("SELECT url FROM remote").fetchall() == [(address,)]
    written = [path.read_bytes() for path in t.folder.rglob("*") if path.is_file()]
    assert not [text for text in written for secret in secrets if secret.encode() in text]
    assert not [secret for secret in secrets if secret in ran.out + ran.err]
