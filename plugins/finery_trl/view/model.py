"""The view of models: facts, and the curve of a trained model with its verdict."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from finery import DataError, Manifest, Model, shown
from finery.util.text import percent, shortened
from finery.views import Detail, Output, Page, PageContext, PageSection, Remark, View
from finery_trl.train.card import README, Base, base_in, card
from finery_trl.view.curves import CURVE, Point, label, lines, load, metrics, series, verdict
from finery_trl.view.weights import SUFFIX, weights_difference

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


GIB = 2**30
SHOWN, LINE = 3, 60
"""Answers during a training that the terminal shows, and the characters of each."""
WIDTH, HEIGHT = 100, 18
"""Maximum size of a plot in characters, including axes and legend."""


class CurveView(View):
    """Shows models, and the training curve of a model that contains a `curve.json`.

    `meta` may have `parameters`, `trainable_parameters` and `best_step`, the optimizer step of the
    model's weights. For a format of your own, subclass this view or use it as it is:
    `{"Model/ngram": "finery_trl.view.model:CurveView"}`.
    """

    def brief(self, manifest: Manifest) -> str:
        """Format, architecture and quantization, if they are known."""
        names = ("format", "architecture", "quantization")
        return " ".join(str(manifest.meta[name]) for name in names if name in manifest.meta)

    def data(self, output: Output, detail: Detail) -> dict[str, Any]:
        """The verdict on the curve."""
        points = curve_of(output)
        if points is None:
            return {}
        return {"verdict": msgspec.to_builtins(verdict(points, kept_step(output.manifest)))}

    def facts(self, output: Output) -> Mapping[str, Any]:
        """`meta`, the share of parameters that were trained, and the speed and memory of that."""
        meta = output.manifest.meta
        total, trainable = meta.get("parameters"), meta.get("trainable_parameters")
        facts = {**meta, **measured(output.manifest)}
        if not (total and trainable):
            return facts
        return {**facts, "trainable": f"{percent(trainable / total)} of {total:,} parameters"}

    def print(self, console: "Console", output: Output, detail: Detail) -> None:
        """Print facts, files, the curve and its verdict."""
        super().print(console, output, detail)
        points = curve_of(output)
        if points is not None:
            _print_curve(console, points, kept_step(output.manifest))
        for line in sample_lines(samples_of(output)[-SHOWN:]):
            console.print(f"  {line}", markup=False, soft_wrap=True)

    def section(self, outputs: Sequence[Output], context: PageContext) -> PageSection | None:
        """Statements about the curves of all trainings."""
        from finery_trl.view.page import Training, section_of

        found = [
            Training(o.title, points, kept_step(o.manifest), measured(o.manifest))
            for o in outputs
            if (points := curve_of(o)) is not None
        ]
        return section_of(found) if found else None

    def difference(self, before: Output, after: Output) -> dict[str, Any]:
        """Facts that differ, how much the weights do, and the curves of both."""
        both = curve_of(before), curve_of(after)
        files = [
            [output.artifact.file(name) for name in output.manifest.files if name.endswith(SUFFIX)]
            for output in (before, after)
        ]
        weights = weights_difference(*files)
        found = super().difference(before, after) | ({"weights": weights} if weights else {})
        if both[0] is None or both[1] is None:
            return found
        return {**found, "curves": difference_of(both[0], both[1])}

    def print_difference(
        self, console: "Console", before: Output, after: Output, data: Mapping[str, Any], most: int
    ) -> None:
        """Print facts that differ, and the curves in one plot."""
        super().print_difference(console, before, after, data, most)
        if weights := data.get("weights"):
            text = "{changed:,} of {tensors:,} tensors differ, by up to {most:.3g}"
            console.print(f"  weights: {text.format(**weights)}", markup=False)
        if "curves" in data:
            print_difference(console, data["curves"])

    def complete_copy(
        self, output: Output, folder: Path, refs: Mapping[str, Path]
    ) -> Iterator[str]:
        """Name the base in an adapter's configuration and model card."""
        return complete(output, folder, refs)

    def has_page(self, manifest: Manifest) -> bool:
        """Whether the model was trained, and so has curves."""
        return CURVE in manifest.files

    def page(self, outputs: Sequence[Output], context: PageContext) -> Page | None:
        """A page with the curves."""
        from finery_trl.view.page import render

        (output,) = outputs
        points = curve_of(output)
        if points is None:
            return None
        kept, samples = kept_step(output.manifest), samples_of(output)
        html = render(context.title, output, points, kept, samples)
        return Page(html, "-curve")

    def remarks(self, output: Output) -> Iterator[Remark]:
        """The verdict on the curve, with advice only if something is wrong."""
        points = curve_of(output)
        if points is None:
            return
        judged = verdict(points, kept_step(output.manifest))
        sentence, *advice = lines(judged)
        if judged.is_bad:
            yield Remark(sentence, " ".join(advice), "warning")
        else:
            yield Remark(sentence)


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


