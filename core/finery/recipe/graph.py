"""The typed graph of a recipe: its steps, and the outputs that each takes from others."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from finery.artifact.kinds import Artifact, Dataset, Metrics, Model
from finery.artifact.manifest import Result
from finery.errors import FineryError, PluginError, RecipeError, UsageError
from finery.fields import Settings
from finery.recipe.document import Recipe
from finery.recipe.environments import SAME_VARIABLES, environment_of
from finery.recipe.files import NamedFiles, find_files
from finery.recipe.hints import reference_fix
from finery.recipe.lock import Lock
from finery.recipe.matrix.choose import HIDDEN, WINNER, Select, matrix_of
from finery.recipe.matrix.expand import Expanded
from finery.recipe.releases import Release, Releases
from finery.recipe.schema import StepTypes, derived_seed
from finery.recipe.validate import check_recipe, convert_step, raise_all
from finery.step.inspect import (
    RESERVED,
    SECTIONS,
    files_of,
    give_files,
    joint_key,
    part_at,
    slots_of,
    steps_inside,
)
from finery.step.look import promises_of
from finery.step.released import Released
from finery.step.resources import Reservation
from finery.step.step import Step
from finery.util.paths import shown
from finery.util.text import a_or_an, counted, did_you_mean

if TYPE_CHECKING:
    from finery.plugin.manager import Plugins


@dataclass(frozen=True)
class Source:
    """The source of one input: output `output` of step `step`, as field `field`[`index`]."""

    field: str
    index: int
    ref: str  # as the recipe writes it
    step: str
    output: str
    role: str = ""  # how the step uses it, see `finery.takes`


@dataclass
class Node:
    """A step of the graph."""

    name: str
    section: str
    use: str
    step: Step
    outputs: dict[str, type[Artifact]]
    seed: int
    env: list[str]
    sources: list[Source] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    gpus: list[int | str] = field(default_factory=list)  # those that it may use; empty: any
    environment: str = ""  # the name of that which it runs in; empty: finery's own
    resources: Reservation = field(default_factory=Reservation)
    origin: str = ""  # its name in the file, which all variants of a step share
    variant: str = ""  # which variant of a matrix it is, e.g. `r=8`
    chosen_by: str = ""  # the step that chooses one of the candidates, on which this one depends
    candidates: "dict[str, Node]" = field(default_factory=dict)  # by variant
    release: Release | None = None  # the one that it brings back
    left_out: list[str] = field(default_factory=list)  # what isn't done without a release

    @property
    def is_seeded(self) -> bool:
        """Whether the seed can change the output; only then is it in the key."""
        return joint_key(self.step).seeded

    @property
    def place(self) -> tuple[str, str]:
        """Its place in the recipe."""
        return self.section, self.name

    def doubts(self, outputs: Mapping[str, Artifact]) -> list[str]:
        """What passing its checks doesn't prove, in sentences without a full stop."""
        return [*self.left_out, *self.step.doubts(outputs)]

    @property
    def trains(self) -> bool:
        """Whether the step is a training: it learns from rows."""
        return bool(type(self.step).__spec__.learns)

    @property
    def is_heavy(self) -> bool:
        """Whether the step takes long: it trains, prompts a model or needs its own process."""
        spec = type(self.step).__spec__
        return self.trains or spec.isolated or spec.engines

    @property
    def evaluates(self) -> bool:
        """Whether the step evaluates models: it outputs `Metrics`."""
        return any(issubclass(kind, Metrics) for kind in self.outputs.values())

    @property
    def generates(self) -> bool:
        """Whether the step generates rows with a model that it takes."""
        asks = type(self.step).__spec__.engines and self.sources_of(Model)
        return bool(asks) and any(issubclass(kind, Dataset) for kind in self.outputs.values())

    @property
    def row_sources(self) -> list[Source]:
        """The inputs that it takes rows from, without those that it only compares with."""
        return [s for s in self.sources_of(Dataset) if s.role not in ("compare", "reference")]

    @property
    def base_models(self) -> list[Source]:
        """The models that its own model is made from.

        These are the inputs with the role `base`. If no input has that role, they are all models
        that the step takes.
        """
        models = self.sources_of(Model)
        return [s for s in models if s.role == "base"] or models

    @property
    def file_patterns(self) -> list[str]:
        """The outside files that its settings name: paths, folders and globs."""
        return [pattern for files in files_of(self.step).values() for pattern in files.patterns]

    def sources_of(self, kind: type[Artifact]) -> list[Source]:
        """Its inputs of one kind."""
        slots = slots_of(self.step)
        return [s for s in self.sources if issubclass(slots[s.field].accepts.kind, kind)]

    def inputs_as(self, role: str) -> list[str]:
        """The inputs that its type declares with a role, including those that the recipe omits."""
        return [path for path, slot in slots_of(self.step).items() if slot.role == role]

    def upstream(self) -> list[str]:
        """The steps that it waits for, without repeats, in order."""
        return list(dict.fromkeys([*(s.step for s in self.sources), *self.needs]))


