"""What to ship: of the models that pass the gates, the smallest that isn't shown to be worse.

Input: the judged models, and the gates that fail. Output: the sentence that a report, the end of a
build and Markdown begin with. It names no model that fails a requirement, that is shown to be worse
than another one that passes, or that isn't shown to be better than the untrained base.

The p-values of the differences to the best model are adjusted for their number (Holm 1979). "Not
shown to be worse" means little with few rows, so the interval of the difference counts, too: a
smaller model is shipped if it lost no more than a margin on these rows, and can't lose more than
`MOST` times that. The margin is that of `require` (`not worse than`), else `SMALL`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from finery import Artifact, Bundle, Model
from finery.advanced import Graph, Node, quantity, size
from finery.views import Context, Verdict
from finery_eval.claims import Claim
from finery_eval.evaluator import Gate
from finery_eval.stats import LEVEL, holm
from finery_eval.steps.curve import CURVE
from finery_eval.steps.speed import P50
from finery_eval.tables import BETTER, WORSE, verdict_of
from finery_eval.view.findings import RETENTION, SMALL, cut_off_in_words, data_problems
from finery_eval.view.judgements import Comparison, Judgement, best_first, compared, first_test

MOST = 4
ALIKE = 1.1
"""Models whose sizes differ by less are equally small, so the faster one is shipped."""
LEARNED = ("train", "examples", "")
"""Roles of rows that a model has learned from."""
NOT_YET = "don't ship yet: "
Tests = Mapping[str, Comparison]
"""Model → its difference to the best one."""


class Candidate(NamedTuple):
    """A model that could be shipped. judged: by the evaluator that decides.

    elsewhere: by others. size: of all files that it needs, in bytes; infinite if it has none here.
    seconds: until a median answer, infinite if not measured. unmet: a requirement about it that
    isn't met, in words. met: the steps with a requirement that it meets.
    """

    judged: Judgement
    elsewhere: Sequence[Judgement] = ()
    size: float = math.inf
    seconds: float = math.inf
    unmet: str = ""
    met: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Its name in the recipe."""
        return self.judged.model

    def cost(self) -> list[str]:
        """Its size and speed in words."""
        words = [] if math.isinf(self.size) else [size(int(self.size))]
        if math.isfinite(self.seconds):
            words.append(f"{quantity(self.seconds, 'seconds')} an answer")
        return words


class Choice(NamedTuple):
    """What to ship; None for nothing yet. why: in words. reservations: what to know besides."""

    ship: Candidate | None
    why: str
    reservations: Sequence[str] = ()


# -- the choice ------------------------------------------------------------------------------------


def choose(
    candidates: Sequence[Candidate], bases: Sequence[Judgement], margin: float | None
) -> Choice:
    """What to ship of some candidates.

    bases: the models that training began with, which a candidate must beat. margin: the loss that
    counts as none, None if only equal scores do.
    """
    unmet = next((each.unmet for each in candidates if each.unmet), "")
    # Where one fails, nothing is known of models that nothing is required of.
    passing = [each for each in candidates if not each.unmet and (each.met or not unmet)]
    if not passing:
        return Choice(None, f"a requirement isn't met: {unmet}")
    trained = [each for each in passing if each.judged.role in ("tuned", "shipped")]
    for each in (each.judged for each in trained or passing):
        if each.cut_off > SMALL * len(each.answers):
            return Choice(None, f"{cut_off_in_words(each)} were cut off at max_tokens")
    names = [each.model for each in best_first(each.judged for each in passing)]
    ranked = sorted(passing, key=lambda each: names.index(each.name))
    best, *others = ranked
    beating = [each for each in ranked if _beats(each, bases)]
    if not beating:
        return Choice(None, _not_beaten(best, bases))
    if not bases and not others and not best.met:
        why = f"nothing says whether {best.judged.in_words()} of {best.name} is good enough: judge"
        return Choice(None, f"{why} the base or a cheap baseline, too, or add `require`")
    tests = _tests(best, others)
    as_good = [e for e in beating if e is best or _is_as_good(tests.get(e.name), margin)]
    objections = {each.name: _objection(each, passing) for each in as_good}
    fitting = [each for each in as_good if not objections[each.name]]
    if not fitting:
        first = as_good[0] if as_good else best
        return Choice(None, objections.get(first.name) or _not_beaten(best, bases))
    small = [e for e in fitting if e.size <= ALIKE * min(each.size for each in fitting)]
    ship = min(small, key=lambda each: each.seconds)  # of equally fast ones, the best
    faster = [each for each in fitting if each.seconds < ship.seconds / 2 < math.inf]
    return Choice(
        ship,
        ", ".join([_score(ship), _standing(ship, ranked, tests, bases), *ship.cost()]),
        [
            *_reservations(ship, ranked, tests, margin),
            *(f"{each.name} is faster ({', '.join(each.cost())})" for each in faster[:1]),
            *(f"{each.name} doesn't meet its requirements" for each in candidates if each.unmet),
        ],
    )