def samples_of(output: Output) -> list[dict[str, Any]]:
    """Answers of the model during its training, in order; empty if none were kept."""
    from finery_trl.train.save import SAMPLES

    if SAMPLES not in output.manifest.files:
        return []
    text = output.artifact.file(SAMPLES).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def sample_lines(samples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Two lines for each answer: its prompt, and the answer after its rewards."""
    for sample in samples:
        rewards = ", ".join(
            f"{name} {'–' if value is None else f'{value:g}'}"
            for name, value in sample["rewards"].items()
        )
        yield f"step {sample['step']}: {_line(sample['prompt'])}"
        yield f"  {rewards}: {_line(sample['answer'])}"


def _line(text: str) -> str:
    return shortened(" ".join(text.split()), LINE)


def kept_step(manifest: Manifest) -> int | None:
    """The optimizer step of a trained model's weights, if the model states it."""
    step = manifest.meta.get("best_step")
    return step if isinstance(step, int) else None


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


def _print_curve(console: "Console", points: Sequence[Point], kept: int | None) -> None:
    """Print the plot and the verdict."""
    from rich.padding import Padding
    from rich.text import Text

    console.print()
    for line in _plotted(points, kept, min(console.width, WIDTH)):
        console.print(line)
    judged = verdict(points, kept)
    console.print()
    for text in lines(judged):
        words = Text(text, style="yellow" if judged.is_bad else "")
        console.print(Padding(words, (0, 0, 0, 2)))


def _plotted(points: Sequence[Point], kept: int | None, width: int) -> "list[Text]":
    from finery.views import Line, plot

    drawn = [Line(label("reward"), series(points, "reward"), "cyan")]  # whose loss says nothing
    if not drawn[0].values:
        drawn = [
            Line(label("loss"), series(points, "loss"), "cyan"),
            Line(label("eval_loss"), series(points, "eval_loss"), "yellow", "●"),
        ]
    drawn += [
        Line(label(name), series(points, name), "magenta", "▲", right=True)
        for name in metrics(points)[:1]
        if name != "reward"
    ]
    return plot(drawn, width, HEIGHT, kept)


LOW = 14
"""Maximum height of a plot with the curves of two trainings."""
FEWEST = 2
"""Values that a curve has at least, to be drawn."""
COLOURS = ("cyan", "yellow")
"""Of A and B."""


def difference_of(before: Sequence[Point], after: Sequence[Point]) -> dict[str, Any]:
    """Name of a series → its last and its lowest value on both sides, and the series, as JSON."""
    names = ["loss", "eval_loss", *dict.fromkeys([*metrics(before), *metrics(after)])]
    found = {}
    for name in names:
        both = series(before, name), series(after, name)
        if any(both):
            found[name] = {
                "last": [of[-1][1] if of else None for of in both],
                "lowest": [min(value for _, value in of) if of else None for of in both],
                "series": [[list(point) for point in of] for of in both],
            }
    return found


def print_difference(console: "Console", data: Mapping[str, Any]) -> None:
    """Print the validation loss of both trainings, else the training loss, in one plot."""
    from finery.views import Line, plot

    for name in ("eval_loss", "loss"):
        both = data.get(name, {}).get("series", [])
        if len(both) == 2 and all(len(of) >= FEWEST for of in both):
            drawn = [
                Line(f"{label(name)} of {side}", [(int(s), v) for s, v in of], colour, mark)
                for side, of, colour, mark in zip("AB", both, COLOURS, "●○", strict=True)
            ]
            for line in plot(drawn, min(console.width, WIDTH), LOW, None):
                console.print(line)
            break
    for text in _lines(data):
        console.print(f"  {text}", markup=False)


def _lines(data: Mapping[str, Any]) -> Iterator[str]:
    for name, facts in data.items():
        (last_a, last_b), (low_a, low_b) = facts["last"], facts["lowest"]
        lowest = f", lowest {_number(low_a)} → {_number(low_b)}" if name == "eval_loss" else ""
        yield f"{label(name)}: at the end {_number(last_a)} → {_number(last_b)}{lowest}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


ADAPTER_CONFIG = "adapter_config.json"


def complete(output: Output, folder: Path, refs: Mapping[str, Path]) -> Iterator[str]:
    """Name the base of an adapter in its copy in `folder`; yield what the user should know.

    The output in the store holds nothing of the machine that it was trained on. A copy that someone
    loads with PEFT must name the base: its repository with the commit, or its folder.

    refs: role → the copy of an artifact that the adapter refers to, if that was copied, too.
    """
    base = output.artifact.refs.get("base")
    path = folder / ADAPTER_CONFIG
    if not isinstance(base, Model) or not path.is_file():
        return
    known = _base(base, refs.get("base"))
    config = json.loads(path.read_text(encoding="utf-8"))
    if known.source:
        config["base_model_name_or_path"] = known.source
        config["revision"] = known.revision or None
        path.write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    meta: Mapping[str, Any] = output.manifest.meta
    if "best_step" in meta:  # trained here, so the card is finery's
        text = card(output.title, meta, config, known)
        (folder / README).write_text(text, encoding="utf-8")
    yield _advice(known)


def _base(base: Model, copied: Path | None) -> Base:
    known = base_in(base.meta)
    if copied is not None:
        return Base(source=str(copied.absolute()), file=known.file)
    if known.on_hub:
        return known._replace(revision=str(base.runtime.get("revision", "")))
    if base.external:  # a folder of the user's, or a file in one
        name = known.file or "config.json"
        return Base(source=str(base.file(name).absolute().parent), file=known.file)
    return known


def _advice(known: Base) -> str:
    if known.on_hub:
        at = f" at {known.revision[:12]}" if known.revision else ""
        return f"base: {known.source}{at}, from the Hub"
    if known.source:
        return (
            f"base: {known.source}, a folder of this machine. On another one, pass the base's "
            "folder to PEFT (see README.md)"
        )
    what = f"the file {known.file}" if known.file else "the base"
    return f"the adapter works with {what} only: add --with-base to copy it along"
