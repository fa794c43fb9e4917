"""The view of models: facts, and the curve of a trained model with its verdict."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from finery import DataError
from finery.advanced import Graph, Manifest, percent, shown
from finery.views import (
    Context,
    Detail,
    Facts,
    Finding,
    Output,
    Part,
    Quantity,
    Records,
    Remark,
    Section,
    Text,
    View,
)
from finery_trl.view.curves import (
    CURVE,
    Point,
    Verdict,
    label,
    lines,
    load,
    metrics,
    series,
    verdict,
)
from finery_trl.view.plot import comparison_plot, curve_parts, sample_record

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


GIB = 2**30
SOUND = ("still falling", "settled")
"""States of a curve that are good: validations show how it went."""
QUESTION = "How did the training go?"


class CurveView(View):
    """Shows models, and the training curve of a model that contains a `curve.json`.

    `meta` may have `parameters`, `trainable_parameters` and `best_step`, the optimizer step of the
    model's weights. For a format of your own, subclass this view or use it as it is:
    `{"Model/ngram": "finery_trl.view.model:CurveView"}`.
    """

    page_suffix = "-curve"

    def brief(self, manifest: Manifest) -> str:
        """Format, architecture and quantization, if they are known."""
        names = ("format", "architecture", "quantization")
        return " ".join(str(manifest.meta[name]) for name in names if name in manifest.meta)

    def data(self, output: Output, detail: Detail) -> dict[str, Any]:
        """The verdict on the curve."""
        judged = verdict_on(output, output.graph)
        return {} if judged is None else {"verdict": msgspec.to_builtins(judged)}

    def facts(self, output: Output) -> Mapping[str, Any]:
        """`meta`, the share of parameters that were trained, and what was measured meanwhile.

        A file may have the speed that its export measured as `tokens_per_second` in `runtime`.
        """
        meta, runtime = output.manifest.meta, output.manifest.runtime
        total, trainable = meta.get("parameters"), meta.get("trainable_parameters")
        facts = {**meta, **measured(output.manifest)}
        if total and trainable:
            facts["trainable"] = f"{percent(trainable / total)} of {total:,} parameters"
        if speed := runtime.get("tokens_per_second"):
            facts["speed"] = f"{speed:,.0f} tokens/s where it was exported"
        return facts

    def describe(self, outputs: Sequence[Output], context: Context) -> Iterator[Section]:
        """Facts, files, the curve with its verdict, answers; of a build, the curves alone."""
        if context.scope == "output":
            for output in outputs:
                yield from super().describe([output], context)
                yield from _curve_sections(output, context)
                if context.medium == "page":  # the terminal's title has the size
                    manifest = output.manifest
                    size = Quantity(manifest.size(), "bytes")
                    facts = Facts({"size": size, "digest": manifest.digest[:16]})
                    yield Section("Size and digest", [facts], rank=70)
        trained = [output for output in outputs if CURVE in output.manifest.files]
        if context.scope == "build" and trained:
            parts = (_training(output, context.graph) for output in trained)
            yield Section("Trainings", parts, rank=30)

    def difference(self, before: Output, after: Output) -> dict[str, Any]:
        """Facts that differ, how much the weights do, and the curves of both."""
        both = curve_of(before), curve_of(after)
        files = [
            [output.artifact.file(name) for name in output.manifest.files if name.endswith(SUFFIX)]
            for output in (before, after)
        ]
        weights = weights_difference(*files)
        difference = super().difference(before, after) | ({"weights": weights} if weights else {})
        if both[0] is None or both[1] is None:
            return difference
        return {**difference, "curves": difference_of(both[0], both[1])}

    def compare(self, before: Output, after: Output, context: Context) -> Iterator[Section]:
        """Facts that differ, how much the weights do, and the curves in one plot."""
        yield Section(after.title, _comparison(self.difference(before, after)))

    def remarks(self, output: Output) -> Iterator[Remark]:
        """The verdict on the curve, with advice only if something is wrong."""
        if judged := verdict_on(output, output.graph):
            remark = remark_of(judged)
            yield remark if judged.is_bad else Remark(remark.text)


def remark_of(judged: Verdict) -> Remark:
    """A verdict with its advice."""
    sentence, *advice = lines(judged)
    return Remark(sentence, " ".join(advice), "warning" if judged.is_bad else "info")


def curve_of(output: Output) -> list[Point] | None:
    """The points of an output's `curve.json`, None if it has none.

    Raises `DataError` if the file contains something else.
    """
    if CURVE not in output.manifest.files:
        return None
    path = output.artifact.file(CURVE)
    try:
        return load(path.read_bytes())
    except ValueError as error:
        raise DataError(
            f"it doesn't contain a training curve: {error}",
            where=shown(path),
            fix="its plugin must write a list of points {step, loss, eval_loss, …}",
        ) from error


def verdict_on(output: Output, graph: Graph | None) -> Verdict | None:
    """The verdict on an output's curve, None if it has none.

    Its advice is for language models: graph tells whether the output is one.
    """
    points = curve_of(output)
    step = output.manifest.meta.get("best_step")
    if points is None:
        return None
    judged = verdict(points, step if isinstance(step, int) else None)
    made_by = [graph.nodes[name].step for name in graph.models_under(output.step)] if graph else []
    if any(type(each).__spec__.family == "language-model" for each in made_by):
        return judged
    return msgspec.structs.replace(judged, advice=None)


def samples_of(output: Output) -> list[dict[str, Any]]:
    """Answers of the model during its training, in order; empty if none were kept."""
    from finery_trl.train.save import SAMPLES

    if SAMPLES not in output.manifest.files:
        return []
    text = output.artifact.file(SAMPLES).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def measured(manifest: Manifest) -> dict[str, str]:
    """Speed and memory of a training in words, if its `runtime` has them."""
    from finery_trl.train.save import MEASURED_AS

    facts = manifest.runtime.get(MEASURED_AS, {})
    speed, gpu, memory = (
        facts.get(name) for name in ("tokens_per_second", "peak_gpu_memory", "peak_memory")
    )
    words: dict[str, str] = {}
    if speed:
        words["speed"] = f"{speed:,} tokens/s"
    if gpu or memory:
        where = " on the GPU" if gpu else ""
        words["peak memory"] = f"{(gpu or memory) / GIB:.1f} GiB{where}"
    return words


def _curve_sections(output: Output, context: Context) -> Iterator[Section]:
    """The curve with its verdict, and the newest answers; nothing without a curve."""
    points, judged = curve_of(output), verdict_on(output, context.graph)
    if points is None or judged is None:
        return
    statement: Part = remark_of(judged)
    if context.medium == "page":  # which begins with it
        statement = Finding(
            QUESTION,
            " ".join(lines(judged)),
            "bad" if judged.is_bad else "good" if judged.state in SOUND else "info",
        )
    yield Section("Curves", [*curve_parts(points, judged), statement], rank=10)
    if samples := samples_of(output):
        newest = map(sample_record, reversed(samples))
        records = Records(newest, len(samples), shown=context.detail.rows)
        yield Section("Answers during the training", [records], rank=20)


def _training(output: Output, graph: Graph) -> Section:
    """A trained model in a report."""
    points, judged = curve_of(output), verdict_on(output, graph)
    note = ", ".join(f"{name} {value}" for name, value in measured(output.manifest).items())
    parts = [] if judged is None else [remark_of(judged), *curve_parts(points or (), judged)]
    return Section(output.title, parts, note=note)


def difference_of(before: Sequence[Point], after: Sequence[Point]) -> dict[str, Any]:
    """Name of a series → its last and its lowest value on both sides, and the series, as JSON."""
    names = ["loss", "eval_loss", *dict.fromkeys([*metrics(before), *metrics(after)])]
    curves = {}
    for name in names:
        both = series(before, name), series(after, name)
        if any(both):
            curves[name] = {
                "last": [side[-1][1] if side else None for side in both],
                "lowest": [min(value for _, value in side) if side else None for side in both],
                "series": [[list(point) for point in side] for side in both],
            }
    return curves


def _comparison(data: Mapping[str, Any]) -> Iterator[Part]:
    if "facts" in data:
        yield Facts.of_changes(data["facts"])
    if weights := data.get("weights"):
        text = "{changed:,} of {tensors:,} tensors differ, by up to {most:.3g}"
        yield Text(f"  weights: {text.format(**weights)}")
    curves = data.get("curves", {})
    yield from comparison_plot(curves)
    yield from (Text(f"  {line}") for line in _lines(curves))


def _lines(data: Mapping[str, Any]) -> Iterator[str]:
    for name, facts in data.items():
        (last_a, last_b), (low_a, low_b) = facts["last"], facts["lowest"]
        lowest = f", lowest {_number(low_a)} → {_number(low_b)}" if name == "eval_loss" else ""
        yield f"{label(name)}: at the end {_number(last_a)} → {_number(last_b)}{lowest}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


# -- differences of weights ------------------------------------------------------------------------


SUFFIX = ".safetensors"
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""dtypes that are compared, and how NumPy reads them; bf16 is the upper half of a float."""


