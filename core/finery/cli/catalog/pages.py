"""The catalogue as a static site: an index with a search box, a page and a badge per plugin.

Whatever plugins say of themselves is escaped by the templates, and names no file unchanged. Pages
load nothing, also when they are opened as files.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3

from finery import API, __version__
from finery.cli.catalog.collect import Entry
from finery.cli.catalog.probe import DistributionFacts, PluginFacts
from finery.errors import UsageError
from finery.util.paths import shown
from finery.util.text import counted
from finery.views.html import load_template, render_sections
from finery.views.parts import Cell, Column, Facts, Section, Table, Text, Tone

DATA = "catalog.json"
_TEMPLATES = "finery.cli.catalog/templates"
CONTRACT_TONES: dict[str, Tone] = {
    "passed": "good", "failed": "bad", "unfinished": "bad", "untested": "soft",
}  # fmt: skip
NO_FACTS, NO_PLUGIN = DistributionFacts("–", "", "", "", "", []), PluginFacts("", [])


class Data(msgspec.Struct):
    """The file with everything that the pages show."""

    finery: str
    api: str
    entries: list[Entry]


class Listing(NamedTuple):
    """A plugin with its entry. name: the requirement if there is no plugin. checks: the verdict."""

    name: str
    entry: Entry
    facts: DistributionFacts
    plugin: PluginFacts
    checks: str

    @property
    def tones(self) -> tuple[Tone, Tone]:
        """Those of the checks and of the contract."""
        problems: Tone = "warning" if self.plugin.problems and not self.plugin.broken else "bad"
        contract = CONTRACT_TONES[self.entry.contracts.verdict]
        return "good" if self.checks == "passed" else problems, contract

    @property
    def stem(self) -> str:
        """The name of its files, different for each."""
        text = f"{self.facts.name}.{self.name}" if self.entry.facts else self.name
        safe = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:80]
        return safe if safe == text else f"{safe}-{blake3(text.encode()).hexdigest(4)}".lstrip("-")

    @property
    def provides(self) -> list[str]:
        """The sections of recipes that take its step types, and what it provides besides."""
        return [*sorted({s for step in self.plugin.steps for s in step.sections}), *self.named]

    @property
    def named(self) -> dict[str, list[str]]:
        """Kind → names of what it provides, hooks included."""
        hooks = {"hooks": self.plugin.hooks} if self.plugin.hooks else {}
        return self.plugin.provided | hooks

    @property
    def words(self) -> str:
        """What the search finds it by."""
        steps = self.plugin.steps
        settings = [s.name for step in steps for group in step.settings.values() for s in group]
        names = [name for names in self.named.values() for name in names]
        texts = [self.name, self.facts.name, self.facts.summary, self.plugin.about]
        steps_and_settings = [*(step.name for step in steps), *settings]
        return " ".join([*texts, *self.provides, *names, *steps_and_settings]).lower()


def listings(entries: Sequence[Entry]) -> Iterator[Listing]:
    """The plugins of all entries."""
    for entry in entries:
        facts = entry.facts or NO_FACTS
        for plugin in facts.plugins:
            checks = counted(len(plugin.problems), "problem") if plugin.problems else "passed"
            if plugin.broken:
                checks = "other API" if plugin.apis and API not in plugin.apis else "broken"
            yield Listing(plugin.name, entry, facts, plugin, checks)
        if not facts.plugins:
            checks = "no plugin" if entry.facts else "not installed"
            yield Listing(entry.requirement, entry, facts, NO_PLUGIN, checks)


def read_previous(out: Path) -> list[Entry]:
    """The entries of an earlier run. Raises `UsageError` for a folder that isn't a catalogue."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return []
    try:
        return msgspec.json.decode((out / DATA).read_bytes(), type=Data).entries
    except (OSError, msgspec.MsgspecError) as error:
        what = f"{shown(out)} isn't a catalogue: {DATA} can't be read ({error})"
        raise UsageError(what, where=shown(out), fix="name a new folder") from None


def write_site(entries: Sequence[Entry], out: Path) -> list[Listing]:
    """Write all files of the site, and remove those of plugins that the list no longer names."""
    listed = sorted(listings(entries), key=lambda each: (each.name.lower(), each.stem))
    texts = {f"badges/{each.stem}.svg": _badge(each) for each in listed}
    texts |= {f"plugins/{each.stem}.html": _page(each) for each in listed}
    texts["index.html"] = _index(listed)
    data = msgspec.json.encode(Data(__version__, API, [*entries]))
    texts[DATA] = msgspec.json.format(data, indent=1).decode()
    for folder in ("plugins", "badges"):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    return listed


