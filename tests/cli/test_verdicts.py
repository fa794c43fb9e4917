"""The end of a build, `finery show` and the report say the same about the exported model."""

import json
import re
from collections.abc import Callable, Mapping

from conftest import Project
from judged import RECIPE, files

COMPARED = RECIPE.replace(
    "data:",
    """\
  prompted: {use: t.answers, path: prompted.json}
  nearest: {use: baseline.nearest, rows: rows}
data:""",
).replace("[base, sft, shipped]", "[base, prompted, nearest, sft, longer]").replace(
    "export:", "  longer: {use: t.learn, model: base, rows: rows, share: 1.0}\nexport:"
)  # fmt: skip
WORSE = [
    "sft is significantly better in accuracy than base (+47.5 points)",
    "sft is significantly worse than the untrained model prompted in accuracy (-37.5 points)",
    "sft is significantly worse than the baseline nearest in accuracy (-50.0 points)",
]


def test_the_exported_model_is_compared_with_each_other_kind(
    project: Callable[[Mapping[str, str]], Project],
) -> None:
    """The prompted model and a training that isn't exported beat the baseline or equal it."""
    known = {f"question {i}": f"answer {i}" for i in range(35)}
    t = project(files(40, COMPARED, **{"prompted.json": json.dumps(known)}))
    built = t.run("build")
    assert [line for line in built.err.splitlines() if "significantly" in line] == [
        f"test: {text}" for text in WORSE
    ]
    assert "Train longer or on more rows, or ship nearest." in built.err
    shown = t.run("show", "test")
    assert [text for text in WORSE if text in shown.out] == WORSE
    assert t.run("report", "--html", "page.html").code == 0
    page = re.sub(r"<[^>]*>", " ", (t.folder / "page.html").read_text("utf-8"))
    text = " ".join(page.split())
    assert "(no) No, sft is worse than nearest. On 40 answers, accuracy: nearest 100.0 %" in text
    assert "(no) No. sft against nearest, in points: worse in accuracy (-50.0)" in text
