"""How generated rows were made, as it is written beside them."""

from pathlib import Path

import msgspec

from finery import Dataset
from finery.rows.files import lines_of
from finery.rows.generated import GENERATED, CheckResult, Origin, Origins, Template


def test_origins_are_read_as_they_were_written(tmp_path: Path) -> None:
    made = [
        Origin(
            id="a", use="synth.answer", model="m", prompt=[{"role": "user", "content": "q"}],
            parents=["b"], template=Template.of("{{ user }}", "own.jinja"), variant=1, attempt=2,
            answer="raw", checks=[CheckResult(check="sql", passed=True, value=3)],
            judge={"score": 4}, more={"persona": "p"},
        ),
        Origin(id="c", use="synth.answer", model="m"),
    ]  # fmt: skip
    with Origins(tmp_path) as out:
        for origin in made:
            out.add(origin)
    read = [
        msgspec.json.decode(line, type=Origin) for line in lines_of(Dataset(tmp_path), GENERATED)
    ]
    assert read == made
    lines = (tmp_path / GENERATED).read_text().splitlines()
    assert msgspec.json.decode(lines[1]) == {"id": "c", "use": "synth.answer", "model": "m"}


def test_nothing_generated_is_no_file(tmp_path: Path) -> None:
    with Origins(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
    assert list(lines_of(Dataset(tmp_path), GENERATED)) == []
