"""A report's findings about the judged models: their paired tests, and their answers.

Input: `Metrics` and the graph. Output: the tests of a page, and answers to readers' first
questions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from finery import Graph, Metrics, Model
from finery.util.text import counted, in_points, percent, range_in_points
from finery.views import Finding, Output
from finery_eval import stats
from finery_eval.claims import rows_of
from finery_eval.measure import between
from finery_eval.planning import training_of
from finery_eval.predictions import Facts, by_model, measure_between, paired
from finery_eval.stats import Difference
from finery_eval.tables import BETTER, NOT_SHOWN, WORSE, Against, against
from finery_eval.view.tables import Report, headline, p_text

Role = Literal["baseline", "base", "tuned", "shipped", "variant"]
ORDER: Mapping[str, int] = {"baseline": 0, "base": 0, "variant": 0, "tuned": 1, "shipped": 2}
BEST = "Which model is best?"
RANKED = 5
"""Models that a ranking names."""
CHOSEN = "Which variant is best?"
BEATS = "Is the trained model better than a cheap baseline?"
NEEDED = "Was fine-tuning needed?"
AS_GOOD = "Is the shipped file as good as the trained model?"
FORGOTTEN = "Did the model forget what it could do before?"
SMALL = 0.05
"""A possible loss of at most 5 points counts as none; the page says how large it may be."""
RETENTION = ".retention"
"""Suffixes of the step types that measure abilities outside the training's task."""


WORDS = {BETTER: "better in", WORSE: "worse in", NOT_SHOWN: "no difference shown in"}
Tone = Literal["good", "bad", "open"]


class Judgement(NamedTuple):
    """A model as one step judged it. source: of a shipped one, the step that trained it."""

    model: str
    role: Role
    source: str
    step: str
    use: str
    report: Report
    answers: Sequence[Facts]

    @property
    def metric(self) -> str:
        """The first metric."""
        return next(iter(headline(self.report)), "")

    @property
    def score(self) -> float | None:
        """The first metric's value, None if it applies to no row."""
        value = self.report["scores"][self.model].get(self.metric)
        return None if value is None else float(value)


def judgements(outputs: Sequence[Output], graph: Graph) -> list[Judgement]:
    """Every model as each step judged it, in order."""
    judged = []
    for output in outputs:
        assert isinstance(output.artifact, Metrics)
        report = output.artifact.report()
        answers = by_model(output.artifact.predictions())
        node = graph.nodes.get(output.step)
        use = node.use if node else ""
        named = {source.ref: source.step for source in node.sources_of(Model)} if node else {}
        for model in report["scores"]:
            role, source = _role_of(named.get(model, model), graph)
            if model in report["details"].get("baselines", ()):
                role = "baseline"
            if "chosen" in report["details"]:  # a step that ranks variants of a model
                role = "variant"
            of = answers.get(model, [])
            judged.append(Judgement(model, role, source, output.step, use, report, of))
    return judged


def _role_of(model: str, graph: Graph) -> tuple[Role, str]:
    """(role, the step that trained it, if one did). model: a step, which may be a variant."""
    node = graph.nodes.get(model) or graph.nodes.get(model.partition(".")[0])
    trained = training_of(graph, node) if node is not None else None
    if node is None or trained is None:
        return "base", ""
    source = trained.origin if trained.variant else trained.name
    return ("tuned" if node.trains else "shipped"), source


# -- answers ---------------------------------------------------------------------------------------


def findings(judged: Sequence[Judgement], *, has_training: bool = True) -> Iterator[Finding]:
    """An answer to each question; what wasn't measured is said to be so.

    has_training: whether the recipe trains a model. If it doesn't, the questions are others.
    """
    variants = [each for each in judged if each.role == "variant"]
    task = [e for e in judged if e not in variants and not e.use.endswith(RETENTION)]
    if variants and len(variants) == len(judged):
        details = variants[0].report["details"]
        ends = (details["margin"] or {}).get("interval")
        tone: Tone = "good" if ends and (ends[0] > 0 or ends[1] < 0) else "open"
        yield Finding(CHOSEN, ". ".join([*details["words"], ""]).strip(), tone, 0)
        return
    if not has_training:
        yield from _rankings(task)
        return
    yield _needed(task)
    yield from _beats(task)
    yield from _as_good(task)
    yield _forgotten([each for each in judged if each.use.endswith(RETENTION)])


