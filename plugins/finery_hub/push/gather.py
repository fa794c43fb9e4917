"""Gathers from a recipe's graph and outputs how models were made and judged, and their rows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from finery import Dataset, Metrics, Model
from finery.advanced import Forecasts, Graph, Node, Results, Source
from finery.rows.report import Report, Score
from finery_data.overlap import overlaps
from finery_hub.card import facts as f
from finery_hub.dataset import HubDataset

if TYPE_CHECKING:
    from finery_hub.push.step import HubPush

Place = tuple[str, str]
"""(step, output)."""


def gather_push(step: "HubPush", name: str, graph: Graph, results: Results) -> f.Facts:
    """What the card of a push says. name: of the step."""
    models = {s.ref: _place(s) for s in graph.nodes[name].sources_of(Model)}
    facts = gather(name, models, graph, results, step.licenses)
    if step.recipe:
        return facts
    # Its text isn't pushed, so the facts stay the same when the recipe changes elsewhere.
    recipe, lock = f.Recipe(facts.recipe.name, facts.recipe.file, ""), f.Lock(facts.lock.file)
    return msgspec.structs.replace(facts, recipe=recipe, lock=lock)


def gather(
    name: str,
    models: Mapping[str, Place],
    graph: Graph,
    results: Results,
    licenses: Mapping[str, str],
) -> f.Facts:
    """The facts about models of a recipe, from the steps that are built.

    name: of the step that the card is for. models: name in the recipe → place.
    """
    under = list(dict.fromkeys(s for step, _ in models.values() for s in graph.models_under(step)))
    trainings = [graph.nodes[step] for step in graph.nodes if step in under]
    trainings = [node for node in trainings if node.trains or _is_baseline(node)]
    evaluations = [*_evaluations(graph, results, models)]
    tests = [graph.nodes[e.step] for e in evaluations]
    recipe = graph.recipe
    own = graph.nodes[name].place
    path = graph.recipe.path.with_suffix(".lock")
    return f.Facts(
        step=name,
        recipe=f.Recipe(
            name=recipe.name,
            file=recipe.path.name,
            text=recipe.shareable,
            redacted=recipe.shareable != recipe.text,
            overrides=[text for place, text in recipe.overrides.items() if place[:2] != own],
        ),
        lock=f.Lock(path.name, path.read_text(encoding="utf-8") if path.is_file() else ""),
        bases={ref: [*_bases(graph, results, step)] for ref, (step, _) in models.items()},
        trainings=[_training(node, results) for node in trainings],
        origins=[*_origins(graph, results, trainings, tests)],
        generated=[*_generated(graph, results, trainings)],
        dropped=[*_dropped(graph, results, trainings)],
        evaluations=evaluations,
        apart=[_apart(graph, training, test) for training in trainings for test in tests],
        licenses=dict(licenses),
    )


def _bases(graph: Graph, results: Results, step: str) -> Iterator[f.Base]:
    """The models from outside that a model is made from."""
    for node in (graph.nodes[name] for name in graph.models_under(step)):
        if not (node.base_models or node.trains or _is_baseline(node)):
            yield _base(node, results.artifact(node.name))


def _is_baseline(node: Node) -> bool:
    """Whether a model learns from rows alone."""
    return bool(getattr(node.step, "is_baseline", False))


def _base(node: Node, artifact: Any) -> f.Base:
    if artifact is None:
        return f.Base(node.name, node.use)
    meta, runtime = artifact.meta, artifact.runtime
    repo = str(meta.get("repo") or "")
    file = str(meta.get("file") or "")
    return f.Base(
        step=node.name,
        use=node.use,
        name=repo or file or str(meta.get("name") or meta.get("architecture") or ""),
        repo=repo,
        revision=str(runtime.get("revision") or "") if repo else "",
        file=file,
        license=str(meta.get("license") or ""),
    )


def _rows(ref: str, place: Place, results: Results) -> f.Rows | None:
    """Rows that are built. ref: their name in the recipe."""
    artifact = results.artifact(*place)
    if not isinstance(artifact, Dataset):
        return None
    return f.Rows(ref, len(artifact), artifact.digest)


def _name(place: Place) -> str:
    """A step's output as recipes name it."""
    return ".".join(filter(None, place))


def _training(node: Node, results: Results) -> f.Training:
    def taken(role: str) -> list[f.Rows]:
        rows = (_rows(s.ref, _place(s), results) for s in node.row_sources if s.role == role)
        return [r for r in rows if r is not None]

    return f.Training(
        step=node.name,
        use=node.use,
        learns=str(type(node.step).__spec__.learns),
        rows=taken("train"),
        validation=taken("validation"),
        meta=results.meta(node.name) or {},
    )


def _evaluations(
    graph: Graph, results: Results, models: Mapping[str, Place]
) -> Iterator[f.Evaluation]:
    """The built evaluations of at least one of the models."""
    wanted = {artifact.digest for p in models.values() if (artifact := results.artifact(*p))}
    for node in graph.nodes.values():
        metrics = results.artifact(node.name) if node.evaluates else None
        if not isinstance(metrics, Metrics):
            continue
        report = metrics.report()
        judged = [*_judged(node, report, results)]
        rows = next(iter(node.row_sources), None)
        taken = _rows(rows.ref, _place(rows), results) if rows else None
        if rows and taken and wanted.intersection(model.digest for model in judged):
            origins = _read_from(graph, (rows.step, rows.output))
            yield f.Evaluation(
                step=node.name,
                use=node.use,
                rows=taken,
                origins=[step for step, _ in origins],
                judged=judged,
                require=dict(getattr(node.step, "require", None) or {}),
                temperature=getattr(node.step, "temperature", None),
                whole=[(rows.step, rows.output)] == origins,
                tables=[table for table in report.tables if not table.is_private],
                plots=report.plots,
                remarks=report.remarks,
            )


