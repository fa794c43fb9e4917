"""Earlier builds of a step type: their settings, inputs and facts."""

from conftest import MakeProject

from finery.advanced import Results
from finery.store.database import Store

RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  lines: {use: steps.source, path: lines.txt}
  first: {use: steps.limit, rows: lines, most: 1}
  both: {use: steps.copy, rows: [lines, first], tag: 3}
"""


def test_the_past_of_a_step_type_has_its_settings_and_the_names_of_its_inputs(
    built: MakeProject,
) -> None:
    made = built({"recipe.yaml": RECIPE, "lines.txt": "a\nb\n"})
    store = Store(made.folder / ".finery")
    results = Results(store)
    (source,), (copy,) = (results.history(f"steps.{name}") for name in ("source", "copy"))
    store.close()
    assert (set(source.inputs), set(copy.inputs)) == (set(), {"rows"})
    assert copy.settings == {"tag": 3}
    assert copy.seconds > 0