def _tests(best: Candidate, others: Sequence[Candidate]) -> Tests:
    """The differences to the best model, with p-values adjusted for their number."""
    tests = {each.name: first_test(best.judged, each.judged) for each in others}
    comparable = {name: test for name, test in tests.items() if test is not None}
    adjusted = holm([test.difference.p_value for test in comparable.values()])
    return {
        name: test._replace(p_holm=p_value, verdict=verdict_of(test.gains[0], p_value))
        for (name, test), p_value in zip(comparable.items(), adjusted, strict=True)
    }


def _beats(candidate: Candidate, bases: Sequence[Judgement]) -> bool:
    tests = (first_test(base, candidate.judged) for base in bases)
    return all(test.verdict == BETTER for test in tests if test is not None)


def _is_as_good(test: Comparison | None, margin: float | None) -> bool:
    """Whether a model that isn't the best one may be shipped in its place.

    Its p-value isn't adjusted, since that would make it easier to ship a worse model.
    """
    if test is None:
        return False
    gain, worst, most = test.gains
    if gain >= 0 or margin is None:
        return gain >= 0
    is_worse = test.difference.p_value < LEVEL or most < 0
    return not is_worse and -gain <= margin and -worst <= MOST * margin


def _objection(candidate: Candidate, passing: Sequence[Candidate]) -> str:
    """By which other evaluator a model is worse than another one; empty if by none.

    A requirement that it meets there says that it is good enough.
    """
    tests = [
        (mine, rival, test)
        for mine in candidate.elsewhere
        for rival in passing
        for theirs in rival.elsewhere
        if rival.name != candidate.name and theirs.step == mine.step
        if (test := first_test(theirs, mine)) is not None
    ]
    adjusted = holm([test.difference.p_value for *_, test in tests])
    for (mine, rival, test), p_value in zip(tests, adjusted, strict=True):
        if test.gains[0] < 0 and p_value < LEVEL and mine.step not in candidate.met:
            first, second, name = candidate.judged.step, mine.step, candidate.name
            points = test.in_words(with_p=False)
            return (
                f"{first} and {second} disagree: {name} is to be shipped by {first}, but by "
                f"{second} it is worse than {rival.name}: {points}; say with `require` in {second} "
                "what is good enough"
            )
    return ""


# -- words -----------------------------------------------------------------------------------------


def _score(candidate: Candidate) -> str:
    return f"{candidate.judged.in_words()} {candidate.judged.metric}"


def _standing(
    ship: Candidate, ranked: Sequence[Candidate], tests: Tests, bases: Sequence[Judgement]
) -> str:
    """How a model compares with the best one, or the best one with the next or the base."""
    best, *others = ranked
    if ship is not best:
        return _no_difference(best, tests[ship.name])
    for rival in (each for each in others if each.name in tests):
        test = first_test(rival.judged, ship.judged)
        if test is None or _is_undecided(rival, ship, tests):
            return f"the best of {len(ranked)} models"
        if tests[rival.name].verdict == WORSE:
            return f"better than {rival.name}: {test.in_words(with_p=False)}"
        return _no_difference(rival, test)
    for base in best_first(bases):
        if (test := first_test(base, ship.judged)) is not None:
            return f"better than {base.model}: {test.in_words(with_p=False)}"
    report, metric = ship.judged.report, ship.judged.metric
    interval = report.scores[ship.name][metric].interval
    if interval is None or not report.is_share(metric):
        return f"the only model, on {report.rows:,} rows"
    low, high = (f"{100 * end:.1f}" for end in interval)
    return f"the only model (95 % CI {low} – {high}, {report.rows:,} rows)"


def _no_difference(rival: Candidate, test: Comparison) -> str:
    *_, interval = test.in_words(with_p=False).partition(" (")
    return f"no difference to {rival.name} can be shown ({interval}"


