"""`finery plugin catalog`: distributions in environments of their own, and a site about them."""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from zipfile import ZipFile

import pytest
from chromium import chromium
from conftest import MakeProject, Project
from installing import THIRD_PARTY, add_core_wheels
from needs import need

from finery import API, __version__
from finery.cli.catalog import collect
from finery.cli.catalog.collect import Contracts, Entry, Listed, read_list
from finery.cli.catalog.pages import read_previous, write_site
from finery.cli.catalog.probe import DistributionFacts, PluginFacts, SettingFacts, StepFacts

ROOT = Path(__file__).parents[2]
EVIL = "</title><script>alert('`x`')</script><img src=https://evil.example/x>\x1b[31m"


def facts(name: str, *plugins: PluginFacts) -> DistributionFacts:
    return DistributionFacts(name, "1.0", "About it.", "MIT", ">=0.1", [*plugins])


ENTRIES = [
    Entry(
        "finery-shop>=1", "k1", released="2026-11-30",
        facts=facts("finery-shop", PluginFacts(
            "shop", ["1"], "Reads a shop.", ["finery_steps"],
            [StepFacts("shop.orders", ["data"], "Orders as rows.", {"settings": [
                SettingFacts("since", "a text; required", "First day."),
            ]})],
            {"engines": ["shop-engine"]},
        )),
        contracts=Contracts("passed", "11 passed", are_shipped=True),
    ),
    Entry(
        EVIL, "k2", contracts=Contracts("failed", EVIL),
        facts=DistributionFacts(EVIL, EVIL, EVIL, EVIL, EVIL, [
            PluginFacts(
                f"../../{EVIL}", [EVIL, API], EVIL, [EVIL],
                [StepFacts(EVIL, [EVIL], EVIL, {EVIL: [SettingFacts(EVIL, EVIL, EVIL)]}, EVIL)],
                {EVIL: [EVIL]}, None, [{"subject": EVIL, "what": EVIL, "fix": EVIL}],
            ),
        ]),
    ),
    Entry("finery-old", "k3", facts("finery-old", PluginFacts("old", ["0"], broken={
        "what": "plugin 'old' is for API 0", "where": "", "fix": "install another", "details": [],
    }))),
    Entry("finery-broken", "k4", facts("finery-broken", PluginFacts("broken", [API], broken={
        "what": "fails on import", "where": "x", "fix": None, "details": [],
    }))),
    Entry("finery-gone>=3", error="no version of finery-gone"),
    Entry("finery-empty", "k5", facts("finery-empty"), error="no entry point"),
]  # fmt: skip


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def site(tmp_path: Path) -> Path:
    write_site(ENTRIES, tmp_path / "site")
    return tmp_path / "site"


def test_the_index_lists_all_plugins_and_links_to_their_pages(site: Path) -> None:
    page = Tags((site / "index.html").read_text("utf-8"))
    rows = [attrs["data-words"] or "" for tag, attrs in page.tags if "data-words" in attrs]
    assert len(rows) == len(ENTRIES)
    (shop,) = [row for row in rows if "since" in row.split()]  # found by a setting
    assert {"shop", "shop.orders", "finery-shop", "shop-engine", "data"} <= {*shop.split()}
    links = [str(attrs["href"]) for tag, attrs in page.tags if tag == "a"]
    assert {(site / link).resolve() for link in links} == {*(site / "plugins").iterdir()}
    for word in ("other API", "broken", "not installed", "no plugin", "1 problem", "2026-11-30"):
        assert word in page.text
    assert f"finery {__version__}, API {API}" in page.text


def test_a_page_has_what_its_plugin_provides(site: Path) -> None:
    text = Tags((site / "plugins" / "finery-shop.shop.html").read_text("utf-8")).text
    for word in ("shop.orders", "since", "First day.", "shop-engine", "finery_steps", "11 passed"):
        assert word in text
    assert "passed, by its own tests" in text
    gone = next((site / "plugins").glob("finery-gone*")).read_text("utf-8")
    assert "no version of finery-gone" in gone
    assert "not stated" not in gone  # nothing is known of it


