"""`matrix_of`, where a recipe with a matrix gets its steps, and `select:`.

`select:` judges all variants on some rows and continues with only the best one.

Among the steps that the axes reach, only those that the evaluation needs become variants. All
others, and the trained model itself under its own name, are made from the winner. The step `winner`
determines it. Until it has run, these steps are written as those of the first variant.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from finery.artifact.kinds import Dataset, Metrics, Model
from finery.errors import PluginError, RecipeError
from finery.recipe.document import Recipe, RecipePath
from finery.recipe.matrix.axes import SEED_LABEL, Variant
from finery.recipe.matrix.expand import Expanded, add_step, expand, referenced_steps, type_of
from finery.recipe.schema import StepTypes
from finery.step.inspect import SECTIONS, declared_outputs, inputs_of
from finery.step.step import Step
from finery.util.text import did_you_mean

WINNER = "winner"
"""The name of the step that chooses."""
HIDDEN = "!"
"""Ends the name of a version of a step that is built only if its variant wins."""
_PLACE: RecipePath = ("matrix", "select")


@dataclass(frozen=True)
class Select:
    """The content of `select:`.

    by: as written. evaluator: the step that judges. model, metric: which of its scores. rows: field
    → the rows to judge on. own_rows: whether these are the evaluator's own. best: `highest` or
    `lowest`.
    """

    by: str
    evaluator: str
    model: str
    metric: str
    models_field: str
    rows_field: str
    rows: Any
    own_rows: bool
    best: str


def matrix_of(recipe: Recipe, plugins: StepTypes) -> tuple[Expanded, Select | None]:
    """(the recipe with a step for each variant, its `select:`) of a recipe with a `matrix:`."""
    expanded = expand(recipe, plugins)
    select = read_select(expanded, plugins)
    unreached = {  # without the steps that the axes reach
        section: {name: step for name, step in steps.items() if name not in expanded.reached}
        for section in SECTIONS
        if (steps := recipe.data.get(section))
    }
    expanded.recipe = recipe = recipe.with_data({**recipe.data, **unreached}, {}, ())
    if select is None:
        for variant in expanded.variants:
            for name, step in expanded.steps[variant.name].items():
                add_step(expanded, variant, name, step, expanded.steps[variant.name])
    else:
        add_choice(expanded, select, plugins)
    places = {**recipe.places, **expanded.places}
    expanded.recipe = recipe.with_data(recipe.data, places, expanded.origins)
    return expanded, select


def read_select(expanded: Expanded, plugins: StepTypes) -> Select | None:
    """The content of a recipe's `select:`; None without one. `RecipeError` if it is wrong."""
    recipe = expanded.recipe
    written = recipe.data["matrix"].get("select")
    if written is None:
        return None
    by = written["by"]
    if by.count(".") < 2:
        raise recipe.error(
            f"'{by}' must name an evaluator, a model and a metric",
            (*_PLACE, "by"),
            fix="write STEP.MODEL.METRIC, e.g. test.sft.accuracy",
        )
    evaluator, _, model_and_metric = by.partition(".")
    cls = _evaluator(expanded, plugins, evaluator, by)
    if WINNER in expanded.sections:
        raise recipe.error(
            f"a step is named '{WINNER}', like the step that `select` adds",
            (expanded.sections[WINNER], WINNER),
            key=True,
            fix="rename it",
        )
    evaluator_settings = recipe.data[expanded.sections[evaluator]][evaluator]
    models_field, model = _judged_model(recipe, cls, evaluator_settings, model_and_metric, by)
    rows_field = next(_fields(cls, Dataset), "")
    if not rows_field:
        raise recipe.error(
            f"{evaluator_settings['use']} takes no rows, so it can't choose a variant",
            (*_PLACE, "by"),
            fix="name an evaluator that judges models on rows",
        )
    rows = _rows_to_judge(expanded, evaluator_settings.get(rows_field), written.get("on"))
    if evaluator not in expanded.reached:
        raise recipe.error(
            f"no axis reaches {evaluator}, so `select` has nothing to choose from",
            (*_PLACE, "by"),
            fix="name an evaluator of a step that the axes change",
        )
    return Select(
        by=by,
        evaluator=evaluator,
        model=model,
        metric=model_and_metric.removeprefix(f"{model}."),
        models_field=models_field,
        rows_field=rows_field,
        rows=rows,
        own_rows=rows == evaluator_settings.get(rows_field),
        best=written.get("best", "highest"),
    )