class _Tensor(NamedTuple):
    path: Path
    dtype: str
    shape: list[int]
    offset: int


def weights_difference(before: Sequence[Path], after: Sequence[Path]) -> dict[str, Any]:
    """`tensors`: how many both models have in the same shape; `changed`: how many of them differ;
    `most`: the largest absolute difference. Empty if they have none.

    before, after: safetensors files of each model.
    """
    import numpy as np

    old, new = _tensors(before), _tensors(after)
    both = [name for name in old if name in new and old[name].shape == new[name].shape]
    changed, largest = 0, 0.0
    for name in both:
        old_values, two = _values(old[name]), _values(new[name])
        difference = float(np.max(np.abs(old_values - two), initial=0.0))
        changed += difference != 0
        largest = max(largest, difference)
    return {"tensors": len(both), "changed": changed, "most": largest} if both else {}


def _tensors(files: Sequence[Path]) -> Mapping[str, _Tensor]:
    """Name → the tensor, of those with numbers that are compared."""
    shapes = {}
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, facts in header.items():
            if facts["dtype"] in DTYPES:
                offset = 8 + length + facts["data_offsets"][0]
                shapes[name] = _Tensor(path, facts["dtype"], facts["shape"], offset)
    return shapes


def _values(tensor: _Tensor) -> "Array":
    import numpy as np

    count = int(np.prod(tensor.shape))
    values = np.fromfile(tensor.path, DTYPES[tensor.dtype], count, offset=tensor.offset)
    if tensor.dtype == "BF16":
        return (values.astype("<u4") << 16).view("<f4")
    return values.astype(np.float64 if tensor.dtype == "F64" else np.float32)