class Unreleased(NamedTuple):
    """A step that is left out, since nothing is released under its tag. kind: of its output."""

    tag: str
    kind: str
    place: tuple[str, str]

    @property
    def reason(self) -> str:
        """Why it isn't there."""
        return f"nothing is released as '{self.tag}' yet"

    @property
    def fix(self) -> str:
        """How to make it."""
        return f"finery release STEP --as {self.tag}"


@dataclass
class Graph:
    """All steps, each after its inputs, otherwise in the recipe's order."""

    recipe: Recipe
    plugins: "Plugins"
    nodes: dict[str, Node]
    whole: "Graph | None" = None  # what this one was selected from
    matrix: Expanded | None = None
    select_by: Select | None = None  # how one of the matrix's variants is chosen
    code: Any = None  # `StepCode` that the check has followed
    unreleased: Mapping[str, Unreleased] = field(default_factory=dict)  # steps that are left out

    def require(self, name: str) -> None:
        """Raise `UsageError` if the recipe has no such step."""
        if name in self.nodes:
            return
        if left_out := self.unreleased.get(name):
            raise UsageError(f"step '{name}' is left out: {left_out.reason}", fix=left_out.fix)
        variants = self.variants_of(name)
        if variants:
            raise UsageError(
                f"step '{name}' has {len(variants)} variants",
                fix=f"name one, such as {variants[0]}, or see all: finery show "
                f"{self.recipe.argument}matrix",
            )
        origin, at, _ = name.partition("@")
        variants = self.variants_of(origin)
        if variants:
            raise UsageError(
                f"step '{origin}' has no variant '{name}'", fix=did_you_mean(name, variants)
            )
        if self.matrix is None and (at or name == "matrix"):
            raise UsageError(
                f"{shown(self.recipe.path)} has no matrix",
                fix="give the --matrix options of the build again, or write `matrix:` into the "
                "recipe",
            )
        raise UsageError(
            f"{shown(self.recipe.path)} has no step '{name}'",
            fix=did_you_mean(name, self.nodes),
        )

    def require_runnable(self, name: str) -> None:
        """Raise `UsageError` if the recipe has no such step, or if it never runs."""
        self.require(name)
        if self.nodes[name].release is not None:
            fix = "to compare its files with their digests: finery cache verify"
            raise UsageError(f"step '{name}' brings back a release, so it never runs", fix=fix)

    @property
    def has_training(self) -> bool:
        """Whether a step trains a model."""
        return any(node.trains for node in self.nodes.values())

    def variants_of(self, name: str) -> list[str]:
        """The variants of a step of the file that a matrix multiplies."""
        return [n for n, node in self.nodes.items() if node.variant and node.origin == name]

    def is_one_of_its_variants(self, node: Node) -> bool:
        """Whether a step of the winner was built before it was chosen, as one of the variants.

        The evaluator that chooses isn't: for the winner, it judges other rows and models.
        """
        if not node.chosen_by:
            return False
        chooses = self.select_by is not None and node.origin == self.select_by.evaluator
        return not chooses and bool((self.whole or self).variants_of(node.origin))

    def choice_for(self, node: Node, results: Mapping[str, Result | None]) -> str | None:
        """The variant that was chosen for a step; None if none is yet."""
        result = results.get(node.chosen_by) if node.chosen_by else None
        if result is None:
            return None
        (metrics,) = result.outputs.values()
        chosen: str = metrics.meta["chosen"]
        return chosen

    def settle(self, name: str, variant: str) -> Node:
        """Let the step `name` be that of the variant that was chosen."""
        node = self.nodes[name]
        chosen = node.candidates[variant]
        self.recipe.copy_step(node.section, name, chosen.name)
        self.nodes[name] = replace(
            chosen, name=name, needs=node.needs, variant=node.variant, chosen_by=node.chosen_by,
            candidates=node.candidates,
        )  # fmt: skip
        if self.whole is not None:  # which knows the variants of all steps
            self.whole.nodes[name] = self.nodes[name]
        return self.nodes[name]

    def models_under(self, name: str) -> list[str]:
        """A step that makes a model, and all steps with models that it is made from."""
        steps, stack = list[str](), [name]
        while stack:
            step = stack.pop()
            if step not in steps:
                steps.append(step)
                stack += [source.step for source in self.nodes[step].base_models]
        return steps

    def files(self, node: Node) -> NamedFiles:
        """The outside files that a node's settings name.

        Raises `RecipeError` where a required file was not found.
        """
        return {
            name: find_files(self.recipe, (*node.place, *name.split(".")), files)
            for name, files in files_of(node.step).items()
        }

    def with_files(self, node: Node, files: NamedFiles | None = None) -> Step:
        """A copy of a node's step with its outside files, by default those of `Graph.files`."""
        step = copy.deepcopy(node.step)
        give_files(step, self.files(node) if files is None else files)
        return step

    def pin_of(self, node: Node) -> str | None:
        """What recipe.lock pins a step's floating name to; None if it has no name or no pin."""
        name = node.step.floating_name()
        return Lock(self.recipe.path).get(name) if name else None

    def select(self, names: Sequence[str]) -> "Graph":
        """The graph of these steps and all that they wait for; without `names`, all steps."""
        if not names:
            return self
        selected: set[str] = set()
        stack = []
        for name in names:  # of a step with variants, all
            stack += [name] if name in self.nodes else self.variants_of(name) or [name]
        while stack:
            name = stack.pop()
            self.require(name)
            if name not in selected:
                selected.add(name)
                stack.extend(self.nodes[name].upstream())
        chosen = {n: node for n, node in self.nodes.items() if n in selected}
        return replace(self, nodes=chosen, whole=self.whole or self)