def _evaluator(expanded: Expanded, plugins: StepTypes, name: str, by: str) -> type[Step]:
    """The type of the evaluator that `by` names."""
    evaluators = {}
    for step, section in expanded.sections.items():
        cls = type_of(expanded.recipe.data[section][step], plugins)
        with suppress(PluginError):  # its outputs depend on its settings
            kinds = declared_outputs(cls).values() if cls is not None else ()
            if cls is not None and any(issubclass(kind, Metrics) for kind in kinds):
                evaluators[step] = cls
    if name in evaluators:
        return evaluators[name]
    raise expanded.recipe.error(
        f"'{by}' names no evaluator of the recipe",
        (*_PLACE, "by"),
        fix=did_you_mean(name, evaluators)
        or f"write STEP.MODEL.METRIC with one of: {', '.join(evaluators)}",
    )


def _fields(cls: type[Step], kind: type[Any]) -> Iterator[str]:
    for name, accepts in inputs_of(cls).items():
        if issubclass(accepts.kind, kind) and cls.__finery_fields__[name].role != "compare":
            yield name


def _judged_model(
    recipe: Recipe, cls: type[Step], settings: Mapping[str, Any], model_and_metric: str, by: str
) -> tuple[str, str]:
    """(input, model) that `STEP.<rest>` names."""
    models_seen: list[str] = []
    for name in _fields(cls, Model):
        value = settings.get(name)
        models = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        models_seen += [m for m in models if isinstance(m, str)]
        fitting = [m for m in models if isinstance(m, str) and model_and_metric.startswith(f"{m}.")]
        if fitting:
            return name, max(fitting, key=len)
    raise recipe.error(
        f"'{by}' doesn't name a model that the evaluator judges",
        (*_PLACE, "by"),
        fix=f"write STEP.MODEL.METRIC with one of: {', '.join(models_seen) or 'its models'}",
    )


def _rows_to_judge(expanded: Expanded, evaluator_rows: Any, select_on: str | None) -> Any:
    """The rows to judge on. `validation` alone is that output of the step of the evaluator's."""
    if select_on is None:
        return evaluator_rows
    first_ref = (
        evaluator_rows[0] if isinstance(evaluator_rows, list) and evaluator_rows else evaluator_rows
    )
    if "." in select_on or select_on in expanded.sections or not isinstance(first_ref, str):
        return select_on
    return f"{first_ref.partition('.')[0]}.{select_on}"


# -- the steps -----------------------------------------------------------------------------------


def add_choice(expanded: Expanded, select: Select, plugins: StepTypes) -> None:
    """Add the variants that are judged, the step that chooses, and those of the winner."""
    judges: dict[str, Variant] = {}
    judged: dict[str, Variant] = {}
    for variant in expanded.variants:
        same = judged.setdefault(expanded.signatures[variant.name][select.evaluator], variant)
        if same is not variant:
            raise _equal_variants_error(expanded, select, same, variant)
        name = f"{select.evaluator}@{variant.name}"  # from which the winner is known
        expanded.steps[variant.name][select.evaluator] = name
        judges[name] = variant
        _add_judge(expanded, select, variant, name, plugins)
    repeats: dict[str, list[str]] = {}  # combination → its candidates, one for each seed
    for name, variant in judges.items():
        repeats.setdefault(variant.combination, []).append(name)
    is_repeated = any(SEED_LABEL in variant.values for variant in judges.values())
    section = expanded.sections[select.evaluator]
    expanded.recipe.data[section][WINNER] = {
        "use": plugins.chooser,
        "candidates": list(judges),
        "model": select.model,
        "metric": select.metric,
        "best": select.best,
        "repeats": repeats if is_repeated else {},
    }
    expanded.places[section, WINNER] = _PLACE
    expanded.places[section, WINNER, "metric"] = (*_PLACE, "by")
    expanded.origins[WINNER] = WINNER
    _add_winner(expanded)