def _rankings(judged: Sequence[Judgement]) -> Iterator[Finding]:
    """The models that each step judged, best first, and whether the best is shown to be."""
    steps = list(dict.fromkeys(each.step for each in judged))
    for step in steps:
        best, *others = models = _best_first(each for each in judged if each.step == step)
        question = BEST if len(steps) == 1 else f"{BEST.removesuffix('?')} by {step}?"
        named = ((each.model, each.score) for each in models[:RANKED])
        scores = ", ".join(f"{name} {percent(score)}" for name, score in named if score is not None)
        more = f", and {len(models) - RANKED} more" if len(models) > RANKED else ""
        rows = rows_of(best.report, best.model, best.metric)
        text = f"{best.metric} on {counted(rows, 'row')}: {scores}{more}."
        comparison = compared(others[0], best) if others else None
        if comparison is None:
            yield Finding(question, text, "open", 1)
            continue
        _, test = comparison
        ahead = f"{best.model} against {others[0].model}: {_points(test)}"
        if test.interval[0] > 0:
            yield Finding(question, f"{best.model}. {text} {ahead}.", "good", 1)
        else:
            yield Finding(question, f"Too close to call. {text} {ahead}.", "open", 1)


def _needed(judged: Sequence[Judgement]) -> Finding:
    """Whether the best trained model is better than the best untrained one, on the same rows."""
    pairs = (
        (base, tuned, found)
        for tuned in _best_first(each for each in judged if each.role == "tuned")
        for base in _best_first(each for each in judged if each.role == "base")
        if (found := compared(base, tuned)) is not None
    )
    best = next(pairs, None)
    if best is None:
        what = "a trained model" if any(j.role == "base" for j in judged) else "an untrained model"
        text = f"Not measured: no evaluator judged {what} on the same rows."
        return Finding(NEEDED, text, "open", 1)
    text, (low, high) = _scores(*best), best[2][1].interval
    if low > 0:
        return Finding(NEEDED, f"Yes. {text}.", "good", 1)
    if high < 0:
        return Finding(NEEDED, f"No, the training made it worse. {text}.", "bad", 1)
    return Finding(NEEDED, f"Not shown. {text}, which may be chance.", "open", 1)


def _beats(judged: Sequence[Judgement]) -> Iterator[Finding]:
    """What the trained model does better and worse than the best cheap baseline, by metric."""
    for baseline in _best_first(each for each in judged if each.role == "baseline"):
        for model in _best_first(each for each in judged if each.role == "tuned"):
            report = baseline.report
            found = against(report["details"], headline(report), model.model, baseline.model)
            if model.step == baseline.step and found:
                yield _against(model, baseline, found)
                return


def _against(model: Judgement, baseline: Judgement, found: Sequence[Against]) -> Finding:
    parts = []
    for verdict, words in WORDS.items():
        of = [f"{m} ({in_points(d.value)})" for m, d, _, each in found if each == verdict]
        parts += [f"{words} {', '.join(of)}"] if of else []
    every = {each.verdict for each in found}
    tone: Tone = "bad" if WORSE in every else "good" if every == {BETTER} else "open"
    answer = {"bad": "Not in everything", "good": "Yes", "open": "Not shown in everything"}[tone]
    text = f"{answer}. {model.model} against {baseline.model}, in points: {'; '.join(parts)}."
    return Finding(BEATS, f"{text} p-values adjusted by Holm's method.", tone, 1)


def _as_good(judged: Sequence[Judgement]) -> Iterator[Finding]:
    shipped = {j.model: j for j in judged if j.role == "shipped"}
    if not shipped:
        yield Finding(AS_GOOD, "Not measured: no evaluator judged an exported file.", "open", 2)
    for model, one in shipped.items():
        question = AS_GOOD if len(shipped) == 1 else f"Is {model} as good as {one.source}?"
        pairs = (
            (trained, each, found)
            for each in judged
            for trained in judged
            if each.model == model and trained.model == one.source
            if (found := compared(trained, each)) is not None
        )
        best = next(pairs, None)
        if best is None:
            text = f"Not measured: {one.source} wasn't judged on the rows of {model}."
            yield Finding(question, text, "open", 2)
        else:
            yield Finding(question, *_kept(_scores(*best), *best[2][1].interval), 2)


def _kept(scores: str, low: float, high: float) -> tuple[str, Tone]:
    """What the interval of a difference says of a shipped file: better, worse, or how much worse
    it may be without this showing."""
    loss = max(0.0, -low)
    if high < 0:
        return f"No. {scores}.", "bad"
    if low > 0:
        return f"Yes, it is better. {scores}.", "good"
    if loss > SMALL:
        text = f"No loss is shown, but one of up to {100 * loss:.1f} points can't be ruled out"
        return f"{text}: too few rows. {scores}.", "open"
    return f"{f'Yes, within {100 * loss:.1f} points' if loss else 'Yes'}. {scores}.", "good"