def build_graph(
    recipe: Recipe, plugins: "Plugins", *, validated: bool = False, has_releases: bool = True
) -> Graph:
    """Check the whole recipe and build its graph.

    validated: whether the recipe has already passed `check_recipe` with the same step types.
    has_releases: whether to bring releases back. Otherwise it is as before the first one, and steps
        that can't do without one are left out, too.
    Raises `RecipeError` (several as `RecipeErrors`) with positions.
    """
    matrix, select = None, None
    if "matrix" in recipe.data:
        matrix, select = matrix_of(recipe, plugins)
        recipe = matrix.recipe
    if not validated:
        raise_all(check_recipe(recipe, plugins))
    nodes = _make_nodes(recipe, plugins)
    if matrix is not None:
        _record_variants(nodes, matrix)
    raise_all([
        e for node in nodes.values() for e in _connect(recipe, node, nodes, plugins, matrix)
    ])  # fmt: skip
    unreleased = _leave_out_unreleased(recipe, nodes, has_releases=has_releases)
    nodes = {name: node for name, node in nodes.items() if name not in unreleased}
    ordered = _sort_topologically(recipe, nodes)
    if not validated:
        for node in nodes.values():
            _fill_placeholders(node, nodes)
        raise_all([e for node in nodes.values() for e in _check_settings(recipe, node)])
        if select is not None:
            _check_metric(recipe, nodes, select)
    if matrix is not None and select is not None:
        ordered = _sort_topologically(recipe, _with_candidates(nodes, matrix))
    return Graph(recipe, plugins, ordered, matrix=matrix, select_by=select, unreleased=unreleased)


RELEASE = "release"
"""The entry of a model's `runtime` by which evaluators know that it is a release: its tag."""