def _judged(node: Node, report: Report, results: Results) -> Iterator[f.Judged]:
    for source in node.sources_of(Model):
        scores, artifact = report.scores.get(source.ref), results.artifact(*_place(source))
        if scores and artifact:
            named = [_score(metric, of, report) for metric, of in scores.items()]
            yield f.Judged(source.ref, artifact.digest, named)


def _score(metric: str, score: Score, report: Report) -> f.Score:
    low, high = score.interval or (None, None)
    return f.Score(metric, score.value, low, high, report.is_share(metric))


def _place(source: Source) -> Place:
    return source.step, source.output


def _ancestors(graph: Graph, start: Sequence[Place]) -> list[Place]:
    """Some rows, and all rows that they are made from, nearest first."""
    seen, stack = list[Place](), list(start)
    while stack:
        place = stack.pop(0)
        if place not in seen:
            seen.append(place)
            stack += [_place(source) for source in graph.nodes[place[0]].row_sources]
    return seen


def _read_from(graph: Graph, place: Place) -> list[Place]:
    """The origin of rows outside the recipe, or in a model alone."""
    ancestors = _ancestors(graph, [place])
    return [p for p in ancestors if not graph.nodes[p[0]].row_sources]


def _uses(trainings: Sequence[Node], tests: Sequence[Node]) -> Iterator[tuple[str, Place]]:
    """(role, rows) of each input with rows."""
    for node in trainings:
        for source in node.row_sources:
            yield ("validation" if source.role == "validation" else "training"), _place(source)
    for node in tests:
        for source in node.row_sources:
            yield "evaluation", _place(source)


def _origins(
    graph: Graph, results: Results, trainings: Sequence[Node], tests: Sequence[Node]
) -> Iterator[f.Origin]:
    roles: dict[Place, list[str]] = {}
    for role, place in _uses(trainings, tests):
        for origin in _read_from(graph, place):
            known = roles.setdefault(origin, [])
            known += [role] if role not in known else []
    for place, used in roles.items():
        node, rows = graph.nodes[place[0]], _rows(_name(place), place, results)
        if rows is not None and not node.generates:
            yield _origin(graph, node, rows, used)


def _origin(graph: Graph, node: Node, rows: f.Rows, roles: list[str]) -> f.Origin:
    step = node.step
    if isinstance(step, HubDataset):
        commit = graph.pin_of(node) or step.revision
        return f.Origin(
            node.name, node.use, step.repo, rows, roles,
            step.repo, commit, step.config or "", step.split,
        )  # fmt: skip
    return f.Origin(node.name, node.use, ", ".join(node.file_patterns), rows, roles)


def _row_steps(graph: Graph, trainings: Sequence[Node]) -> list[Place]:
    return _ancestors(graph, [place for _, place in _uses(trainings, [])])


def _generated(graph: Graph, results: Results, trainings: Sequence[Node]) -> Iterator[f.Generated]:
    """Rows for training that a model wrote."""
    places = _row_steps(graph, trainings)
    for step in dict.fromkeys(step for step, _ in places):
        node = graph.nodes[step]
        if node.generates:
            models = [_base(node, results.artifact(*_place(s))) for s in node.sources_of(Model)]
            rows = [_rows(step, place, results) for place in places if place[0] == step]
            names = [model.name for model in models if model.name]
            yield f.Generated(step, node.use, names, [r for r in rows if r is not None])


def _dropped(graph: Graph, results: Results, trainings: Sequence[Node]) -> Iterator[f.Dropped]:
    """The rows that steps left out on the way to the trainings."""
    for step, output in _row_steps(graph, trainings):
        counts = (results.meta(step, output) or {}).get("dropped")
        if counts:
            yield f.Dropped(_name((step, output)), dict(counts))


def _apart(graph: Graph, training: Node, test: Node) -> f.Apart:
    """Whether the rows of a training and an evaluation overlap."""
    learned = [source for source in training.row_sources if source.role == "train"]
    for one in learned:
        for other in test.row_sources:
            if overlap := next(_overlaps(graph, one, other), ""):
                return f.Apart(training.name, test.name, overlap=overlap)
    before, held = (
        _ancestors(graph, [_place(s) for s in rows]) for rows in (learned, test.row_sources)
    )
    by = dict.fromkeys(step for step, _ in before if _compares(graph, step, held))
    return f.Apart(training.name, test.name, by=", ".join(by))


def _overlaps(graph: Graph, learned: Source, asked: Source) -> Iterator[str]:
    """Why rows that are learned from may repeat those of an evaluation."""
    before, held = (_ancestors(graph, [_place(source)]) for source in (learned, asked))
    if _place(asked) == _place(learned):
        yield f"both take {asked.ref}"
    elif _place(asked) in before:
        yield f"{learned.ref} is made from {asked.ref}"
    elif _place(learned) in held:
        yield f"{asked.ref} is made from {learned.ref}"
    else:
        yield from (why for why, _ in overlaps(graph, learned, asked))
    files, others = (
        {pattern for step, _ in places for pattern in graph.nodes[step].file_patterns}
        for places in (before, held)
    )
    steps = {step for step, _ in before} & {step for step, _ in held}
    if not steps and files & others:
        yield f"both are read from {', '.join(sorted(files & others))}"


def _compares(graph: Graph, step: str, held: Sequence[Place]) -> bool:
    """Whether a step drops rows that repeat those of `held`."""
    node = graph.nodes[step]
    if any(_place(s) in held for s in node.sources if s.role == "compare"):
        return True
    return Forecasts(graph).forecast(node).keeps_apart and step in [s for s, _ in held]