def _reservations(
    ship: Candidate, ranked: Sequence[Candidate], tests: Tests, margin: float | None
) -> Iterator[str]:
    """What a model may lose against another one, and smaller ones that may be as good."""
    test = tests.get(ship.name)
    if ship is ranked[0] and len(ranked) > 1 and not _is_undecided(ranked[1], ship, tests):
        test = tests.get(ranked[1].name)
    if test is not None:
        loss = -test.gains[1] if ship is not ranked[0] else test.gains[2]
        if loss > (margin or 0.0):
            lost = f"{100 * loss:.1f} points" if test.is_share else quantity(loss)
            yield f"{test.rows:,} rows can't rule out a loss of {lost}"
    if ship is not ranked[0]:
        worse = [t for t in compared(ranked[0].judged, ship.judged) if t.verdict == WORSE]
        yield from (f"worse in {t.metric}: {t.in_words(with_p=False)}" for t in worse)
    for each in ranked:
        if _is_undecided(each, ship, tests):
            test, name = tests[each.name], f"{each.name} ({', '.join(each.cost())})"
            rows = f"{test.rows:,} test rows are too few to tell whether {name} is as good"
            yield f"{rows}: {test.in_words(with_p=False)}"
            return


def _is_undecided(candidate: Candidate, ship: Candidate, tests: Tests) -> bool:
    """Whether a smaller model than the one to ship isn't shown to be worse than the best one."""
    test, is_smaller = tests.get(candidate.name), candidate.size * ALIKE < ship.size
    return test is not None and is_smaller and test.gains[0] < 0 and test.verdict != WORSE


def _not_beaten(best: Candidate, bases: Sequence[Judgement]) -> str:
    """Why the best model isn't better than one of the bases."""
    tests = ((base, first_test(base, best.judged)) for base in best_first(bases))
    base, test = next((b, t) for b, t in tests if t is not None and t.verdict != BETTER)
    scores = f"{_score(best)}, and {base.model} {base.in_words()}: {test.in_words()}"
    if test.gains[0] > 0:
        rows = f"{test.rows:,} test rows"
        return f"{rows} are too few to tell whether {best.name} beats {base.model}: {scores}"
    return f"nothing beats {base.model}: the best model, {best.name}, has {scores}"


# -- the candidates of a build ---------------------------------------------------------------------


def verdict_on(judged: Sequence[Judgement], context: Context) -> Verdict | None:
    """What to ship of what a build judged, in a sentence; None if it judged no model's answers."""
    graph = context.graph
    places = {name: place for place, name in enumerate(graph.nodes)}
    ordered = sorted(judged, key=lambda each: places.get(each.step, 0))
    task = [each for each in ordered if _is_of_task(each, graph)]
    if not task:
        return None
    gates = _gates_of(context)
    trained = {
        name for n in graph.nodes.values() if n.trains for name in graph.models_under(n.name)
    }
    bases = [j for j in task if j.role == "base" and not j.source and j.model in trained]
    candidates = _candidates([each for each in task if each not in bases], ordered, context, gates)
    problems = [text for _, text, _ in data_problems(graph, context.built)]
    if gates.stops:
        choice = Choice(None, f"a requirement isn't met: {gates.stops[0]}")
    elif leaked := [each for each in candidates if _has_learned_from_test(each.judged, graph)]:
        name, step = leaked[0].name, leaked[0].judged.step
        choice = Choice(None, f"{name} has learned from the rows that {step} judges it by")
    elif not candidates:
        choice = Choice(None, f"only {bases[0].model}, from which training begins, was judged")
    else:
        first = candidates[0].judged.step
        bases = [base for base in bases if base.step == first]
        choice = choose(candidates, bases, _margin(candidates[0].judged, graph))
    if choice.ship is None:
        return Verdict("; first of all: ".join([f"{NOT_YET}{choice.why}", *problems[:1]]), "bad")
    node = _node_of(choice.ship.name, graph)
    is_own_choice = graph.select_by and graph.select_by.own_rows and node and node.chosen_by
    own = ["it was chosen by these rows, so its score is too high"] if is_own_choice else []
    reservations = [*choice.reservations, *own, *problems[:1]]
    text = "; ".join([f"ship {choice.ship.name}: {choice.why}", *reservations])
    return Verdict(text, "open" if reservations else "good", choice.ship.name)


def _is_of_task(judged: Judgement, graph: Graph) -> bool:
    """Whether it is about the answers of a model that could be shipped."""
    node = _node_of(judged.model, graph)
    is_model = node is not None and any(
        issubclass(kind, Model | Bundle) for kind in node.outputs.values()
    )
    is_other = judged.is_timed or judged.use.endswith(RETENTION) or CURVE in judged.report.extra
    return is_model and not is_other and judged.role not in ("variant", "reference")


def _node_of(model: str, graph: Graph) -> Node | None:
    return graph.nodes.get(model) or graph.nodes.get(model.partition(".")[0])


class _Gates(NamedTuple):
    """The requirements of a build. stops: those that aren't met and concern all models, in words.

    unmet: model → of the others, those about it. met: model → the steps with one that it meets.
    """

    stops: Sequence[str]
    unmet: Mapping[str, Sequence[str]]
    met: Mapping[str, frozenset[str]]