def _leave_out_unreleased(
    recipe: Recipe, nodes: dict[str, Node], *, has_releases: bool
) -> dict[str, Unreleased]:
    """Find the releases that steps bring back. The steps that have none, by name.

    They are also removed from what takes several inputs. Raises `RecipeError` for what can't do
    without one, unless releases aren't brought back at all.
    """
    steps = {name: node.step for name, node in nodes.items() if isinstance(node.step, Released)}
    releases = Releases(recipe.path) if steps else None
    unreleased: dict[str, Unreleased] = {}
    for name, step in steps.items():
        node, kind = nodes[name], nodes[name].outputs[""].kind
        node.release = releases.current(step.tag) if releases and has_releases else None
        if node.release is None:
            unreleased[name] = Unreleased(step.tag, kind, node.place)
        elif node.release.kind != kind:
            other = a_or_an(node.release.kind)
            raise recipe.error(
                f"{node.use} brings back {a_or_an(kind)}, and '{step.tag}' is {other}: "
                f"{node.release.output}",
                (*node.place, "tag"),
                fix=f"name the tag of {a_or_an(kind)}",
            )
    if not has_releases:  # also leave out what needs one
        for name, node in _sort_topologically(recipe, nodes).items():
            for path in slots_of(node.step):
                named = {s.step for s in node.sources if s.field == path}
                if named and named <= unreleased.keys():
                    unreleased[name] = unreleased[min(named)]
    others = [node for name, node in nodes.items() if name not in unreleased]
    raise_all([e for node in others for e in _without_release(recipe, node, unreleased)])
    for node in nodes.values():
        for source in (source for source in node.sources if source.step in steps):
            slot = slots_of(node.step)[source.field]
            if slot.accepts.many:
                artifact = getattr(slot.owner, slot.field)[source.index]
                artifact.runtime[RELEASE] = steps[source.step].tag
    return unreleased


def _without_release(
    recipe: Recipe, node: Node, unreleased: Mapping[str, Unreleased]
) -> Iterator[FineryError]:
    """Remove a node's inputs that aren't released; yield an error for each that it needs."""
    node.needs = [name for name in node.needs if name not in unreleased]
    owners: list[tuple[Step, dict[str, str]]] = []
    for path, slot in slots_of(node.step).items():
        sources = [source for source in node.sources if source.field == path]
        kept = [source for source in sources if source.step not in unreleased]
        if len(kept) == len(sources):
            continue
        absent = {s.ref: unreleased[s.step] for s in sources if s not in kept}
        first = next(iter(absent.values()))
        if not slot.accepts.many:
            yield recipe.error(
                f"'{path}' of {node.use} needs a release, and {first.reason}",
                _place(recipe, node, path, 0),
                fix=f"name another model until then; {first.fix}",
            )
            continue
        artifacts = getattr(slot.owner, slot.field)
        setattr(slot.owner, slot.field, [artifacts[s.index] for s in kept])
        others = [source for source in node.sources if source.field != path]
        node.sources = others + [replace(s, index=index) for index, s in enumerate(kept)]
        owners.append((slot.owner, {ref: each.reason for ref, each in absent.items()}))
    for owner, reasons in owners:
        node.left_out += owner.leave_out(reasons)


def _record_variants(nodes: Mapping[str, Node], matrix: Expanded) -> None:
    """Record of which variant each step is part of."""
    for name, node in nodes.items():
        node.origin = matrix.origins.get(name, name)
        node.variant = matrix.labels.get(name, "")
        aliases = matrix.aliases.get(name, {})
        node.needs = [aliases.get(needed, needed) for needed in node.needs]


def _check_metric(recipe: Recipe, nodes: Mapping[str, Node], select: Select) -> None:
    """Raise `RecipeError` if the evaluator that chooses declares its metrics and lacks this one."""
    judge = next(n for n in nodes.values() if n.origin == select.evaluator and n.variant)
    names = [name for metric_names in judge.step.choices().values() for name in metric_names]
    metrics = [n.removeprefix(f"{select.model}.") for n in names if n.startswith(select.model)]
    if metrics and select.metric not in metrics:
        raise recipe.error(
            f"{judge.use} has no metric '{select.metric}'",
            ("matrix", "select", "by"),
            fix=did_you_mean(select.metric, metrics) or f"one of: {', '.join(metrics)}",
        )


