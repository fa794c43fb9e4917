"""`halve:` train all variants a little, keep the better ones, and go on with those.

Successive halving (Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943). Each round is
made of ordinary steps: trainings that stop at a share of the whole schedule, evaluators, and a step
that ranks them. Which variant a place in the next round has is known once that step is built, so a
place knows all variants that it may become. Its training goes on from the output of the round
before, which has the state of the trainer; so no training runs twice, and the key of each step says
what it was made from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from finery.recipe.document import Path_
from finery.recipe.matrix.axes import SEED, Variant
from finery.recipe.matrix.expand import Expanded, type_of
from finery.recipe.steptypes import StepTypes
from finery.util.text import did_you_mean

STOP, RESUME = "stop_at", "resume_from"
"""What a training has that can stop and go on: a setting and an input."""
PLACE: Path_ = ("matrix", "halve")


@dataclass(frozen=True)
class Slot:
    """A step whose variant is the one at a place of a ranking.

    chosen_by: the step that ranks. rank: the place, from 0. candidates: variant → the step that it
    becomes. stand_in: the step that those name where they mean `meant`, or, if that is empty, the
    training of what was chosen.
    """

    chosen_by: str
    rank: int
    candidates: Mapping[str, str]
    stand_in: str = ""
    meant: str = ""


@dataclass(frozen=True)
class Halving:
    """The rounds of a matrix. counts: trainings of each. shares: of the schedule, at its end."""

    training: str
    counts: list[int]
    shares: list[float]
    slots: dict[str, Slot] = field(default_factory=dict)

    def last(self, first: str) -> str:
        """The step that stands for a training of the last round. first: of the first round."""
        rounds = len(self.counts)
        return first if rounds == 1 else f"{self.training}@{place_name(rounds, 0)}"


def place_name(number: int, rank: int) -> str:
    """The name of a place of a round, which begins the names of its steps after `@`."""
    return f"round={number},place={rank + 1}"


def read_halving(expanded: Expanded, model: str, plugins: StepTypes) -> Halving | None:
    """What `halve:` says. model: what is judged. Raises `RecipeError` where it can't be done."""
    recipe = expanded.recipe
    if "halve" not in recipe.data["matrix"]:
        return None
    keep = _share(expanded)
    _check_training(expanded, model, plugins)
    if any(SEED in variant.values for variant in expanded.variants):
        raise recipe.error(
            "`halve` compares each variant once, so it can't be combined with `seeds`",
            PLACE,
            key=True,
            fix="remove `seeds`, and repeat the winner under other seeds",
        )
    own = [_written(expanded, variant, model) for variant in expanded.variants]
    if any(written.get(name) is not None for written in own for name in (STOP, RESUME)):
        raise recipe.error(
            f"{model} has its own {STOP} or {RESUME}, which `halve` sets",
            PLACE,
            key=True,
            fix=f"remove them from {model}",
        )
    counts = [len(expanded.variants)]
    if counts[0] < 2:
        raise recipe.error("`halve` needs two variants", PLACE, key=True, fix="add another")
    while (kept := int(counts[-1] * keep)) > 1:
        counts.append(kept)
    shares = [float(keep ** (len(counts) - index)) for index in range(len(counts))]
    return Halving(model, counts, shares)


def _check_training(expanded: Expanded, model: str, plugins: StepTypes) -> None:
    """Raise `RecipeError` unless the model comes out of trainings that can stop and go on."""
    recipe = expanded.recipe
    step, dot, _ = model.partition(".")
    if step not in expanded.sections:
        raise recipe.error(
            f"there is no step '{step}'",
            ("matrix", "select", "by"),
            fix=did_you_mean(step, expanded.sections),
        )
    written = recipe.data[expanded.sections[step]][step]
    cls = type_of(written, plugins)
    if dot or cls is None or not {STOP, RESUME} <= {*cls.__struct_fields__}:
        use = written.get("use")
        raise recipe.error(
            f"`halve` needs trainings that can stop and go on, and {model} ({use}) can't",
            PLACE,
            key=True,
            fix="judge the output of a trl.sft step in `select`, or remove `halve`",
        )
    if model not in expanded.reached:
        raise recipe.error(
            f"no axis reaches {model}, so `halve` has no trainings to compare",
            PLACE,
            key=True,
            fix=f"add an axis that changes {model}, or remove `halve`",
        )


