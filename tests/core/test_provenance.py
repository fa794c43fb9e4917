"""A step that says how its inputs were made: its facts are in its key, and reach it."""

from conftest import MakeProject, Project

STEPS = '''
import json
from finery import Bundle, Dataset, Job, Step, hookimpl, setting


class Source(Step, seeded=False):
    """Rows."""

    count: int = setting(2, help="How many.")

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, ({"prompt": str(i)} for i in range(self.count)))


class Check(Step, seeded=False):
    """The number of rows."""

    rows: Dataset

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, [{"prompt": f"{len(self.rows)} rows"}])


class Card(Step, seeded=False, sections=("export",)):
    """What it is told."""

    rows: Dataset

    def run(self, job: Job) -> Bundle:
        (job.out / "card.json").write_text(json.dumps(job.provenance))
        return Bundle(job.out, meta={"format": "card"})

    def provenance(self, name, graph, results):
        steps = {n: len(results.artifact(n)) for n in graph.nodes if n != name}
        return {"steps": steps, "recipe": graph.recipe.shareable.count("hello")}


@hookimpl
def finery_steps():
    return {"steps.source": Source, "steps.check": Check, "steps.card": Card}
'''
RECIPE = """
finery: 1
name: t
plugins: [./steps.py]
data:
  a: {use: steps.source}
  other: {use: steps.source, count: 5}
  check: {use: steps.check, rows: other}
export:
  card: {use: steps.card, rows: a, needs: check}
"""
FILES = {"recipe.yaml": RECIPE, "steps.py": STEPS}


def card(project: Project) -> str:
    return (project.folder / "build/t/card/card.json").read_text(encoding="utf-8")


def test_the_facts_reach_the_step(project: MakeProject) -> None:
    built = project(FILES)
    assert built.ran() == ["a", "card", "check", "other"]
    assert card(built) == '{"steps": {"a": 2, "other": 5, "check": 1}, "recipe": 0}'
    assert built.ran() == []


def test_a_change_before_a_needed_step_reruns_it(project: MakeProject) -> None:
    built = project(FILES)
    built.ran()
    built.edit("recipe.yaml", "count: 5", "count: 6")
    plan = built.run("plan").out
    assert "waits for other, check" in " ".join(plan.split())
    assert built.ran() == ["card", "check", "other"]
    assert '"other": 6' in card(built)


def test_explain_names_the_subject(project: MakeProject) -> None:
    built = project(FILES)
    built.ran()
    built.edit("recipe.yaml", "finery: 1", "# hello\nfinery: 1")
    assert "\n  provenance recipe  " in built.run("explain", "card").out
    assert built.ran() == ["card"]


def test_a_step_without_provenance_doesnt_wait_for_needs(project: MakeProject) -> None:
    """Its key depends on its inputs only, so a plan knows its state before they are built."""
    built = project({**FILES, "steps.py": STEPS.replace("def provenance(", "def unused(")})
    built.ran()
    built.edit("recipe.yaml", "count: 5", "count: 6")
    assert built.ran() == ["check", "other"]
    assert card(built) == "{}"