def _forgotten(judged: Sequence[Judgement]) -> Finding:
    """What the step itself says about the trained models and the untrained ones."""
    roles = {each.model: each.role for each in judged}
    reports = {each.step: each.report for each in judged}.values()
    pairs = [
        (pair["model"], pair["baseline"], metric, facts)
        for report in reports
        for pair in report["details"].get("pairs", [])
        if (roles.get(pair["baseline"]), roles.get(pair["model"])) == ("base", "tuned")
        for metric, facts in pair["metrics"].items()
    ]
    if not pairs:
        text = "Not measured: no step tests abilities that the training isn't about."
        return Finding(FORGOTTEN, text, "open", 3)
    remarks = [remark for report in reports for remark in report["details"].get("remarks", [])]
    lost = [remark["text"] for remark in remarks if remark.get("verdict") == "lost"]
    if lost:
        return Finding(FORGOTTEN, f"Yes: {'; '.join(lost)}.", "bad", 3)
    if remarks:
        texts = "; ".join(remark["text"] for remark in remarks)
        return Finding(FORGOTTEN, f"Unclear: {texts}.", "open", 3)
    words = (
        f"{model} against {base}, {metric.replace('_', ' ')} {in_points(facts['difference'])} "
        f"points (95 % CI {range_in_points(facts['interval'])})"
        for model, base, metric, facts in pairs
    )
    return Finding(FORGOTTEN, f"No loss above the margin: {'; '.join(words)}.", "good", 3)


def compared(first: Judgement, second: Judgement) -> tuple[int, Difference] | None:
    """(rows, test) of two models by the same metric on the same rows; None if there are none.

    Of models that one evaluation judged, the test is its own. Of others, it is that of their
    answers to the same rows; None for a metric whose values the predictions don't have.
    """
    if first.metric != second.metric or first.use != second.use:
        return None
    pairs = paired(first.answers, second.answers).pairs
    measure = measure_between(pairs, second.metric, second.report)
    if first.step == second.step:
        known = between(first.report["details"].get("pairs", ()), second.model, first.model)
        if second.metric in known:
            rows = first.report["rows"] if measure is None else len(pairs)
            return known[second.metric].rows or rows, known[second.metric]
    test = measure.difference("first", "second") if measure is not None else None
    return None if test is None else (test.rows or len(pairs), test)


def _best_first(judged: Iterable[Judgement]) -> list[Judgement]:
    return sorted(judged, key=lambda j: -1.0 if j.score is None else j.score, reverse=True)


def _scores(first: Judgement, second: Judgement, compared: tuple[int, Difference]) -> str:
    parts = [f"{each.model} {percent(each.score or 0.0)}" for each in (first, second)]
    rows, test = compared
    text = f"On {counted(rows, 'answer')}, {second.metric}: {', '.join(parts)}"
    return f"{text}: {_points(test)}"


def _points(test: Difference) -> str:
    p_value = p_text(test.p_value)
    p_value = f"p {p_value}" if p_value.startswith("<") else f"p = {p_value}"
    return f"{in_points(test.value)} points (95 % CI {range_in_points(test.interval)}, {p_value})"


# -- paired tests ----------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """A difference in a metric, second minus first model. p_holm: adjusted for all of the page."""

    models: str
    metric: str
    rows: int
    difference: Difference
    p_holm: float = 1.0


def comparisons_of(judged: Sequence[Judgement]) -> list[Comparison]:
    """The tests of each step from cheap or untrained to tuned to shipped, with adjusted p-values.

    Of models that one evaluation judged, all its metrics, also those that aren't shares. Of models
    in several evaluations the first metric, on the rows that both answered.
    """
    found: dict[tuple[str, str], Comparison] = {}
    pairs = [(a, b) for a in judged for b in judged if _is_step(a, b)]
    pairs.sort(key=lambda pair: pair[0].step != pair[1].step)  # within an evaluation first
    for first, second in pairs:
        for test in _of_pair(first, second):
            found.setdefault((test.models, test.metric), test)
    adjusted = stats.holm([test.difference.p_value for test in found.values()])
    return [test._replace(p_holm=p) for test, p in zip(found.values(), adjusted, strict=True)]


def _is_step(first: Judgement, second: Judgement) -> bool:
    if ORDER[second.role] <= ORDER[first.role]:
        return False
    return not (second.role == "shipped" and first.role == "tuned" and second.source != first.model)


def _of_pair(first: Judgement, second: Judgement) -> Iterator[Comparison]:
    models = f"{first.model} → {second.model}"
    if first.step == second.step:
        known = between(first.report["details"].get("pairs", ()), second.model, first.model)
        for metric in (m for m in headline(first.report) if m in known):
            yield Comparison(models, metric, known[metric].rows or first.report["rows"],
                             known[metric])  # fmt: skip
        if known:
            return
    found = compared(first, second)
    if found is not None:
        yield Comparison(models, second.metric, *found)