def _add_judge(
    expanded: Expanded, select: Select, variant: Variant, name: str, plugins: StepTypes
) -> None:
    """The evaluator of a variant, for one model and the rows to choose on; and what it needs."""
    section = expanded.sections[select.evaluator]
    written = expanded.written[variant.name][section][select.evaluator]
    cls = plugins.step_type(written["use"])
    fields = cls.__finery_fields__
    # What can't change its output, such as `require`, is about all models and the test rows.
    output_settings = {
        k: v for k, v in written.items() if k not in fields or fields[k].affects_output
    }
    takes_many = inputs_of(cls)[select.models_field].many
    judge_settings = {
        **output_settings,
        select.models_field: [select.model] if takes_many else select.model,
        select.rows_field: select.rows,
    }
    variant_sections = {**expanded.written[variant.name]}
    variant_sections[section] = {**variant_sections[section], select.evaluator: judge_settings}
    _add_upstream(expanded, variant, variant_sections, judge_settings, plugins)
    aliases = expanded.steps[variant.name]
    add_step(expanded, variant, select.evaluator, name, aliases)
    expanded.recipe.data[section][name] = judge_settings
    expanded.places[section, name, select.models_field] = (*_PLACE, "by")
    if not select.own_rows:
        expanded.places[section, name, select.rows_field] = (*_PLACE, "on")


def _add_upstream(
    expanded: Expanded,
    variant: Variant,
    sections: Mapping[str, Mapping[str, Any]],
    written: Any,
    plugins: StepTypes,
) -> None:
    """The variants of all steps that a step waits for."""
    steps = {
        name: step for section_steps in sections.values() for name, step in section_steps.items()
    }
    stack, visited = [*referenced_steps(written, plugins)], set()
    while stack:
        name = stack.pop()
        if name in visited or name not in steps:
            continue
        visited.add(name)
        stack += referenced_steps(steps[name], plugins)
        if name in expanded.reached:
            aliases = expanded.steps[variant.name]
            add_step(expanded, variant, name, aliases[name], aliases)


def _add_winner(expanded: Expanded) -> None:
    """Under its own name, each step that the axes reach, of the variant that will win."""
    first_variant = expanded.variants[0]
    for name in expanded.reached:
        section = expanded.sections[name]
        for variant in expanded.variants:
            hidden = f"{expanded.steps[variant.name][name]}{HIDDEN}"
            add_step(expanded, variant, name, hidden, {})
        expanded.recipe.data[section][name] = expanded.written[first_variant.name][section][name]
        for setting in first_variant.settings:
            if setting.path[:2] == (section, name):
                expanded.places[setting.path] = setting.place


def _equal_variants_error(
    expanded: Expanded, select: Select, first: Variant, second: Variant
) -> RecipeError:
    """The error for two variants that are equal for the evaluator."""
    reach = expanded.reached[select.evaluator]
    idle = [axis for axis in expanded.axes if axis.label not in reach]
    if idle:
        return expanded.recipe.error(
            f"the axis '{idle[0].key}' doesn't reach {select.evaluator}, which `select` chooses by",
            ("matrix", idle[0].key),
            key=True,
            fix="remove the axis, or choose by an evaluator of what it changes",
        )
    return expanded.recipe.error(
        f"{select.evaluator} is the same for two variants: {first.name} and {second.name}",
        _PLACE,
        key=True,
        fix="remove one of them",
    )