def _with_candidates(nodes: Mapping[str, Node], matrix: Expanded) -> dict[str, Node]:
    """The steps to build: the winner's know all variants that they may be of."""
    visible = {name: node for name, node in nodes.items() if not name.endswith(HIDDEN)}
    for name in matrix.reached:
        node = visible[name]
        for variant in matrix.variants:
            hidden = f"{matrix.steps[variant.name][name]}{HIDDEN}"
            node.candidates[variant.name] = nodes[hidden]
        waits = [up for candidate in node.candidates.values() for up in candidate.upstream()]
        node.needs, node.chosen_by = list(dict.fromkeys([*waits, WINNER])), WINNER
    return visible


def _make_nodes(recipe: Recipe, plugins: StepTypes) -> dict[str, Node]:
    """The steps by name, not yet connected."""
    errors: list[FineryError] = []
    nodes: dict[str, Node] = {}
    places = [(section, name) for section in SECTIONS for name in recipe.data.get(section) or {}]
    for section, name in places:
        if name in nodes:
            errors.append(recipe.error(
                f"two steps are named '{name}' (the first in section '{nodes[name].section}')",
                (section, name),
                key=True,
                fix="rename one of them: names must be unique across sections",
            ))  # fmt: skip
            continue
        try:
            nodes[name] = _make_node(recipe, plugins, section, name)
        except RecipeError as error:
            errors.append(error)
    raise_all(errors)
    if not nodes:
        raise recipe.error(
            "the recipe has no steps", fix="add a step; `finery init DIR` creates an example"
        )
    return nodes


def _fill_placeholders(node: Node, nodes: dict[str, Node]) -> None:
    """Fill the placeholders of a step's inputs with what is known before they are built."""
    slots = slots_of(node.step)
    for source in node.sources:
        slot = slots[source.field]
        value = getattr(slot.owner, slot.field)
        artifact: Artifact = value[source.index] if slot.accepts.many else value
        made_by = nodes[source.step]
        artifact.meta.update(promises_of(made_by.step)[source.output].meta)
        artifact.made_of = [model.ref for model in made_by.base_models]


def _check_settings(recipe: Recipe, node: Node) -> Iterator[FineryError]:
    """The errors that the step type itself finds in its settings, and in those of inner steps."""
    step, gpu_count = node.step, node.resources.gpus
    if gpu_count:
        used, listed_gpus = step.resources().gpus or gpu_count, len(node.gpus) or gpu_count
        if used != gpu_count or listed_gpus < gpu_count:
            yield recipe.error(
                f"resources asks for {counted(gpu_count, 'GPU')}, but "
                + (f"the step uses {used}" if used != gpu_count else f"gpus lists {listed_gpus}"),
                (*node.place, "resources", "gpus"),
                fix=f"write gpus: {used} here, or change launch"
                if used != gpu_count
                else "list as many GPUs, or omit one of the two",
            )
    try:
        step.check()
        for path, step in steps_inside(node.step):
            try:
                step.check()
            except UsageError as error:
                error.where = f"{path}.{error.where or ''}"
                raise
    except PluginError as error:
        error.where = error.where or recipe.where(node.place, key=True)
        yield error
    except UsageError as error:
        keys = _keys_of_place(error.where or "", recipe.data[node.section][node.name])
        # For a setting, point at its value. For an entry of a mapping, point at its key.
        key = len(keys) != 1
        yield recipe.error(error.what, (*node.place, *keys), key=key, fix=error.fix)
    except FineryError:
        raise
    except Exception as error:  # a plugin's code can raise anything
        failure = PluginError.in_method(error, step, "check")
        failure.where = recipe.where(node.place, key=True)
        yield failure


def place_of(recipe: Recipe, node: Node, where: str | None, inside: str = "") -> str:
    """The place of an error that a step raised.

    where: the place that the step gave. None means the step itself, and a setting, e.g. `lora.r`,
    means its value; both become `file:line:column` of the recipe. Anything else, such as a line of
    a data file, stays as it is.
    inside: for an inner step, the setting of `node` that holds it, e.g. `watch` or `watch.each`.
    """
    inner = inside.split(".") if inside else []
    if where is None:
        return recipe.where((*node.place, *inner), key=True)
    keys = [*inner, *where.split(".")]
    is_setting = keys[0] in RESERVED or has_setting(node.step, keys)
    return recipe.where((*node.place, *keys)) if is_setting else where


