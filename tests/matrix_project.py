"""A project with a matrix of three learning rates, two ranks and two data sets."""

from collections import Counter
from pathlib import Path

from conftest import Project

STEPS = Path(__file__).parent / "matrix_steps.py"
RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  lines: {use: t.lines, path: few.txt}
  split: {use: t.split, rows: lines}
  held: {use: t.lines, path: held.txt}
  parts: {use: t.split, rows: held}
train:
  sft: {use: t.train, rows: split.train, seconds: 0.15}
evaluate:
  test: {use: t.judge, models: [sft], rows: parts.test, least: 0.1}
export:
  ship: {use: t.ship, model: sft}
matrix:
  train.sft.rate: [1e-4, 2e-4, 4e-4]
  train.sft.lora.r: [8, 16]
  rows:
    few: {data.lines.path: few.txt}
    all: {data.lines.path: [few.txt, more.txt]}
  select: {by: test.sft.accuracy, on: validation}
"""
FILES = {
    "few.txt": "".join(f"few {n}\n" for n in range(30)),
    "more.txt": "".join(f"more {n}\n" for n in range(60)),
    "held.txt": "".join(f"held {n}\n" for n in range(60)),
}


def project_in(folder: Path, recipe: str = RECIPE) -> Project:
    """A project with the recipe, whose steps count themselves in `ran.txt`."""
    made = Project(folder)
    (folder / ".git").mkdir()
    made.write({**FILES, "recipe.yaml": recipe, "steps.py": STEPS.read_text("utf-8")})
    made.env["RAN"] = str(folder / "ran.txt")
    return made


def ran(t: Project) -> Counter[str]:
    """How often each step ran to its end, by what it wrote."""
    path = t.folder / "ran.txt"
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()
