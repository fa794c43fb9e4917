"""The page of a report, put together from the sections of views and of this package."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from finery.artifact.kinds import Artifact
from finery.artifact.manifest import Manifest
from finery.builder.checks import failed_gates
from finery.builder.runs import Revision, Run, context_of
from finery.compare.outputs import outputs_by_view, titled
from finery.errors import FineryError
from finery.recipe.graph import Graph
from finery.recipe.yaml import redact_secrets
from finery.report.steps import Group, ReportedStep, counts, groups_of
from finery.report.variants import Variants, names_shown, steps_shown
from finery.report.variants import section_of as variants_section
from finery.report.verdict import verdict_of
from finery.rows.report import Remark
from finery.step.step import Step
from finery.store.database import Store
from finery.util.paths import recipe_id
from finery.util.text import counted, duration, in_dollars, size
from finery.views.html import findings_in, ranked, render_sections
from finery.views.parts import (
    Cell,
    Column,
    Facts,
    Finding,
    Part,
    Quantity,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
    Verdict,
)
from finery.views.parts import Tone as TextTone
from finery.views.view import Context, Output, View, sections_of

NEEDED = "Was fine-tuning needed?"
"""The first question about a recipe that trains a model, even if no evaluator answers it."""
REQUIREMENTS = "Does it meet its requirements?"


class Reported(NamedTuple):
    """The subject of a report. run: whose results it shows; otherwise those of the last run.

    variants: of a recipe with a matrix.
    """

    graph: Graph
    store: Store
    steps: Sequence[ReportedStep]
    run: Run | None
    is_past: bool = False
    variants: Variants | None = None


def report_page(reported: Reported, context: Context, *, reload_seconds: int = 0) -> str:
    """The page as HTML."""
    judged = list(_sections(reported, context))
    sections = [steps_section(reported), _origin(reported), *judged]
    return render_sections(
        title_of(reported),
        sections,
        intro=intro_of(reported),
        findings=list(_findings(reported, sections)),
        reload_seconds=reload_seconds,
        verdict=_verdict(reported, judged),
    )


def title_of(reported: Reported) -> str:
    """The heading of a report."""
    return f"{reported.graph.recipe.name}: report of a build"


def intro_of(reported: Reported) -> str:
    """Which build it is about, and the number of steps in each state."""
    run, states = reported.run, ", ".join(counts(reported.steps))
    when = f"Build {run.id}, {run.started[:16].replace('T', ' ')} UTC. " if run else ""
    return f"{when}{counted(len(reported.steps), 'step')}: {states}."


def in_short(reported: Reported, context: Context) -> tuple[Verdict | None, list[Finding]]:
    """What the page begins with: what to ship, and answers to the first questions of a reader."""
    sections = list(_sections(reported, context))
    ordered = sorted(sections, key=lambda section: section.rank)
    findings = [finding for section in ordered for finding in findings_in(section)]
    answers = ranked([*_findings(reported, sections), *findings])
    return _verdict(reported, sections), answers


def _verdict(reported: Reported, sections: Sequence[Section]) -> Verdict | None:
    built = [step.node.name for step in reported.steps if step.result is not None]
    return verdict_of(reported.graph, built, _failed_gates(reported), sections)


def _failed_gates(reported: Reported) -> dict[str, FineryError]:
    results = {step.node.name: step.result for step in reported.steps}
    return failed_gates(reported.graph, reported.store, results)


def _sections(reported: Reported, context: Context) -> Iterator[Section]:
    """The sections with findings, and the verdict of a view."""
    context = context._replace(gates=_failed_gates(reported))
    if reported.variants is not None:
        yield variants_section(reported.variants)
    for view, outputs in outputs_shown(reported):
        yield from sections_of(view, outputs, context)


def _findings(reported: Reported, sections: Sequence[Section]) -> Iterator[Finding]:
    failed = [step for step in reported.steps if step.state == "failed" and step.result is None]
    if failed:
        names = ", ".join(f"{step.node.name} ({step.detail})" for step in failed)
        yield Finding("Is the build complete?", f"No. Failed: {names}.", "bad", 0)
    elif any(step.result is None for step in reported.steps):
        names = ", ".join(step.node.name for step in reported.steps if step.result is None)
        yield Finding("Is the build complete?", f"No. Not built: {names}.", "open", 0)
    answered = any(f.question == NEEDED for s in sections for f in findings_in(s))
    if not answered and reported.graph.has_training:
        text = "Not measured: no model of this build was judged."
        yield Finding(NEEDED, text, "open", 1)
    yield from _gates(reported)


class Gate(NamedTuple):
    """A step that can fail a build by its result. error: why it fails, None if it doesn't.

    required: what its `require:` says, empty for other checks of a result. doubts: why passing
    proves little.
    """

    step: ReportedStep
    required: str
    error: FineryError | None
    doubts: Sequence[str] = ()

    @property
    def tone(self) -> Literal["good", "bad", "open"]:
        """`good` only for what is met and proves something."""
        if self.error:
            return "bad"
        return "good" if self.step.result and not self.doubts else "open"


def gates_of(reported: Reported) -> list[Gate]:
    """The steps with a `require:`, built or not, and others whose result fails the build."""
    failed = _failed_gates(reported)
    gates = []
    for step in reported.steps:
        required = getattr(step.node.step, "require", None) or {}
        error = failed.get(step.node.name)
        asks = required or step.node.left_out
        if error or (asks and type(step.node.step).verify is not Step.verify):
            text = ", ".join(f"{name} {words}" for name, words in required.items())
            manifests = step.result.outputs if step.result and not error else {}
            outputs = {name: reported.store.artifact(m) for name, m in manifests.items()}
            gates.append(Gate(step, text, error, step.node.doubts(outputs) if outputs else ()))
    return gates


def _gates(reported: Reported) -> Iterator[Finding]:
    """Whether the results meet `require:`, if anything is required."""
    gates = gates_of(reported)
    names = ", ".join(gate.step.node.name for gate in gates)
    failed = [(gate.step.node.name, gate.error) for gate in gates if gate.error]
    if failed:
        text = ". ".join(f"{name}: {', and '.join(e.details) or e.what}" for name, e in failed)
        yield Finding(REQUIREMENTS, f"No. {text}.", "bad", 4)
    elif gates and all(gate.step.result for gate in gates):
        doubts = "".join(f" {doubt}." for gate in gates for doubt in gate.doubts)
        met = "Met, but this proves little: those" if doubts else "Yes, those"
        text = f"{met} of {names}.{doubts}"
        yield Finding(REQUIREMENTS, text, "open" if doubts else "good", 4)
    elif gates:
        yield Finding(REQUIREMENTS, f"Not measured: {names} isn't built.", "open", 4)
    else:
        yield Finding(REQUIREMENTS, "The recipe requires nothing.", "open", 4)


def steps_section(reported: Reported) -> Section:
    """The steps with their states, and the digests of their outputs."""
    groups = groups_of(reported.steps)
    variants = [
        Group(step.node.name, [step], step.node.upstream())
        for group in groups
        if len(group.steps) > 1
        for step in group.steps
    ]
    parts: list[Part] = [_steps_table(groups)]
    if variants:
        parts.append(Section("Steps of the variants", [_steps_table(variants)], is_folded=True))
    digests = {
        group.title: ", ".join(f"{m.kind} {m.digest[:12]}" for m in _outputs_of(group))
        for group in [*groups, *variants]
        if len(group.steps) == 1
    }
    facts = Facts({title: text for title, text in digests.items() if text})
    parts.append(Section("Digests of the outputs", [facts], is_folded=True))
    return Section("Steps", parts, rank=80)


def _steps_table(groups: Sequence[Group]) -> Table:
    has_details = any(group.detail for group in groups)
    rows: list[list[Cell]] = []
    for group in groups:
        outputs = _outputs_of(group)
        total = Quantity(sum(m.size() for m in outputs), "bytes") if outputs else None
        details = [group.detail] if has_details else []
        state = Text(group.state, TONES.get(group.state, ""))
        needs = ", ".join(group.upstream)
        seconds = [step.result.seconds for step in group.steps if step.result]
        time = Quantity(sum(seconds), "duration") if seconds else None
        rows.append([group.title, group.use, state, *details, time, total, needs])
    why = ["why"] if has_details else []
    heads: list[Column | str] = ["step", Column("type", 3), "state", *why, "time", "size"]
    return Table([*heads, Column("needs", 3)], rows)


TONES: Mapping[str, TextTone] = {"failed": "bad", "blocked": "bad", "built": "good"}


def _outputs_of(group: Group) -> list[Manifest]:
    """The different outputs of its steps."""
    results = [step.result for step in group.steps if step.result]
    return list({m.digest: m for result in results for m in result.outputs.values()}.values())


def _origin(reported: Reported) -> Section:
    graph, run = reported.graph, reported.run
    facts = dict(run.context) if run and run.context else {}
    if not facts:
        facts = context_of(graph, recipe_id(graph.recipe.path, reported.store.root))
    # Package → version, of all that are in a key.
    packages = {
        part.removeprefix("package "): str(value)
        for step in reported.steps
        for part, value in (step.result.parts if step.result else [])
        if part.startswith("package ")
    }
    repeat: list[Part] = [Text("\n".join(_commands(reported, facts)), is_code=True)]
    if (facts.get("revision") or {}).get("is_dirty"):
        repeat.append(Remark(DIRTY, severity="warning"))
    if not facts.get("revision"):
        repeat.append(Text("The project wasn't in git, so no revision is known.", "soft"))
    repeat.append(Text(FOLLOW, "soft"))
    parts: list[Part] = [Tiles(list(_costs(reported))), Facts(dict(_facts(reported, facts)))]
    parts.append(Section("Repeat it", repeat))
    if packages:
        package_facts = Facts(dict(sorted(packages.items())))
        parts.append(Section("Packages in the keys", [package_facts], is_folded=True))
    if not reported.is_past:
        recipe = Text(redact_secrets(graph.recipe.text), is_code=True)
        parts.append(Section("The recipe", [recipe], is_folded=True))
    return Section("Cost, origin and how to repeat it", parts, rank=90)


DIRTY = (
    "Files differed from this revision when it was built, so the commands repeat it only with "
    "those changes"
)
FOLLOW = (
    "Follow a row through all steps with `finery show --row ID`, and compare builds with "
    "`finery diff`."
)


def _costs(reported: Reported) -> Iterator[Tile]:
    """Time, money and size."""
    results = [step.result for step in reported.steps if step.result]
    total = sum(result.seconds for result in results)
    yield Tile("time of all steps", duration(total), "each at its last run")
    longest = max(reported.steps, key=lambda s: s.result.seconds if s.result else -1.0)
    if longest.result:
        yield Tile("longest step", longest.time, longest.node.name)
    dollars = sum(step.dollars for step in reported.steps)
    cost = in_dollars(dollars) if dollars else "none"
    yield Tile("cost of answers", cost, "of models behind an API")
    manifests: dict[str, Manifest] = {m.digest: m for r in results for m in r.outputs.values()}
    yield Tile("size of outputs", size(sum(m.size() for m in manifests.values())))


def _facts(reported: Reported, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    revision = facts.get("revision")
    text = str(Revision(revision["commit"], revision["is_dirty"])) if revision else "not in git"
    machine = facts.get("machine") or {}
    memory = f", {size(machine['memory'])} of memory" if machine.get("memory") else ""
    yield "recipe", str(facts.get("path", ""))
    yield "git revision", text
    yield "finery", str(facts.get("finery") or "")
    yield "Python", str(facts.get("python") or "")
    if machine:
        cores = counted(machine.get("cores", 0), "core")
        yield "machine", f"{machine.get('processor', '')}, {cores}{memory}"
        yield "GPUs", ", ".join(machine.get("gpus") or []) or "none"
    seed = reported.graph.recipe.data.get("seed")
    yield "seed", str(seed) if seed is not None else "0"


def _commands(reported: Reported, facts: Mapping[str, Any]) -> Iterator[str]:
    revision = facts.get("revision")
    if revision:
        yield f"git checkout {revision['commit']}"
    only = [f"--step {name}" for name in facts.get("only") or []]
    overrides = [str(text) for text in facts.get("overrides") or []]
    yield " ".join(["finery build", str(facts.get("path", "")), *overrides, *only])


def outputs_shown(reported: Reported) -> list[tuple[View, list[Output]]]:
    """The outputs that a report is about, by the view that shows them."""
    outputs = (
        output
        for step in steps_shown(reported.variants, reported.steps)
        if step.result
        for output in titled(step.node.name, step.result.outputs).items()
    )
    return outputs_by_view(reported.graph.plugins, reported.store, outputs)


def built_in(reported: Reported) -> Mapping[str, Artifact]:
    """Name in the recipe → artifact, for everything that exists.

    If a name means one of several variants, it is the one that the report shows.
    """
    artifacts: dict[str, Artifact] = {}
    for step in reported.steps:
        for name, manifest in (step.result.outputs if step.result else {}).items():
            title = f"{step.node.name}.{name}" if name else step.node.name
            artifacts[title] = reported.store.artifact(manifest)
    for origin, variant in names_shown(reported.variants).items():
        for title in [title for title in artifacts if title.partition(".")[0] == variant]:
            _, dot, output = title.partition(".")
            artifacts.setdefault(f"{origin}{dot}{output}", artifacts[title])
    return artifacts
