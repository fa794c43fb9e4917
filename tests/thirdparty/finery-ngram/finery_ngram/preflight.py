"""What can be said of a training before it runs."""

from collections.abc import Sequence

from finery import Dataset
from finery.advanced import Piece, Proof, Sample, Tally
from finery_ngram.steps import Example, Train


def prove(step: Train, samples: int) -> list[Proof]:
    """A proof of each data set: rows in words, with the answers that are learned."""
    inputs = {"rows": step.rows}
    if step.validation is not None:
        inputs["validation"] = [step.validation]
    return [_proof(step, name, rows, samples) for name, rows in inputs.items()]


def _proof(step: Train, name: str, datasets: Sequence[Dataset], samples: int) -> Proof:
    left_out, tally = list[str](), Tally()
    rows = step.examples(datasets, left_out)
    for row in rows:
        tally.add(len(row.prompt) + len(row.answer), len(row.answer))
    return tally.proof(
        name,
        dropped=left_out,
        facts={"answers": "every answer ends with the end word"},
        samples=[_sample(row) for row in rows[:samples]],
    )


def _sample(row: Example) -> Sample:
    prompt, answer = " ".join(row.prompt), " ".join(row.answer)
    return Sample(row.row, [Piece(f"{prompt} ", loss=False), Piece(answer, loss=True)])