def test_hostile_metadata_stays_text_and_names_no_file(site: Path) -> None:
    files = sorted(str(path.relative_to(site)) for path in site.rglob("*") if path.is_file())
    assert all(re.fullmatch(r"(plugins|badges)/[\w.-]+|index.html|catalog.json", f) for f in files)
    for path in [site / "index.html", *(site / "plugins").iterdir()]:
        page = Tags(path.read_text("utf-8"))
        assert not [tag for tag in page.tags if tag[0] in ("img", "iframe", "object")]
        scripts = [tag for tag in page.tags if tag[0] == "script"]
        assert len(scripts) == (path.name == "index.html")
        for _, attributes in page.tags:
            assert not {name for name in attributes if name.startswith("on")}
            for name in ("src", "href"):
                assert "//" not in (attributes.get(name) or "")
        assert "\x1b" not in page.text
    for badge in (site / "badges").iterdir():
        ET.fromstring(badge.read_text("utf-8"))


def test_a_later_site_replaces_the_pages_of_an_earlier_one(site: Path) -> None:
    kept = read_previous(site)
    assert [entry.key for entry in kept] == [entry.key for entry in ENTRIES]
    write_site(kept[:1], site)
    assert [path.name for path in (site / "plugins").iterdir()] == ["finery-shop.shop.html"]


def test_a_folder_with_other_files_is_refused(project: MakeProject) -> None:
    t = project({"list.txt": "finery\n", "site/mine.txt": "mine"})
    ran = t.run("plugin", "catalog", "list.txt", "site")
    assert ran.code == 2
    assert "isn't a catalogue" in ran.err
    assert [path.name for path in (t.folder / "site").iterdir()] == ["mine.txt"]


def test_a_list_has_a_requirement_or_a_path_per_line(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    path = tmp_path / "list.txt"
    path.write_text(
        "# all\nfinery-a>=1,<2  # a comment\n\nfinery-b[x]; python_version>'3'\n./mine\n"
    )
    assert read_list(path) == [
        Listed("finery-a>=1,<2"), Listed("finery-b[x]; python_version>'3'"),
        Listed("./mine", (tmp_path / "mine").resolve()),
    ]  # fmt: skip
    assert read_list(ROOT / "catalog" / "plugins.txt")


@pytest.mark.parametrize(("text", "problem"), [
    ("finery-a\n--index-url x", "'--index-url x' is not a requirement"),
    ("finery-a\nfinery_A>=2", "'finery_A>=2' is listed in line 1, too"),
    ("finery-a\nfinery-b @ file:///tmp/b", "is not a requirement"),
    ("finery-a\n./nowhere", "'./nowhere' was not found"),
])  # fmt: skip
def test_a_wrong_line_is_an_error_with_its_place(
    project: MakeProject, text: str, problem: str
) -> None:
    ran = project({"list.txt": text}).run("plugin", "catalog", "list.txt", "site")
    assert (ran.code, ran.out) == (2, "")
    assert problem in ran.err
    assert "list.txt:2" in ran.err


def test_a_list_that_is_missing_or_empty_is_an_error(project: MakeProject) -> None:
    t = project({"list.txt": "# none\n"})
    assert "names no distribution" in t.run("plugin", "catalog", "list.txt", "site").err
    assert t.run("plugin", "catalog", "nowhere.txt", "site").code == 2


def test_what_does_not_end_is_killed_with_what_it_started(tmp_path: Path) -> None:
    code = "import subprocess as s, time; s.Popen(['sleep', '600']); print('on', flush=True)"
    code += "; time.sleep(600)"
    with pytest.raises(collect.RunError, match=r"didn't end in 2 s:\non"):
        collect._in_environment([sys.executable, "-c", code], Path(sys.executable), tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1300])
def test_the_pages_work_as_files_on_narrow_and_wide_screens(site: Path, width: int) -> None:
    with chromium(width, 844) as browser:
        for page in [*(site / "plugins").iterdir(), site / "index.html"]:
            browser.open(page)
            assert not browser.errors()
            assert all(url.startswith(("file:", "data:")) for url in browser.requests())
            assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        shown = browser.run(
            "search.value = 'ORDERS since'; search.dispatchEvent(new Event('input'));"
            "return [...document.querySelectorAll('#list tbody tr')].filter(row => !row.hidden)"
            ".map(row => row.querySelector('a').textContent)"
        )
        assert shown == ["shop"]
        assert browser.run("return document.getElementById('count').textContent") == "1 of 6"


# -- the real thing --------------------------------------------------------------------------------

CLOCK = '''
"""Step types."""
import time

from finery import Dataset, Job, Step, takes


class Stamp(Step, seeded=False):
    """Put the time into each row."""

    rows: Dataset = takes(help="The rows to stamp.")

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, ({**row, "at": time.time()} for row in self.rows))
'''
PLUGIN = '''"""A plugin."""
import os

from finery import hookimpl

assert "SECRET" not in os.environ


@hookimpl
def finery_steps():
    return {{"{name}.stamp": "finery_{name}.steps:Stamp"}}
'''
TESTED = "def test_it():\n    import finery_tested.steps\n"