def _share(expanded: Expanded) -> Fraction:
    """The share of the variants that each round keeps."""
    written = (expanded.recipe.data["matrix"]["halve"] or {}).get("keep", "1/2")
    try:
        keep = Fraction(str(written))
    except (ValueError, ZeroDivisionError):
        keep = Fraction(0)
    if not 0 < keep < 1:
        raise expanded.recipe.error(
            f"`keep` must be a share between 0 and 1, but it is {written}",
            (*PLACE, "keep"),
            fix="write 1/2 or 1/3",
        )
    return keep


def _written(expanded: Expanded, variant: Variant, name: str) -> dict[str, Any]:
    written: dict[str, Any] = expanded.written[variant.name][expanded.sections[name]][name]
    return written


def add_rounds(
    expanded: Expanded, halving: Halving, judge: str, choice: Mapping[str, Any], hidden: str
) -> dict[str, Any]:
    """Add the rounds after the first, and the steps that rank each but the last.

    judge: the evaluator. choice: the step that ranks the first round. hidden: ends the names of
    steps that are built only in another's place. Returns the step that ranks the last round.
    """
    recipe, training = expanded.recipe, halving.training
    for variant in expanded.variants:
        first = expanded.steps[variant.name][training]
        data = recipe.data[expanded.sections[training]]
        data[first] = {**data[first], STOP: halving.shares[0]}
    ranked = dict(choice)
    for number, count in enumerate(halving.counts[1:], 2):
        ranking = f"round-{number - 1}"
        _add(expanded, expanded.sections[judge], ranking, ranked, ranking, "", {})
        stand_in = f"{training}@{place_name(number, 0)}"
        before = f"{training}@{place_name(number - 1, 0)}" if number > 2 else ""
        becomes: dict[str, dict[str, str]] = {training: {}, judge: {}}
        for variant in expanded.variants:
            own = expanded.steps[variant.name]
            going = {
                **_written(expanded, variant, training),
                STOP: halving.shares[number - 1],
                RESUME: training,
            }
            aliases = {**own, training: before or own[training]}
            judging = recipe.data[expanded.sections[judge]][own[judge]]
            written = {training: (going, aliases), judge: (judging, {**own, training: stand_in})}
            for step, (settings, names) in written.items():
                name = f"{step}@{variant.name},round={number}{hidden}"
                becomes[step][variant.name] = name
                _add(expanded, expanded.sections[step], name, settings, step, "", names)
        for rank in range(count):
            label = place_name(number, rank)
            mine = f"{training}@{label}"
            halving.slots[mine] = Slot(ranking, rank, becomes[training], before)
            halving.slots[f"{judge}@{label}"] = Slot(
                ranking, rank, becomes[judge], stand_in, meant=mine
            )
            for step, means in ((training, before), (judge, mine)):
                like = becomes[step][expanded.variants[0].name]
                names = dict(expanded.aliases[like])
                if means:
                    names[training] = means
                section = expanded.sections[step]
                written_ = recipe.data[section][like]
                _add(expanded, section, f"{step}@{label}", written_, step, label, names)
        names_ = [f"{judge}@{place_name(number, rank)}" for rank in range(count)]
        ranked = {**choice, "candidates": names_}
    return ranked


def _add(
    expanded: Expanded,
    section: str,
    name: str,
    written: Mapping[str, Any],
    origin: str,
    label: str,
    aliases: dict[str, str],
) -> None:
    if name in expanded.sections:
        raise expanded.recipe.error(
            f"a step is named '{name}', like a step that `halve` adds",
            (expanded.sections[name], name),
            key=True,
            fix="rename it",
        )
    expanded.recipe.data[section][name] = dict(written)
    expanded.places[section, name] = (section, origin) if origin in expanded.sections else PLACE
    expanded.origins[name] = origin
    expanded.labels[name] = label
    expanded.aliases[name] = aliases


def go_on(expanded: Expanded, halving: Halving, names: Mapping[str, str]) -> None:
    """Let the winner's training go on from the last round. names: variant → its step."""
    section, training = expanded.sections[halving.training], halving.training
    data = expanded.recipe.data[section]
    for variant in expanded.variants:
        last = halving.last(expanded.steps[variant.name][training])
        data[names[variant.name]] = {**data[names[variant.name]], RESUME: training}
        expanded.aliases[names[variant.name]] = {training: last}
    data[training] = {**data[training], RESUME: training}
    expanded.aliases[training] = expanded.aliases[names[expanded.variants[0].name]]