def _gates_of(context: Context) -> _Gates:
    """A requirement concerns all models if it names none, or if other steps wait for its step."""
    nodes, stops = context.graph.nodes, list[str]()
    unmet, met = dict[str, list[str]](), dict[str, frozenset[str]]()
    for name, node in nodes.items():
        error = (context.gates or {}).get(name)
        lines = list(error.details) or [error.what] if error else []
        lines = [". ".join(line.split(". ")[:2]) for line in lines]  # also by how much it may fail
        required = node.step.requirements() if isinstance(node.step, Gate) else []
        failing = {line: _subject(line, [r.subject for r in required]) for line in lines}
        is_awaited = any(name in other.upstream() for other in nodes.values())
        if error and (node.variant or is_awaited or not any(failing.values())):
            stops.append(lines[0])
        for line, model in failing.items():
            unmet.setdefault(model, []).append(line)
        for model in {r.subject[0] for r in required} - {*failing.values()}:
            met[model] = met.get(model, frozenset()) | {name}
    return _Gates(stops, unmet, met)


def _subject(line: str, subjects: Sequence[tuple[str, str]]) -> str:
    """The model that a line about an unmet requirement begins with; empty if there is none."""
    named = [s for s in subjects if line.startswith(f"{'.'.join(s)} ")]
    return max(named, key=lambda subject: len(".".join(subject)), default=("", ""))[0]


def _candidates(
    task: Sequence[Judgement], judged: Sequence[Judgement], context: Context, gates: _Gates
) -> list[Candidate]:
    """The models that can be compared with those of the first step, which decides.

    Of a file, the answers of its server decide, where they were judged. A model that was exported
    isn't shipped itself, but its file, which has to meet the model's requirements, too.
    """
    runs: dict[str, list[Judgement]] = {}
    for each in task:
        runs.setdefault(each.model, []).append(each)
    first = [each for each in task if each.step == task[0].step]
    seconds = {e.model: e.report.scores[e.model][P50].value for e in judged if e.is_timed}
    candidates = []
    for model, own in runs.items():
        by_server_first = sorted(
            own, key=lambda j: (not j.report.references, j.step != task[0].step)
        )
        # There is a test of it with those of the first step, or it is one of these.
        deciding = next(
            (j for j in by_server_first
             if j.step == task[0].step
             or any(first_test(each, j) for each in first if each.model != model)),
            None,
        )  # fmt: skip
        if deciding is not None:
            elsewhere = [j for j in own if j.step not in (deciding.step, task[0].step)]
            origin = deciding.source if deciding.role == "shipped" else model
            unmet = next((e for m in (model, origin) for e in gates.unmet.get(m, ())), "")
            met = gates.met.get(model, frozenset()) | gates.met.get(origin, frozenset())
            total = _size_of(context.built(model))
            candidates.append(
                Candidate(deciding, elsewhere, total, seconds.get(model, math.inf), unmet, met)
            )
    files = [each.judged for each in candidates if each.judged.role == "shipped"]
    exported = {file.source for file in files if file.model != file.source}
    return [each for each in candidates if each.name not in exported]


def _has_learned_from_test(judged: Judgement, graph: Graph) -> bool:
    """Whether the rows that a model was made with are those that judge it, without a split."""
    judging = {(source.step, source.output) for source in graph.nodes[judged.step].row_sources}
    node = _node_of(judged.model, graph)
    makers = (graph.nodes[name] for name in graph.models_under(node.name if node else ""))
    return any(
        (source.step, source.output) in judging and source.role in LEARNED
        for maker in makers
        for source in maker.row_sources
    )


def _size_of(artifact: Artifact | None) -> float:
    """Bytes of all files that a model needs, e.g. those of an adapter's base."""
    if artifact is None or artifact.manifest is None or "api" in artifact.formats:
        return math.inf
    manifests = [artifact.manifest]
    for manifest in manifests:  # grows
        manifests += manifest.refs.values()
    outside = {m.digest: sum(count for _, count, _ in m.external.values()) for m in manifests}
    needed = sum({m.digest: m.size() + outside[m.digest] for m in manifests}.values())
    return needed or artifact.meta.get("size") or math.inf


def _margin(judged: Judgement, graph: Graph) -> float | None:
    """The smallest loss that a requirement allows in the metric that decides, or the usual one."""
    margins = [
        required.margin
        for node in graph.nodes.values()
        if isinstance(node.step, Gate)
        for required in node.step.requirements()
        if isinstance(required, Claim) and required.margin and required.subject[1] == judged.metric
    ]
    return min(margins, default=SMALL if judged.report.is_share(judged.metric) else None)