def add_wheel(folder: Path, name: str, api: str, init: str, **modules: str) -> None:
    """Add a wheel of `finery-NAME 1.0`."""
    metadata = f"finery_{name}-1.0.dist-info"
    files = {
        f"finery_{name}/__init__.py": init,
        **{f"finery_{name}/{module}.py": text for module, text in modules.items()},
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: finery-{name}\nVersion: 1.0\n"
        "Summary: A plugin.\nRequires-Dist: finery<9\n",
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{metadata}/entry_points.txt": f"[finery]\n{name} = finery_{name} [{api}]\n",
    }
    with ZipFile(folder / f"finery_{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{metadata}/RECORD", "".join(f"{path},,\n" for path in files))


@pytest.fixture
def listed(project: MakeProject, tmp_path: Path) -> Project:
    """A project with wheels of plugins in `plugins`, and with all that they need in `wheels`."""
    for package in ("hatchling", "uv"):
        need(package)
    t = project({"wheels/.keep": "", "plugins/.keep": ""})
    more = ("iniconfig", "packaging", "pytest")
    add_core_wheels(t.folder / "wheels", *more)
    for source in ("finery-ngram", "finery-probe"):
        ignore = shutil.ignore_patterns("__pycache__")
        copied = shutil.copytree(THIRD_PARTY / source, tmp_path / source, ignore=ignore)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*pip, "-w", str(t.folder / "plugins"), str(copied)], check=True)
    plugins = t.folder / "plugins"
    add_wheel(plugins, "broken", "api-1", '"""Broken."""\nimport a_missing_library\n')
    add_wheel(plugins, "old", "api-0", '"""For another API."""\n')
    add_wheel(plugins, "clock", "api-1", PLUGIN.format(name="clock"), steps=CLOCK)
    add_wheel(plugins, "tested", "api-1", PLUGIN.format(name="tested"), steps=CLOCK, test_it=TESTED)
    (plugins / "finery_torn-1.0-py3-none-any.whl").write_bytes(b"PK torn")
    t.env["SECRET"] = "xyzzy"
    return t


@pytest.mark.slow
def test_plugins_of_third_parties_are_installed_checked_and_shown(listed: Project) -> None:
    command = ("plugin", "catalog", "plugins", "site", "--wheels", "wheels")
    ran = listed.run(*command, "--strict")
    assert ran.code == 1, ran.err
    assert "7 plugins, 4 with problems" in ran.out
    data = json.loads((listed.folder / "site" / "catalog.json").read_text("utf-8"))
    entries = {entry["requirement"].split("-")[0]: entry for entry in data["entries"]}
    verdicts = {name: entry["contracts"]["verdict"] for name, entry in entries.items()}
    assert verdicts == {
        "finery_broken": "untested", "finery_clock": "failed", "finery_ngram": "passed",
        "finery_old": "untested", "finery_probe": "passed", "finery_tested": "passed",
        "finery_torn": "untested",
    }  # fmt: skip
    assert entries["finery_tested"]["contracts"]["are_shipped"]
    assert "test_same_inputs_give_the_same_bytes" in entries["finery_clock"]["contracts"]["output"]
    (probe,) = entries["finery_probe"]["facts"]["plugins"]
    assert [step["name"] for step in probe["steps"]] == ["probe.min_length"]
    assert ["characters", "a whole number, at least 1; default 20"] in [
        setting[:2] for of in probe["steps"][0]["settings"].values() for setting in of
    ]
    assert probe["provided"]["commands"] == ["probe"]
    assert "finery_run_step" in probe["hooks"]
    (broken,) = entries["finery_broken"]["facts"]["plugins"]
    assert "a_missing_library" in broken["broken"]["what"]
    assert entries["finery_torn"]["error"]

    # Only what couldn't be installed is tried again, and without --strict the exit code is 0.
    ran = listed.run(*command)
    assert ran.code == 0, ran.err
    assert ran.err.count("(unchanged)") == 6
    add_wheel(listed.folder / "plugins", "old", "api-1", '"""For this API."""\n')
    ran = listed.run(*command)
    assert ran.err.count("(unchanged)") == 5
    assert "finery_old-1.0-py3-none-any.whl  checks: passed; contract: untested" in ran.err