def has_setting(step: Settings, keys: Sequence[str]) -> bool:
    """Whether `keys` lead to a setting of a step, or to an entry of a setting that is a mapping."""
    name, *inner_keys = keys
    if name not in type(step).__struct_fields__:
        return False
    value = getattr(step, name)
    if isinstance(value, list) and inner_keys and inner_keys[0] in map(str, range(len(value))):
        value, inner_keys = value[int(inner_keys[0])], inner_keys[1:]
    if isinstance(value, Settings) and inner_keys:
        return has_setting(value, inner_keys)
    return not inner_keys or (isinstance(value, dict) and ".".join(inner_keys) in value)


def _keys_of_place(where: str, written: Any) -> list[str]:
    """The keys that lead to what `where` names, e.g. `lora.r` or `require: sft.accuracy: …`."""
    keys: list[str] = []
    while isinstance(written, dict | list):
        if isinstance(written, list):
            written = {str(index): entry for index, entry in enumerate(written)}
        fitting = [k for k in written if where == k or where.startswith((f"{k}.", f"{k}:"))]
        if not fitting:
            break
        keys.append(max(fitting, key=len))
        written, where = written[keys[-1]], where[len(keys[-1]) + 1 :].lstrip()
    return keys


def _make_node(recipe: Recipe, plugins: StepTypes, section: str, name: str) -> Node:
    written = recipe.data[section][name]
    use = written["use"]
    cls = plugins.step_type(use)
    step = convert_step(recipe, (section, name), written, cls, plugins)
    needs = written.get("needs", [])
    for index, variable in enumerate(written.get("env", [])):
        if variable in SAME_VARIABLES:
            raise recipe.error(
                f"{variable} can't be passed to a step: it is {SAME_VARIABLES[variable]} in all "
                "of them, so that results are the same everywhere",
                (section, name, "env", index),
                fix="let a setting of the step type say what the step needs",
            )
    return Node(
        name=name,
        section=section,
        use=use,
        step=step,
        outputs={name: promise.kind for name, promise in promises_of(step).items()},
        seed=written.get("seed", derived_seed(recipe.data.get("seed", 0), use)),
        env=list(dict.fromkeys([*written.get("env", []), *step.resources().variables])),
        needs=[needs] if isinstance(needs, str) else needs,
        gpus=written.get("gpus", []),
        environment=environment_of(recipe, section, name),
        resources=Reservation.read(written.get("resources", {})),
        origin=name,
    )


def _connect(
    recipe: Recipe,
    node: Node,
    nodes: dict[str, Node],
    plugins: StepTypes,
    matrix: Expanded | None = None,
) -> Iterator[FineryError]:
    """Fill in the node's sources; yield an error for each wrong reference."""
    aliases = matrix.aliases.get(node.name, {}) if matrix else {}
    for field_name, slot in slots_of(node.step).items():
        accepts = slot.accepts
        value = getattr(slot.owner, slot.field)
        many = isinstance(value, list)
        for index, artifact in enumerate(value if many else [value] if value is not None else []):
            place = _place(recipe, node, field_name, index)
            resolved = _resolve(artifact.ref, nodes, aliases)
            if isinstance(resolved, tuple):
                source = Source(field_name, index, artifact.ref, *resolved, slot.role)
                kind = nodes[source.step].outputs[source.output]
                if duplicate := _duplicate_rows_error(node, source, kind):
                    yield recipe.error(duplicate.what, place, fix=duplicate.fix)
                elif issubclass(kind, accepts.kind):
                    node.sources.append(source)
                else:
                    yield recipe.error(
                        f"'{field_name}' of {node.use} expects {a_or_an(accepts.kind.kind)}, "
                        f"but '{artifact.ref}' is {a_or_an(kind.kind)}", place,
                        fix=_kind_fix(accepts.kind, nodes, node.name),
                    )  # fmt: skip
            else:
                outputs = {
                    node_of_origin.origin: node_of_origin.outputs
                    for node_of_origin in nodes.values()
                }
                fix = resolved.fix or reference_fix(
                    artifact.ref, field_name, accepts.kind, outputs, plugins, many=accepts.many,
                    optional=accepts.optional,
                )  # fmt: skip
                yield recipe.error(resolved.what, place, fix=fix)
    for index, name in enumerate(node.needs):
        if name not in nodes:
            section = recipe.data.get(name) if name in SECTIONS else None
            yield recipe.error(
                f"there is no step '{name}'",
                _place(recipe, node, "needs", index),
                fix=f"name steps, not a section: {', '.join(section)}"
                if isinstance(section, dict)
                else did_you_mean(
                    name, {node_of_origin.origin: None for node_of_origin in nodes.values()}
                ),
            )