def _badge(listing: Listing) -> str:
    verdict, checks = listing.entry.contracts.verdict, listing.checks
    text = f"checks {checks}" if checks == "passed" else checks
    text += f", contract {verdict}" if verdict != "untested" else ""
    label, tone = f"finery {__version__}", "bad" if "bad" in listing.tones else listing.tones[0]
    template = load_template(f"{_TEMPLATES}/badge.svg.jinja")
    return template.render(label=label, text=text, tone=tone)


def _index(listed: Sequence[Listing]) -> str:
    rows: list[list[Cell]] = []
    for each in listed:
        is_fit = each.checks == "passed" or bool(each.plugin.problems and not each.plugin.broken)
        fits = Text("yes" if is_fit else f"no: {each.checks}", "good" if is_fit else "bad")
        version, apis = f"{each.facts.name} {each.facts.version}", ", ".join(each.plugin.apis)
        rows.append([each.name, version, apis, each.facts.requires, fits])
    here = f"finery {__version__}, API {API}"
    hidden = [Column(title, 3) for title in ("distribution", "states API", "accepts finery")]
    table = Table(["plugin", *hidden, here], rows)
    script = files("finery.cli.catalog").joinpath("templates/search.js").read_text("utf-8")
    intro = f"{counted(len(listed), 'plugin')}, checked with finery {__version__}."
    sections = [Section("Compatibility", [table])]
    return _render("Plugins for finery", sections, intro, script=script, listed=listed)


def _page(listing: Listing) -> str:
    from markupsafe import Markup

    badge = Markup(_badge(listing))
    sections = [section._replace(rank=number) for number, section in enumerate(_sections(listing))]
    return _render(listing.name, sections, listing.facts.summary, badge=badge)


def _render(
    title: str, sections: list[Section], intro: str, script: str = "", **values: Any
) -> str:
    template = f"{_TEMPLATES}/catalog.html.jinja"
    return render_sections(
        title, sections, intro=intro, template=template, script=script, values=values
    )


def _sections(listing: Listing) -> Iterator[Section]:
    _, entry, facts, plugin, checks = listing
    contracts = entry.contracts
    about = {
        "checks": checks,
        "contract": contracts.verdict + (", by its own tests" if contracts.are_shipped else ""),
        "listed as": entry.requirement,
    }
    if entry.facts:
        about |= {
            "distribution": f"{facts.name} {facts.version}",
            "last release": entry.released or "unknown",
            "licence": facts.licence or "not stated",
            "API": ", ".join(plugin.apis) or "not stated",
            "finery": facts.requires or "not stated",
        }
    badge = Text(f"Its badge is `badges/{listing.stem}.svg`.", "soft")
    yield Section("Result", [Facts(about), badge])
    error = [entry.error, *_texts_of(plugin.broken or {})]
    if any(error):
        yield Section("Error", [Text("\n".join(filter(None, error)), is_code=True)])
    elif plugin.problems:
        rows = [[*problem.values()] for problem in plugin.problems]
        yield Section("Problems", [Table(["where", "problem", "fix"], rows)])
    if plugin.about or listing.named:
        named = Facts({kind: ", ".join(names) for kind, names in listing.named.items()})
        yield Section("Plugin", [*_paragraphs(plugin.about), named])
    for step in plugin.steps:
        tables = [
            Table([title, "takes", "meaning"], [list(setting) for setting in group])
            for title, group in step.settings.items()
        ]
        paragraphs = [Text(step.error, "bad")] if step.error else _paragraphs(step.about)
        note = f"in {', '.join(step.sections)}" if step.sections else ""
        yield Section(step.name, [*paragraphs, *tables], note=note)
    if contracts.output:
        yield Section("Contract", [Text(contracts.output, is_code=True)])


def _texts_of(error: dict[str, Any]) -> list[str]:
    """The lines of an error as data."""
    details = [str(line) for line in error.get("details") or ()]
    what, where, fix = (str(error.get(name) or "") for name in ("what", "where", "fix"))
    return [what, where, *details, f"fix: {fix}" if fix else ""]


def _paragraphs(text: str) -> list[Text]:
    return [Text(" ".join(part.split())) for part in text.split("\n\n") if part.strip()]
