"""What can be said of a training before it runs."""

from collections.abc import Sequence

from finery import Dataset
from finery.advanced import Proof, ProofBuilder, SamplePiece
from finery_ngram.steps import Train


def prove(step: Train, samples: int) -> list[Proof]:
    """A proof of each data set: rows in words, with the answers that are learned."""
    inputs = {"rows": step.rows}
    if step.validation is not None:
        inputs["validation"] = [step.validation]
    return [_proof(step, name, rows, samples) for name, rows in inputs.items()]


def _proof(step: Train, name: str, datasets: Sequence[Dataset], samples: int) -> Proof:
    left_out, builder = list[str](), ProofBuilder(name)
    for row in step.examples(datasets, left_out):
        builder.add(len(row.prompt) + len(row.answer), len(row.answer))
        if builder.rows <= samples:
            prompt, answer = " ".join(row.prompt), " ".join(row.answer)
            pieces = [SamplePiece(f"{prompt} ", loss=False), SamplePiece(answer, loss=True)]
            builder.add_sample(row.row, pieces)
    return builder.proof(dropped=left_out, facts={"answers": "every answer ends with the end word"})