def _duplicate_rows_error(node: Node, source: Source, kind: type[Artifact]) -> FineryError | None:
    """The error for an input that is given the same rows twice."""
    same_input = [s for s in node.sources if s.field == source.field]
    if not issubclass(kind, Dataset) or (source.step, source.output) not in [
        (s.step, s.output) for s in same_input
    ]:
        return None
    return FineryError(
        f"'{source.field}' has the rows of '{source.ref}' twice",
        fix="name them once; data.mix takes rows more often by `weights`, and `epochs` of a "
        "training all of them",
    )


def _place(recipe: Recipe, node: Node, key: str, index: int) -> tuple[str | int, ...]:
    """The place of one of a step's references, written alone or in a list."""
    written = part_at(recipe.data[node.section][node.name], key)
    place = (*node.place, *key.split("."))
    return (*place, index) if isinstance(written, list) else place


def _resolve(
    ref: str, nodes: dict[str, Node], aliases: Mapping[str, str]
) -> tuple[str, str] | FineryError:
    """(step, output) that a reference names, or the error. aliases: name → the variant meant."""
    name, dot, output = ref.partition(".")
    step = aliases.get(name, name)
    if step not in nodes:
        return FineryError(f"there is no step '{ref if '/' in ref else name}'")
    outputs = nodes[step].outputs
    if output in outputs and (dot or output == ""):
        return step, output
    named = [o for o in outputs if o]
    if not dot:
        return FineryError(
            f"step '{name}' has several outputs",
            fix="name one: " + ", ".join(f"{name}.{o}" for o in named),
        )
    if not named:
        return FineryError(f"step '{name}' has a single output without a name", fix=f"write {name}")
    return FineryError(f"step '{name}' has no output '{output}'", fix=did_you_mean(output, named))


def _kind_fix(kind: type[Artifact], nodes: dict[str, Node], excluded: str) -> str:
    fitting = [
        f"{node.origin}.{o}" if o else node.origin
        for n, node in nodes.items()
        for o, k in node.outputs.items()
        if issubclass(k, kind) and n != excluded
    ]
    fitting = list(dict.fromkeys(fitting))
    return (
        f"name {a_or_an(kind.kind)}: {', '.join(fitting)}"
        if fitting
        else f"add a step that outputs {a_or_an(kind.kind)}"
    )


def _sort_topologically(recipe: Recipe, nodes: dict[str, Node]) -> dict[str, Node]:
    """The nodes, each after those that it waits for. A cycle raises an error with its path."""
    ordered: dict[str, Node] = {}
    for start in nodes:
        trail = {} if start in ordered else {start: iter(nodes[start].upstream())}
        while trail:
            name = next(reversed(trail))
            step = next((n for n in trail[name] if n not in ordered), None)
            if step is None:
                del trail[name]
                ordered[name] = nodes[name]
            elif step in trail:
                names = list(trail)
                raise _cycle_error(recipe, nodes, names[names.index(step) :])
            else:
                trail[step] = iter(nodes[step].upstream())
    return ordered


def _cycle_error(recipe: Recipe, nodes: dict[str, Node], names: Sequence[str]) -> RecipeError:
    """The error for steps that wait for each other in a circle."""
    start, next_name = nodes[names[0]], names[1 % len(names)]
    places = [(s.field, s.index) for s in start.sources if s.step == next_name]
    places += [("needs", i) for i, n in enumerate(start.needs) if n == next_name]
    return recipe.error(
        f"step '{start.name}' waits for itself: {' → '.join([*names, start.name])}",
        _place(recipe, start, *places[0]),
        fix="remove one of these references",
    )
